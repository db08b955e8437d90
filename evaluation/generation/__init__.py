"""Generation: prompts in, completions out."""
