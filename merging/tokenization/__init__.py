"""Tokenization: whose tokenizer and vocabulary a merge has, and how embeddings are rearranged to it."""
