"""Statistics: what depends on the parents alone, computed at most once and kept, in memory and on disk."""
