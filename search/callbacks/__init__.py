"""Callbacks, which follow a search while it runs, such as MLflow and Weights & Biases."""
