"""Serving: pages of a search on this machine, while it runs."""
