"""Training of stacked seeds, and what is measured on the trained models."""
