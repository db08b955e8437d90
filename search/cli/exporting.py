"""The command that exports what a search has found, and may publish it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from search.cli import shared_options
from search.cli.completions import scored_models
from search.cli.given_values import GivenPath, GivenText
from search.cli.printing import print_tried, tell, tell_of_mergekit
from search.startup import quick_imports
from search.views.bar import bar

if TYPE_CHECKING:
    from evaluation.scoring import Rate
    from search.results import ResultsFolder
    from search.study.record import TrialRecord


@click.command()
@shared_options.RESULTS
@click.option(
    "--trial",
    type=GivenText("a trial's number, a parent's name, or average"),
    shell_complete=scored_models,
    help="The trial's number, by default the best; or a parent's name, or average.",
)
@click.option("--to", required=True, type=GivenPath("a folder"), help="The folder to create.")
@click.option("--anyway", is_flag=True, help="Export the best trial even if it is no better than the best parent.")
@shared_options.SHARD_SIZE
@shared_options.COMPATIBLE
@click.option(
    "--tokenizer",
    type=GivenText("best, or a parent's name"),
    metavar="best|PARENT",
    help="Write this parent's tokenizer and chat template; best: try all in every prompt format, and write those that "
    "solve most of the search split.",
)
@shared_options.CONSENT
@click.option(
    "--push-to-hub",
    type=GivenText("a repository, as USER/NAME"),
    metavar="USER/NAME",
    help="Also upload the folder to this repository of the hub; if the upload stops, the same command continues it.",
)
@click.option("--private", is_flag=True, help="Make the repository private.")
@click.option(
    "--file-results",
    is_flag=True,
    help="Also file scores of benchmarks that the merge was chosen by on the hub, with a note that says so.",
)
def export(
    results: Path,
    trial: str | None,
    to: Path,
    anyway: bool,
    max_shard_size: str,
    mergekit_compatible: bool,
    tokenizer: str | None,
    allow_code_execution: bool,
    push_to_hub: str | None,
    private: bool,
    file_results: bool,
) -> None:
    """Write the model of a trial, by default of the proven or the best one, as a folder that transformers loads.

    \b
    Example:
      merge-search export results/quickstart --to merged
      merge-search export results/quickstart --to merged --tokenizer best
      merge-search export results/quickstart --to merged --push-to-hub ada/my-merge --private
    """
    if not push_to_hub and (private or file_results):
        raise click.UsageError(f"--{'private' if private else 'file-results'}: is for --push-to-hub")
    upload = None
    with bar() as progress:
        if push_to_hub:
            from search.publishing.upload import Upload

            upload = Upload.prepare(push_to_hub, private)
        with quick_imports():
            from search.trial_export import export_trial
        row = export_trial(
            results, to, trial=trial, anyway=anyway, max_shard_size=max_shard_size,
            mergekit_compatible=mergekit_compatible, tokenizer=tokenizer, allow_code_execution=allow_code_execution,
            show=lambda rows: print_tried(rows, as_json=False), for_hub=upload is not None, progress=progress,
            note=tell,
        )  # fmt: skip
    click.echo(f"{to}: {row.name}, {row.record.search.score or 0:.1%} on the search split")
    tell_of_mergekit(to, str(row.record.recipe["merge_method"]), mergekit_compatible)
    if not upload:
        return
    if tokenizer:
        tell("no score is filed: the scores are of the search's tokenizer and prompt; to file them, omit --tokenizer")
    else:
        from search.publishing.eval_results import write_results

        more = partial(_on_all, allow_code_execution) if file_results else None
        write_results(results, row.record, to, upload, tell, more)
    click.echo(upload.push(to))


def _on_all(allow_code_execution: bool, folder: ResultsFolder, record: TrialRecord) -> Mapping[str, Rate]:
    """Score a merge on those problems of its search that it has no outcomes on."""
    from search.publishing.eval_results import known_rates

    with bar() as progress:
        from search.rescoring import Candidate, rates_on_the_rest

        merge = Candidate.found(folder, record, progress)
        return rates_on_the_rest(merge, known_rates(folder, record), allow_code_execution)
