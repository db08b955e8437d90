"""The definition of a search: its config, the ranges in its recipe, and the space that they span."""
