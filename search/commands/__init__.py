"""The commands, the options that they share, and what they print; heavy imports stay inside the commands."""
