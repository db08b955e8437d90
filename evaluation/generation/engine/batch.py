"""A batch: the requests that have slots, and the tokens that each pass reads.

Guarantees: a request that has ended costs no further passes, and its slots go to a waiting one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from evaluation.generation.backend_protocol import Completions
from evaluation.generation.engine.active_request import ActiveRequest
from evaluation.generation.engine.pass_layout import Piece
from evaluation.generation.engine.slots import Slots

# Rows of ended requests leave the slots together, once they are this fraction of all: moving the others costs a copy.
_DEAD_PART = 1 / 4


class Batch:
    """The requests that have slots, in the order of their rows.

    Attributes:
        slots: their slots.
        rows: the request in each row; finished ones stay until the others are moved.
    """

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.rows: list[ActiveRequest] = []
        self._ended: deque[ActiveRequest] = deque()

    @property
    def alive(self) -> bool:
        """Whether any request is not finished."""
        return any(not row.finished for row in self.rows)

    def admit(self, waiting: deque[ActiveRequest]) -> None:
        """Close the gaps if many rows are finished, and give free rows to waiting requests."""
        kept = [place for place, row in enumerate(self.rows) if not row.finished]
        if len(kept) <= (1 - _DEAD_PART) * len(self.rows):
            self._keep(kept)
        while waiting and len(self.rows) < self.slots.rows:
            self.rows.append(waiting.popleft())

    def share(self) -> None:
        """Copy prompts that another row has read: all samples of a problem share one prompt."""
        fresh = [place for place, row in enumerate(self.rows) if not row.cached and not row.finished]
        if not fresh:
            return
        read = {tuple(row.request.prompt): place for place, row in enumerate(self.rows) if row.cached}
        for place in fresh:
            prompt = tuple(self.rows[place].request.prompt)
            if prompt in read:
                # All except the last token: the model has to choose what follows it.
                self.slots.copy(read[prompt], place, len(prompt) - 1)
                self.rows[place].cached = len(prompt) - 1

    def pieces(self, most_tokens: int, worth: int) -> Sequence[Piece]:
        """Return the next pass: new rows first, up to a limit, and every other row if all new ones fit.

        Args:
            most_tokens: the limit on tokens of new rows.
            worth: how many additional tokens in a pass take as long as another pass.
        """
        alive = [place for place, row in enumerate(self.rows) if not row.finished]
        # A guess that fails costs the time of a token; one that holds saves one row its share of a pass.
        certainty = len(alive) / (len(alive) + worth)
        chosen: list[Piece] = []
        tokens = 0
        prompts: set[tuple[int, ...]] = set()
        for place in (place for place in alive if not self.rows[place].cached):
            prompt = tuple(self.rows[place].request.prompt)
            if prompt in prompts:  # read once, then shared
                continue
            prompts.add(prompt)
            chosen.append(self.rows[place].piece(place, certainty))
            tokens += len(chosen[-1].tokens)
            if tokens >= most_tokens:
                return chosen
        chosen += [self.rows[place].piece(place, certainty) for place in alive if self.rows[place].cached]
        return sorted(chosen, key=lambda piece: piece.row)

    def note_ends(self, pieces: Sequence[Piece]) -> None:
        """Note which requests a pass has finished."""
        self._ended += (row for row in (self.rows[piece.row] for piece in pieces) if row.finished)

    def completions(self) -> Completions:
        """Yield (index of the request, its completion) of the requests that have finished, each once."""
        while self._ended:
            row = self._ended.popleft()
            yield row.index, row.generation

    def _keep(self, kept: Sequence[int]) -> None:
        self.rows = [self.rows[place] for place in kept]
        used = max((len(row.request.prompt) + len(row.generated) for row in self.rows), default=0)
        self.slots.keep(kept, used)
