"""Planning: what is done for each tensor of a merge, decided from headers and the recipe before any arithmetic."""
