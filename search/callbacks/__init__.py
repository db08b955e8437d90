"""Callbacks: what is told of a search while it runs, such as MLflow and Weights & Biases."""
