"""New-LLM: its definition, and the fast computation of the same function."""
