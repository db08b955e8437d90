"""Recipes: mergekit's YAML, read strictly, and what it asks of a method."""
