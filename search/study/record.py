"""Records: what became of one candidate, or of a reference model that candidates are compared with.

Guarantees: plain data. A record holds all that views, rankings and samplers know of a model; no other part of a store
is needed to read it.
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
"""What a sampler of Optuna's wants to find with a trial again, as plain data."""
ASCENT: Final = "ascent"
"""What proposals by the gradient are proposed by, and the key of an ascent's notes."""
WARM_START: Final = "warm start"
"""What parameters are proposed by that a person gave, or that are from an earlier search."""
TAKEN_OVER: Final = "taken over"
"""How ``proposed_by`` begins of a trial that an earlier search has scored."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """What became of scoring one model on one split.

    Attributes:
        state: where it stands; ``complete`` if there are outcomes.
        outcomes: one character per completion, in the split's order; see `Split`. Of a confirmation round after round.
        scores: pass@1 of each objective, in order; of a single objective one number.
        score: pass@1, of several problem sets their mean by weight; None without outcomes.
        log_likelihood: mean log-likelihood of the reference completions, in nats per token, as far as known.
        seconds: by phase; ``total`` is their sum.
        tokens: how many tokens the model generated.
        guessed: how many tokens were guessed while it generated; 0 where the backend does not count them.
        accepted: how many of the guesses the model accepted.
        worker: who claimed it last.
        started: when it was claimed last, in seconds since the epoch.
        error: why it failed or was pruned, or what else is wrong with a model that has a score.
        tries: why earlier runs did not finish, one line per run.
        deaths: how many workers it has ended.
        by_seed: pass@1 of a merge that draws random numbers, in the first round of its confirmation: under the random
            seed of the search, then under others.
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
        kind: what it is.
        number: of a trial, from 0; of a parent, its place among the parents. People see only those of trials.
        name: the reference of a parent; empty for a trial.
        parameters: the searched parameters, by the path of their key; empty for a reference model.
        recipe: the merge, as plain data; empty if its parameters make no valid recipe.
        search: what became of it on the search split.
        report: what became of it on the report split; None if nobody asked for that.
        confirm: what became of it in the rounds of a confirmation, if it had some; ``waiting`` between two rounds.
        same_as: the number of an earlier trial of the same merge whose outcomes these are.
        end_tokens: the ids that ended its completions.
        weights_digest: of the weights that were scored on the report split, or in a confirmation.
        proposed_by: where its parameters are from: a sampler's name, ``ascent`` or ``warm start``; with the latter or
            ``taken over`` at its beginning, a trial of an earlier search.
        seen: how many records were over when its parameters were drawn.
        sampler_notes: what the sampler wants to find with this trial again, and under ``ascent`` what the ascent noted.
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
        """What files and tables call it: ``trial-7``, ``parent-0``, ``average``."""
        return self.kind if self.kind == "average" else f"{self.kind}-{self.number}"

    @property
    def is_over(self) -> bool:
        """Whether scoring on the search split has ended, one way or another."""
        return self.search.state in ("complete", "pruned", "failed")

    def on(self, split: SplitName) -> Scoring:
        """Return what became of it on a split."""
        if split == "search":
            return self.search
        return (self.report if split == "report" else self.confirm) or _UNSCORED

    def scored(self, split: SplitName, scoring: Scoring) -> TrialRecord:
        """Return the same with another scoring on a split."""
        if split == "search":
            return replace(self, search=scoring)
        return replace(self, report=scoring) if split == "report" else replace(self, confirm=scoring)
