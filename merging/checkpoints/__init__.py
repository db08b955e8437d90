"""Checkpoints: models on disk, and the tensors that a merge sees in them."""
