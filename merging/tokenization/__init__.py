"""Tokenization: the tokenizer and vocabulary of a merge, and how embeddings are rearranged to it."""
