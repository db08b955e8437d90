"""The command line. Heavy imports stay inside the commands, so that help and usage errors appear at once."""

from search.cli.commands import main

__all__ = ["main"]
