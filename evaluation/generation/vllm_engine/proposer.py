"""Proposes guesses from drafts to vLLM, whose speculative decoding verifies them.

vLLM 0.32 makes an instance of the class that `speculative_config` names, and calls `propose` after each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.generation.backend_protocol import Request
from evaluation.generation.drafting.drafter import Drafter, Trust
from evaluation.generation.vllm_engine.engine_settings import EngineSettings


class DraftProposer:
    """Makes guesses for the running requests.

    Args:
        config: vLLM's config.
    """

    def __init__(self, config: Any) -> None:
        self._most: int = config.speculative_config.num_speculative_tokens
        self._trust = Trust()
        self._drafts: dict[str, Drafter] = {}
        self._left: dict[str, int] = {}
        self._batch: Any
        self._settings: EngineSettings

    def load_model(self, *_: Any, **__: Any) -> None:
        """Do nothing: no model makes these guesses."""

    def begin(self, batch: Any, settings: EngineSettings) -> None:
        """Receive the worker's batch, which knows the request of each row, and the engine's settings."""
        self._batch, self._settings = batch, settings

    def know(self, identifier: str, request: Request) -> None:
        """Make guesses for a request from now on."""
        self._drafts[identifier] = Drafter(request.prompt, request.drafts, self._trust, self._settings.digits)
        self._left[identifier] = request.max_new_tokens

    def forget(self) -> None:
        """Make no more guesses for any request."""
        self._drafts.clear()
        self._left.clear()

    def propose(
        self, sampled: Sequence[Sequence[int]], lengths: NDArray[np.int32], tokens: NDArray[np.int32], **_: Any
    ) -> list[list[int]]:
        """Return the guesses for each row of the batch.

        Args:
            sampled: the tokens that each row has just received; none while its prompt is read.
            lengths: (rows,), the tokens of prompt plus completion.
            tokens: (rows, length), the token ids of prompt plus completion.
        """
        writing = sum(map(bool, sampled))
        certainty = writing / (writing + self._settings.step_positions)
        most = min(self._most, self._settings.most_positions // max(1, writing) - 1)
        return [
            self._guess(row, new, tokens[row, : lengths[row]], most, certainty) if new else []
            for row, new in enumerate(sampled)
        ]

    def _guess(self, row: int, new: Sequence[int], tokens: NDArray[np.int32], most: int, certainty: float) -> list[int]:
        identifier = self._batch.req_ids[row]
        drafts = self._drafts.get(identifier)
        if drafts is None:
            return []
        drafts.learn(len(new) - 1)
        generated = tokens[self._batch.num_prompt_tokens[row] :].tolist()
        # The token after the guesses is chosen in the same step.
        most = min(most, self._left[identifier] - len(generated) - 1)
        return list(drafts.propose(generated, max(most, 0), certainty))
