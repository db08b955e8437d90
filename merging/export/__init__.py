"""Export: a merge as a folder that `from_pretrained` reads."""
