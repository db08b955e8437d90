"""Speculative generation on a live transformers model: many requests per forward pass."""
