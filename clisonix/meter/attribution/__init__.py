"""Which part of a model used how much."""
