"""Publishing: what an export tells of itself, and its way to the hub."""
