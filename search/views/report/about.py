"""What a search is about, where and with what software it ran, and how to run it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.board.names import NAME_WIDTH, shorten
from search.counts import counted
from search.views.report.section import Section, rendered
from search.views.table import parents_of

if TYPE_CHECKING:
    from search.evidence import SearchEvidence
    from search.study.store import Workplace

_DIGITS = 12
_TIME = "%Y-%m-%d %H:%M UTC"


@dataclass(frozen=True, slots=True)
class WorkerMachine:
    """A machine where workers ran: how many, on which hardware and devices, and with which software."""

    host: str
    workers: int
    hardware: str
    devices: str
    software: str


def about(evidence: SearchEvidence) -> Section:
    """Return the section on what ran where."""
    identity = evidence.identity
    facts = _facts(identity, evidence) if identity else {}
    names = parents_of(evidence.board, NAME_WIDTH)
    contents = identity.get("contents", {})
    models = [
        (
            names.get(name, shorten(Path(name).name, NAME_WIDTH)),
            str(held.get("place", name)),
            digest_of(held.get("digests", {})),
        )
        for name, held in contents.items()
    ]
    html = rendered(
        "about.html",
        facts=facts,
        models=models,
        machines=machines(evidence.workplaces.values()),
        command=command(evidence) if evidence.config_text else "",
        config=evidence.config_text,
        written=f"{datetime.now(UTC).strftime(_TIME)} by merge-search {_version()}",
    )
    return Section("about", "About this search", html)


def machines(places: Iterable[Workplace]) -> list[WorkerMachine]:
    """Return the machines of some workers; workers that are alike are counted together."""
    counts: dict[tuple[str, str, str, str], int] = {}
    for place in places:
        software = ", ".join(f"{name} {number}" for name, number in place.software.items())
        key = (place.host, place.hardware, ", ".join(place.devices), software)
        counts[key] = counts.get(key, 0) + 1
    return [
        WorkerMachine(host, count, hardware, devices, software)
        for (host, hardware, devices, software), count in counts.items()
    ]


def command(evidence: SearchEvidence) -> str:
    """Return the command that runs the same search again, given its config as ``config.yaml``."""
    words = ["merge-search", "run", "config.yaml", "--out", f"results/{evidence.name}-again"]
    words += ["--seed", str(evidence.identity["search"]["seed"])]
    return shlex.join([*words, "--allow-code-execution"])


def digest_of(kinds: Mapping[str, str]) -> str:
    """Return the first digits of the digest that identifies the content of a model or file."""
    for kind in ("commit", "weights", "file", "problems"):
        if kind in kinds:
            return f"{kind} {kinds[kind][:_DIGITS]}"
    return ""


def _facts(identity: Mapping[str, Any], evidence: SearchEvidence) -> dict[str, str]:
    evaluation, search = identity["evaluation"], identity["search"]
    counts = ", ".join(f"{len(evidence.tasks.get(split, ()))} in the {split} split" for split in ("search", "report"))
    samples = (
        "greedy"
        if not evaluation["temperature"]
        else (f"{evaluation['samples']} per problem at temperature {evaluation['temperature']:g}")
    )
    return {
        "ran": ran(evidence),
        "method": str(identity["recipe"].get("merge_method", "")),
        "problems": "; ".join(shorten(Path(entry["source"]).name, NAME_WIDTH) for entry in evaluation["problems"]),
        "split": counts,
        "prompts": str(evaluation["prompt"]["format"]),
        "completions": f"{samples}, at most {counted(evaluation['max_new_tokens'], 'token')}",
        "computed in": "the recipe's dtype" if evaluation["compute_dtype"] == "recipe" else evaluation["compute_dtype"],
        "sampler": f"{search['sampler']}, seed {search['seed']}",
    }


def ran(evidence: SearchEvidence) -> str:
    """Return when a search ran and for how long, from its first model to its last."""
    runs = [
        (each.started, each.started + each.seconds.get("total", 0.0))
        for record in evidence.records
        for each in (record.search, record.report, record.confirm)
        if each and each.started
    ]
    if not runs:
        return "not yet"
    first, last = min(runs)[0], max(end for _, end in runs)
    return f"{datetime.fromtimestamp(first, UTC).strftime(_TIME)}, for {timedelta(seconds=round(last - first))}"


def _version() -> str:
    try:
        return version("merge-search")
    except PackageNotFoundError:
        return "(not installed)"
