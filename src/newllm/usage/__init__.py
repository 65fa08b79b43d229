"""What trained models are good for: texts, the perplexity of any text, export to other tools; the command newllm."""
