"""What is measured on trained models: figures over seeds, diagnoses, samples of text."""
