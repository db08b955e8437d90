"""The leaderboard, reports and comparisons for other programs: JSON, whose keys are a contract, and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluation import Outcome, Report, ScoredSamples
    from search.board.compare import Comparison
    from search.board.leaderboard import Leaderboard, Row
    from search.study.record import Scoring

_CSV_KEYS = (
    "kind", "name", "trial", "state", "search_score", "report_score", "report_low", "report_high", "won", "lost",
    "compared_on", "p_value", "seconds", "on_front", "same_as", "proposed_by", "error",
)  # fmt: skip


def leaderboard_json(board: Leaderboard, count: int | None = None) -> str:
    """Return the leaderboard with its best `count` trials as JSON."""
    rows = [_row(row) for row in board.top(count)]
    verdict = {key: value for key, value in asdict(board.verdict).items() if key != "ruling"}
    content = {
        "study": board.study, "verdict": board.verdict.ruling, "evidence": verdict, "best": board.best,
        "optimism": board.optimism, "rows": rows,
    }  # fmt: skip
    if board.confirmed_on:
        content["confirmed_on"] = board.confirmed_on
    return json.dumps(content, allow_nan=False) + "\n"


def leaderboard_csv(board: Leaderboard, count: int | None = None) -> str:
    """Return the leaderboard with its best `count` trials as CSV, with a column for each searched parameter."""
    rows = board.top(count)
    parameters = _keys(row.record.parameters for row in rows)
    sets = _keys(row.search_scores for row in rows)
    out = io.StringIO()
    writer = csv.writer(out)
    keys = (*_CSV_KEYS, "confirm_score") if board.confirmed_on else _CSV_KEYS
    of_sets = [f"{split} {name}" for name in sets for split in ("search", "report")]
    writer.writerow([*keys, *of_sets, *parameters])
    for row in rows:
        scores = [found.get(name) for name in sets for found in (row.search_scores, row.report_scores)]
        low, high = row.report_interval or (None, None)
        found = _row(row)
        found |= {"report_low": low, "report_high": high, "seconds": round(found["seconds"], 3)}
        cells = [found.get(key) for key in keys]
        writer.writerow([*cells, *scores, *map(row.record.parameters.get, parameters)])
    return out.getvalue()


def report_data(report: Report) -> dict[str, object]:
    """Return a report as plain data, as `merge-search compare` reads it."""
    low, high = report.interval
    return {
        **{f"pass@{k}": report.pass_at(k) for k in report.tries},
        "interval": [low, high],
        "scores": dict(report.scores),
        "sets": {part.name: {"weight": part.weight, "problems": part.task_ids} for part in report.parts},
        "prompt": report.prompt_format,
        "compute_dtype": report.compute_dtype,
        "seconds": report.seconds,
        "problems": {task: _problem(outcomes) for task, outcomes in report.samples.items()},
    }


def comparison_json(found: Comparison) -> str:
    """Return what two models did on the same problems as JSON."""
    test = found.test
    content = {
        "models": found.names, "split": found.split, "problems": found.problems, "pass@1": found.scores,
        "intervals": found.intervals, "won": test.won, "lost": test.lost, "p_value": test.p_value,
    }  # fmt: skip
    return json.dumps(content)


def scored_json(scored: ScoredSamples) -> str:
    """Return the verdict on each of some samples, and pass@k, as JSON."""
    verdicts = [
        {"task_id": task, "passed": verdict.passed, "status": verdict.status, "detail": verdict.detail}
        for task, verdict in zip(scored.task_ids, scored.verdicts, strict=True)
    ]
    rates = {f"pass@{k}": rate for k, rate in scored.pass_at.items()}
    return json.dumps({**rates, "interval": scored.interval, "verdicts": verdicts})


FORMATS: dict[str, Callable[[Leaderboard, int | None], str]] = {"json": leaderboard_json, "csv": leaderboard_csv}
"""The formats of the leaderboard for other programs, by their options of `merge-search leaderboard`."""


def _keys(found: Iterable[Iterable[str]]) -> Sequence[str]:
    return list(dict.fromkeys(key for keys in found for key in keys))


def _row(row: Row) -> dict[str, Any]:
    record, search = row.record, row.record.search
    return {
        "kind": record.kind, "name": row.name, "trial": record.number if record.kind == "trial" else None,
        "state": search.state, "search_score": search.score, "search_scores": row.search_scores,
        "log_likelihood": search.log_likelihood, "report_score": record.on("report").score,
        "report_interval": row.report_interval, "report_scores": row.report_scores, "won": row.won, "lost": row.lost,
        "compared_on": row.compared_on, "p_value": row.p_value, "seconds": search.seconds.get("total", 0.0),
        "recipe": dict(record.recipe), "parameters": dict(record.parameters), "on_front": row.on_front,
        "same_as": record.same_as, "proposed_by": record.proposed_by or None, "error": search.error,
    } | _confirmed(record.confirm)  # fmt: skip


def _confirmed(scoring: Scoring | None) -> dict[str, object]:
    if not scoring:
        return {}
    return {"confirm_score": scoring.score} | ({"confirm_by_seed": scoring.by_seed} if scoring.by_seed else {})


def _problem(outcomes: Sequence[Outcome]) -> Mapping[str, object]:
    """Return the outcome of a problem's only sample, or of each of several."""
    found = [
        {
            "passed": outcome.passed,
            "status": outcome.status,
            "detail": outcome.detail,
            "completion": outcome.completion,
            "completion_tokens": outcome.completion_tokens,
        }
        for outcome in outcomes
    ]
    return found[0] if len(found) == 1 else {"samples": found}
