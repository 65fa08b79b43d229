"""New-LLM: a language model with a recurrent context vector, and the study of its depth."""
