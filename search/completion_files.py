"""The completions of a search: files with what its models wrote, in the folder ``completions`` of its results.

    KEY.jsonl                what a model wrote on the search split, one line per completion
    report-KEY.jsonl         the same on the report split
    confirm-ROUND-KEY.jsonl  the same in a round of a confirmation

A merge that was scored before has no files of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from merging.caches import put
from search.errors import MAKE_ROOM, SearchError, restore
from search.study.record import SplitName, TrialRecord
from search.study.store import Store

if TYPE_CHECKING:
    from evaluation import Outcome

COMPLETIONS: Final = "completions"
"""The name of the folder."""
_REPORT, _CONFIRM = "report-", "confirm-"


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote for a problem, and what became of it.

    Attributes:
        task_id: the problem's id; with several samples each has its own completion, in order.
        completion: the text.
        status: see `evaluation.Status`.
        tokens: how many tokens it took.
        detail: how the program ended, if that was kept.
    """

    task_id: str
    completion: str
    status: str
    tokens: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CompletionFiles:
    """The files with the completions of a search.

    Attributes:
        folder: the folder that they are in.
    """

    folder: Path

    def save(self, record: TrialRecord, split: SplitName, outcomes: Iterable[Outcome], number: int = 1) -> None:
        """Write what a model generated, as a samples file that `merge-search score` reads. Raises SearchError.

        Args:
            record: the model's record.
            split: the split of the problems.
            outcomes: its completions and what became of them.
            number: the round's number, in a confirmation.
        """
        lines = [
            json.dumps(asdict(Completion(o.task_id, o.completion, o.status, o.completion_tokens, o.detail)))
            for o in outcomes
        ]
        file = self._file(record.key, split, number)
        try:
            put(file, "".join(line + "\n" for line in lines).encode())
        except OSError as error:
            raise SearchError(f"{file}: cannot be written: {error.strerror}; {MAKE_ROOM}") from None

    def read(self, record: TrialRecord, split: SplitName, number: int = 1) -> Sequence[Completion]:
        """Return what a model wrote, or what the same merge wrote when it was scored before; empty if it is not kept.

        Args:
            record: the model's record.
            split: the split of the problems.
            number: the round's number, in a confirmation.

        Raises:
            SearchError: the file is damaged.
        """
        file = self._kept(record, split, number)
        if file is None:
            return ()
        try:
            return [Completion(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError, TypeError) as error:
            raise SearchError(f"{file}: is damaged: {error}; {restore(self.folder.parent)}") from None

    def has(self, record: TrialRecord, split: SplitName) -> bool:
        """Whether the completions of a model are kept, so that `read` returns them."""
        return self._kept(record, split, 1) is not None

    def remove_lost(self, store: Store) -> None:
        """Remove the completions on the search split of models whose scores were lost with their workers."""
        found = [file for file in self.folder.glob("*.jsonl") if not file.name.startswith((_REPORT, _CONFIRM))]
        # Only now, so that a worker that writes a file meanwhile counts as at work.
        records, alive = store.changed()[0], store.at_work()
        kept = {each.key for each in records if each.search.state == "complete" or each.search.worker in alive}
        for file in found:
            if file.stem not in kept:
                file.unlink(missing_ok=True)

    def _kept(self, record: TrialRecord, split: SplitName, number: int) -> Path | None:
        keys = [record.key] + ([] if record.same_as is None else [TrialRecord("trial", record.same_as).key])
        files = (self._file(key, split, number) for key in keys)
        return next((file for file in files if file.is_file()), None)

    def _file(self, key: str, split: SplitName, number: int) -> Path:
        prefix = {"search": "", "report": _REPORT, "confirm": f"{_CONFIRM}{number}-"}[split]
        return self.folder / f"{prefix}{key}.jsonl"
