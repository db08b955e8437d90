"""Statistics: what depends only on the parents, computed at most once and kept, in memory and on disk."""
