"""A problem set: problems in a fixed order, perhaps from several sets whose scores are weighted.

Guarantees: task ids are unique; a split is the same on every machine.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import astuple, dataclass, replace

from evaluation.errors import EvaluationError
from evaluation.problems.problem import Problem


@dataclass(frozen=True, slots=True)
class Part:
    """One of several sets that are scored together.

    Attributes:
        name: the set's name.
        weight: the weight of its score in the mean.
        task_ids: the ids of its problems.
    """

    name: str
    weight: float
    task_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProblemSet:
    """Problems in a fixed order, under a name.

    Attributes:
        name: the set's name, or the names of its parts.
        problems: all problems, part by part.
        parts: the sets that were joined; empty for a single set.
    """

    name: str
    problems: tuple[Problem, ...]
    parts: tuple[Part, ...] = ()

    @classmethod
    def joined(cls, sets: Sequence[ProblemSet], weights: Sequence[float]) -> ProblemSet:
        """Join several sets, with a weight for the score of each.

        If one of a set's ids is in an earlier set, all its ids get the set's name as a prefix.

        Raises EvaluationError if two sets have the same name.
        """
        if len(sets) == 1:
            return sets[0]
        found: dict[str, Problem] = {}
        parts: list[Part] = []
        for each, weight in zip(sets, weights, strict=True):
            if any(part.name == each.name for part in parts):
                raise EvaluationError(f"two sets are called {each.name}; give each set once, under a name of its own")
            own = each.problems
            if any(problem.task_id in found for problem in own):
                own = tuple(replace(problem, task_id=f"{each.name}/{problem.task_id}") for problem in own)
            if clash := next((problem.task_id for problem in own if problem.task_id in found), None):
                raise EvaluationError(f"{each.name} and a set before it both have a problem {clash!r}; rename one")
            found |= {problem.task_id: problem for problem in own}
            parts.append(Part(each.name, weight, tuple(problem.task_id for problem in own)))
        return cls(" + ".join(part.name for part in parts), tuple(found.values()), tuple(parts))

    def __len__(self) -> int:
        return len(self.problems)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.problems)

    @property
    def task_ids(self) -> tuple[str, ...]:
        """The ids, in order."""
        return tuple(problem.task_id for problem in self.problems)

    @property
    def digest(self) -> str:
        """A SHA-256 of everything in the set, as hex."""
        content = json.dumps([astuple(problem) for problem in self.problems], ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def subset(self, task_ids: Collection[str]) -> ProblemSet:
        """Return the problems with these ids, in this set's order. Raises EvaluationError for an unknown id."""
        wanted = set(task_ids)
        if unknown := wanted - set(self.task_ids):
            first = min(unknown)
            nearest = difflib.get_close_matches(first, self.task_ids, n=1)
            suggestion = f"did you mean {nearest[0]!r}?" if nearest else f"its ids look like {self.task_ids[0]!r}"
            raise EvaluationError(f"{self.name}: has no problem {first!r}; {suggestion}")
        parts = (replace(part, task_ids=tuple(task for task in part.task_ids if task in wanted)) for part in self.parts)
        return ProblemSet(self.name, tuple(it for it in self.problems if it.task_id in wanted), tuple(parts))

    def without(self, task_ids: Collection[str]) -> ProblemSet:
        """Return the problems without these ids. Raises EvaluationError for an unknown id."""
        self.subset(task_ids)
        return self.subset([task for task in self.task_ids if task not in set(task_ids)])

    def split(self, report_fraction: float, seed: int) -> tuple[ProblemSet, ProblemSet]:
        """Split the set into a part that a search may see and a part for the report only.

        The draw is stratified: each group of ids with the same prefix (up to the last ``/``) is cut into thirds by
        the length of the prompt, and each third is split in the same proportion.

        Args:
            report_fraction: the fraction of the problems for the report, within [0, 1).
            seed: the seed of the draw.

        Returns:
            The search split and the report split, each in this set's order.
        """
        report: set[str] = set()
        owed = 0.0
        for stratum in self._strata():
            order = sorted(problem.task_id for problem in stratum)
            random.Random(f"{seed} {order[0]}").shuffle(order)
            owed += report_fraction * len(order)
            take = round(owed)
            owed -= take
            report.update(order[:take])
        return self.subset(set(self.task_ids) - report), self.subset(report)

    def _strata(self) -> Iterator[list[Problem]]:
        groups: dict[str, list[Problem]] = {}
        for problem in self.problems:
            groups.setdefault(problem.task_id.rpartition("/")[0], []).append(problem)
        for _, group in sorted(groups.items()):
            group.sort(key=lambda problem: (len(problem.prompt), problem.task_id))
            edges = [round(len(group) * part / 3) for part in range(4)]
            yield from (group[left:right] for left, right in itertools.pairwise(edges) if left < right)
