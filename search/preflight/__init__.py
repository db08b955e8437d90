"""The preflight: what is checked before a night, each check a function that yields findings."""
