"""A run: one worker that claims jobs of a search, merges and scores their models, and records the results."""
