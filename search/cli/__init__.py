"""The command line. Heavy imports stay inside the commands, so that help and mistakes wait for nothing."""

from search.cli.commands import main

__all__ = ["main"]
