"""Drafts: completions of earlier models, kept by prompt, and guesses made from them."""
