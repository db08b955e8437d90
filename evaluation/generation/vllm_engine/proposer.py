"""What vLLM is told to guess: the drafts of each request, as vLLM's own speculative decoding verifies them.

vLLM 0.32 makes the class that `speculative_config` names, and calls `propose` after each step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.generation.drafting.drafter import Drafter, Trust
from evaluation.generation.drafting.numbered_text import NO_DIGITS
from evaluation.generation.protocol import Request

# A guess costs a position of a step, and a step costs as much as this many positions, beside those of its rows.
_STEP_POSITIONS = 20


class DraftProposer:
    """Guesses for the requests that are running.

    Args:
        config: vLLM's.
    """

    def __init__(self, config: Any) -> None:
        self._most: int = config.speculative_config.num_speculative_tokens
        self._trust = Trust()
        self._drafts: dict[str, Drafter] = {}
        self._left: dict[str, int] = {}
        self._batch: Any = None
        self._digits = NO_DIGITS

    def load_model(self, *_: Any, **__: Any) -> None:
        """Load nothing: there is no model of guesses."""

    def begin(self, batch: Any, digits: Mapping[int, str]) -> None:
        """Take the worker's batch, whose rows say which request they are, and the tokenizer's digits."""
        self._batch, self._digits = batch, digits

    def know(self, identifier: str, request: Request) -> None:
        """Guess for a request from now on."""
        self._drafts[identifier] = Drafter(request.prompt, request.drafts, self._trust, self._digits)
        self._left[identifier] = request.max_new_tokens

    def forget(self) -> None:
        """Guess for no request any more."""
        self._drafts.clear()
        self._left.clear()

    def propose(
        self, sampled: Sequence[Sequence[int]], lengths: NDArray[np.int32], tokens: NDArray[np.int32], **_: Any
    ) -> list[list[int]]:
        """Return the guesses for each row of the batch.

        Args:
            sampled: what each row has just generated; nothing while its prompt is being read.
            lengths: (rows,) of prompt and completion together.
            tokens: (rows, length) of prompt and completion.
        """
        writing = sum(map(bool, sampled))
        certainty = writing / (writing + _STEP_POSITIONS)
        return [
            self._guess(row, new, tokens[row, : lengths[row]], certainty) if new else []
            for row, new in enumerate(sampled)
        ]

    def _guess(self, row: int, new: Sequence[int], tokens: NDArray[np.int32], certainty: float) -> list[int]:
        identifier = self._batch.req_ids[row]
        drafts = self._drafts.get(identifier)
        if drafts is None:
            return []
        drafts.learn(len(new) - 1)
        generated = tokens[self._batch.num_prompt_tokens[row] :].tolist()
        # The token after the guesses is chosen in the same step.
        most = min(self._most, self._left[identifier] - len(generated) - 1)
        return list(drafts.propose(generated, max(most, 0), certainty))
