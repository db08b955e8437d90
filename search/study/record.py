"""Records: what became of one candidate, or of a reference model that candidates are compared with.

Guarantees: plain data. A record holds all that views, rankings and samplers know about a model; no other part of a
store is needed to read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

Kind: TypeAlias = Literal["parent", "average", "trial"]
State: TypeAlias = Literal["waiting", "running", "complete", "pruned", "failed"]
SplitName: TypeAlias = Literal["search", "report", "confirm"]
Value: TypeAlias = bool | int | float | str
"""A searched value as Optuna stores it: a number, or the label of a choice."""
Parameters: TypeAlias = Mapping[str, Value]
"""Searched values by the path of their key."""
SamplerNotes: TypeAlias = Mapping[str, Any]
"""The attributes that one of Optuna's samplers stores with a trial, as plain data."""
ASCENT: Final = "ascent"
"""The ``proposed_by`` of proposals by the gradient, and the key of an ascent's notes."""
WARM_START: Final = "warm start"
"""The beginning of ``proposed_by`` if the user gave the parameters, or they are from an earlier search."""
TAKEN_OVER: Final = "taken over"
"""The beginning of ``proposed_by`` of a trial that an earlier search has scored."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """The scoring of one model on one split.

    Attributes:
        state: its state; ``complete`` if there are outcomes.
        outcomes: one character per completion, in the split's order (see `Split`); in a confirmation, round by round.
        scores: pass@1 of each objective, in order; one number for a single objective.
        score: pass@1, with several problem sets the weighted mean of theirs; None without outcomes.
        log_likelihood: the mean log-likelihood of the reference completions, in nats per token; None if unknown.
        seconds: the seconds by phase; ``total`` is their sum.
        tokens: the number of tokens that the model generated.
        guessed: the number of tokens guessed while it generated; 0 if the backend does not count them.
        accepted: the number of guesses that the model accepted.
        worker: the worker that claimed it last.
        started: the time of the last claim, in seconds since the epoch.
        error: why it failed or was pruned, or what else is wrong with a model that has a score.
        tries: why earlier runs did not finish, one line per run.
        deaths: the number of workers that it has ended.
        by_seed: pass@1 of a merge with random masks in the first round of its confirmation: under the search's own
            seed, then under others.
    """

    state: State = "waiting"
    outcomes: str = ""
    score: float | None = None
    scores: tuple[float, ...] = ()
    log_likelihood: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    tokens: int = 0
    guessed: int = 0
    accepted: int = 0
    worker: str = ""
    started: float | None = None
    error: str | None = None
    tries: tuple[str, ...] = ()
    deaths: int = 0
    by_seed: tuple[float, ...] = ()


_UNSCORED: Final = Scoring()


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One candidate, or one reference model (a parent, or the parents' average).

    Attributes:
        kind: the kind of model.
        number: a trial's number, from 0, or a parent's place among the parents. Users see only those of trials.
        name: the reference of a parent; ``average`` for the average; empty for a trial.
        parameters: the searched parameters, by the path of their key; empty for a reference model.
        recipe: the merge, as plain data; empty if its parameters make no valid recipe.
        search: its scoring on the search split.
        report: its scoring on the report split; None if none was needed.
        confirm: its scoring in the rounds of a confirmation, if it had any; ``waiting`` between two rounds.
        same_as: the number of an earlier trial of the same merge, whose outcomes it has.
        end_tokens: the ids that ended its completions.
        weights_digest: the digest of the weights that were scored on the report split, or in a confirmation.
        proposed_by: the source of its parameters: a sampler's name, ``ascent`` or ``warm start``; for a trial of an
            earlier search, a text that begins with ``warm start`` or ``taken over``.
        seen: how many trials were over when its parameters were drawn.
        sampler_notes: the attributes that the sampler stores with it, and under ``ascent`` the notes of the ascent.
    """

    kind: Kind
    number: int = 0
    name: str = ""
    parameters: Parameters = field(default_factory=dict)
    recipe: Mapping[str, object] = field(default_factory=dict)
    search: Scoring = _UNSCORED
    report: Scoring | None = None
    confirm: Scoring | None = None
    same_as: int | None = None
    end_tokens: tuple[int, ...] = ()
    weights_digest: str | None = None
    proposed_by: str = ""
    seen: int = 0
    sampler_notes: SamplerNotes = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its name in files and tables: ``trial-7``, ``parent-0``, ``average``."""
        return self.kind if self.kind == "average" else f"{self.kind}-{self.number}"

    @property
    def is_over(self) -> bool:
        """Whether scoring on the search split has ended, one way or another."""
        return self.search.state in ("complete", "pruned", "failed")

    def on(self, split: SplitName) -> Scoring:
        """Return its scoring on a split."""
        if split == "search":
            return self.search
        return (self.report if split == "report" else self.confirm) or _UNSCORED

    def scored(self, split: SplitName, scoring: Scoring) -> TrialRecord:
        """Return the record with another scoring on a split."""
        if split == "search":
            return replace(self, search=scoring)
        return replace(self, report=scoring) if split == "report" else replace(self, confirm=scoring)
