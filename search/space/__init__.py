"""What a search is of: its config, the ranges in its recipe, and the space that these span."""
