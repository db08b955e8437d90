"""The command line. An error that the user must act on is one line, and the exit code is 2."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import click

from search.cli import examples, exporting, folders, migration, models, preflighting, reporting, searches
from search.signals import stopped_by_signals
from search.startup import secure_streams, speak_utf8

# Errors of a stdout that cannot be written; if a pipe's reader is gone, click ends quietly.
_UNWRITTEN = (errno.ENOSPC, errno.EIO, errno.EBADF)


class _Commands(click.Group):
    """Prints errors that the user can act on as one line; bugs keep their traceback."""

    def main(self, *words: Any, **options: Any) -> Any:
        speak_utf8()
        secure_streams()
        with stopped_by_signals():
            try:
                return super().main(*words, **options)
            except OSError as error:
                if error.errno not in _UNWRITTEN or error.filename is not None:
                    raise
                # This is an error of stdout: those of files name the file.
                click.echo(f"merge-search: the output cannot be written: {error.strerror}", err=True)
                # Otherwise Python would fail again when it flushes stdout at its end.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(2)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if not _is_for_people(error):
                raise
            click.echo(f"merge-search: {error}", err=True)
            ctx.exit(2)


def _is_for_people(error: Exception) -> bool:
    from evaluation.errors import EvaluationError
    from evaluation.sandbox.errors import SandboxError
    from merging.errors import MergingError
    from search.errors import SearchError

    return isinstance(error, SearchError | MergingError | EvaluationError | SandboxError)


_EXIT_CODES = """\b
Exit codes:
  0    done; also a search that one Ctrl-C has stopped after its trial
  1    a bug, with its traceback; a run --dry-run that says it could not run here; output that nobody reads
  2    something to put right, in one line: an option, a file, a model, the machine; a check that finds a problem
  130  stopped at once by Ctrl-C or SIGTERM, during a search by the second one

\b
Completion in bash; for zsh and fish write their names in place of bash:
  eval "$(_MERGE_SEARCH_COMPLETE=bash_source merge-search)"
"""


@click.group(
    cls=_Commands,
    epilog=_EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="merge-search")
def main() -> None:
    """Search for the merge of your models that writes the best code.

    \b
    Example:
      merge-search run configs/quickstart.yaml
      merge-search leaderboard results/quickstart
      merge-search export results/quickstart --to merged
    """


for topic in (examples, models, searches, reporting, migration, exporting, folders, preflighting):
    for found in vars(topic).values():
        if isinstance(found, click.Command):
            main.add_command(found)
