"""Entries: a record as flat names with numbers and texts, as experiment trackers take them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from search.board.names import LABEL_WIDTH, parameter_name, parent_names
from search.study.outcomes import Split
from search.study.record import SplitName, TrialRecord

Entries: TypeAlias = dict[str, float | str]


def names_of_parents(records: Iterable[TrialRecord]) -> dict[str, str]:
    """Return a short name for each parent among some records, by its reference."""
    return parent_names([record.recipe for record in records if record.kind == "parent"], LABEL_WIDTH)


def entries(
    record: TrialRecord, split: SplitName, names: Mapping[str, str], splits: Mapping[SplitName, Split]
) -> Entries:
    """Return what became of a model on a split.

    Args:
        record: the model's record.
        split: the split; parameters and the proposer belong to the search split.
        names: the parents' short names, by reference.
        splits: how the outcomes on each split are read.
    """
    scoring = record.on(split)
    sets = splits[split].scores(scoring.outcomes) if split in splits and scoring.outcomes else {}
    found: Entries = {"state": scoring.state}
    numbers = {
        "score": scoring.score, "log_likelihood": scoring.log_likelihood, "tokens": scoring.tokens or None,
    } | ({f"score of {name}": score for name, score in sets.items()} if len(sets) > 1 else {})  # fmt: skip
    found |= {name: value for name, value in numbers.items() if value is not None}
    found |= {f"{phase} seconds": seconds for phase, seconds in scoring.seconds.items()}
    if scoring.error:
        found["error"] = scoring.error
    found = {f"{split}/{name}": value for name, value in found.items()}
    if split != "search" or record.kind != "trial":
        return found
    return found | {"proposed_by": record.proposed_by} | _parameters(record, names)


def _parameters(record: TrialRecord, names: Mapping[str, str]) -> Entries:
    """Return the searched parameters; those that share a name, such as a gradient's knots, are numbered from 0."""
    words = {key: parameter_name(key, record.recipe, names) for key in record.parameters}
    counts, seen = Counter(words.values()), Counter[tuple[str, str]]()
    found: Entries = {}
    for key, value in record.parameters.items():
        label, word = words[key]
        place = f" {seen[label, word]}" if counts[label, word] > 1 else ""
        seen[label, word] += 1
        name = f"parameters/{f'{label} ' if label else ''}{word}{place}"
        found[name] = names.get(value, value) if isinstance(value, str) else float(value)
    return found
