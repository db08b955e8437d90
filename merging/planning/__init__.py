"""Planning: the operation for each tensor of a merge, decided from headers and the recipe before any arithmetic."""
