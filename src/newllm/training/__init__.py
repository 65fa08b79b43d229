"""Training of stacks of rows, each with a seed and a recipe of its own, and the weights that it leaves."""
