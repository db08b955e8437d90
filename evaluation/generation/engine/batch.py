"""A batch: the requests that have slots, and what each pass reads.

Guarantees: a request that has ended costs no further passes, and its slots go to one that waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch

from evaluation.generation.engine.active_request import ActiveRequest
from evaluation.generation.engine.pass_layout import Piece
from evaluation.generation.engine.slots import Slots

# Rows of ended requests leave the slots together, once they are this part: moving the others copies what they hold.
_DEAD_PART = 1 / 4


class Batch:
    """The rows that have slots, in the order of these.

    Attributes:
        slots: theirs.
        rows: the one in each place; finished ones stay until the others are moved together.
    """

    def __init__(self, slots: Slots, device: torch.device) -> None:
        self.slots = slots
        self.rows: list[ActiveRequest] = []
        self._device = device

    @property
    def alive(self) -> bool:
        """Whether any row is not finished."""
        return any(not row.finished for row in self.rows)

    def admit(self, waiting: deque[ActiveRequest]) -> None:
        """Move rows together if many are finished, and give the places that are free to those that wait."""
        kept = [place for place, row in enumerate(self.rows) if not row.finished]
        if len(kept) <= (1 - _DEAD_PART) * len(self.rows):
            self._keep(kept)
        while waiting and len(self.rows) < self.slots.rows:
            self.rows.append(waiting.popleft())

    def share(self) -> None:
        """Give rows the prompt that another row has read: samples of a problem begin alike."""
        fresh = [place for place, row in enumerate(self.rows) if row.fresh and not row.finished]
        if not fresh:
            return
        read = {tuple(row.request.prompt): place for place, row in enumerate(self.rows) if not row.fresh}
        with torch.inference_mode():
            for place in fresh:
                prompt = tuple(self.rows[place].request.prompt)
                if prompt in read:
                    # All but the last token, after which the model's choice is asked for.
                    self.slots.copy(read[prompt], place, len(prompt) - 1)
                    self.rows[place].given(len(prompt) - 1)

    def clear(self, place: int) -> None:
        """Let a place hold nothing: NaN would reach whoever reads as far in the row, and who takes it over."""
        with torch.inference_mode():
            self.slots.clear(place)

    def pieces(self, most_tokens: int, worth: int) -> Sequence[Piece]:
        """Return the next pass: new rows first, as many as may be, and if all of these are in it, every other row.

        Args:
            most_tokens: of a pass, as far as new rows make it.
            worth: how many tokens more take as long as another pass.
        """
        alive = [place for place, row in enumerate(self.rows) if not row.finished]
        # A guess that fails takes a token's time; one that holds takes a pass's off one row of those that share it.
        certainty = len(alive) / (len(alive) + worth)
        chosen: list[Piece] = []
        tokens = 0
        prompts: set[tuple[int, ...]] = set()
        for place in (place for place in alive if self.rows[place].fresh):
            prompt = tuple(self.rows[place].request.prompt)
            if prompt in prompts:  # it is read once, and then shared
                continue
            prompts.add(prompt)
            chosen.append(self.rows[place].piece(place, certainty))
            tokens += len(chosen[-1].tokens)
            if tokens >= most_tokens:
                return chosen
        chosen += [self.rows[place].piece(place, certainty) for place in alive if not self.rows[place].fresh]
        return sorted(chosen, key=lambda piece: piece.row)

    def _keep(self, kept: Sequence[int]) -> None:
        self.rows = [self.rows[place] for place in kept]
        used = max((len(row.request.prompt) + len(row.generated) for row in self.rows), default=0)
        with torch.inference_mode():
            self.slots.keep(torch.tensor(kept, dtype=torch.long, device=self._device), used)
