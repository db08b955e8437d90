"""A row: one request on its way, in plain Python.

Guarantees: what a row has generated is what the model chose after it, token by token; a row can be taken out of a batch
and put into another one, and goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evaluation.generation.drafting.drafter import Drafter
from evaluation.generation.engine.pass_layout import Piece
from evaluation.generation.protocol import Request


class ActiveRequest:
    """One request on its way.

    Args:
        index: the request's.
        request: what is wanted.
        is_end: whether these tokens end the text.
        drafts: what the row's guesses are from; None: it makes none.

    Attributes:
        generated: the tokens so far.
        finished: whether they are all.
        finite: whether its logits are, as far as tokens were chosen by them.
        draft: the guesses that stand in the running pass.
        log_likelihood: of the request's reference, once it was read.
    """

    def __init__(
        self, index: int, request: Request, is_end: Callable[[Request, Sequence[int]], bool], drafts: Drafter | None
    ) -> None:
        self.index = index
        self.request = request
        self.generated: list[int] = []
        self.finished = False
        self.finite = True
        self.draft: Sequence[int] = ()
        self.log_likelihood: float | None = None
        self._is_end = is_end
        self._drafts = drafts
        self._cached = 0

    @property
    def fresh(self) -> bool:
        """Whether the batch has nothing of this row yet."""
        return self._cached == 0

    @property
    def reads_reference(self) -> bool:
        """Whether the next pass reads the reference, which takes the place of a draft."""
        return bool(self.request.reference) and self.log_likelihood is None and not self.generated

    def given(self, tokens: int) -> None:
        """Take note that the batch has the row's first tokens: another row's prompt is the same."""
        self._cached = tokens

    def evicted(self) -> None:
        """Let the row begin anew in another batch; what was generated stays."""
        self._cached = 0

    def piece(self, place: int, certainty: float) -> Piece:
        """Return the row's tokens for the next pass: those that the batch lacks, and a draft.

        Args:
            place: of the row in the batch.
            certainty: the least probability of a guess that is worth its place in the pass.
        """
        self.draft = ()
        if self.reads_reference:
            self.draft = self.request.reference
        elif self._drafts:
            room = self.request.max_new_tokens - len(self.generated) - 1
            self.draft = self._drafts.propose(self.generated, room, certainty)
        known = [*self.request.prompt, *self.generated]
        return Piece(place, self._cached, [*known[self._cached :], *self.draft])

    def overflowed(self) -> None:
        """Take note that the pass's logits are not finite for this row, and that the batch has nothing of it any more.

        Attention hides a guess from what stands before it by a weight of 0, and 0 times NaN is NaN: the guesses may
        have done it, so the row goes on without any. Without guesses it is the text itself, which ends.
        """
        self.finished, self.finite = not self.draft, bool(self.draft)
        self._drafts = None
        self._cached = 0

    def accept(self, choices: Sequence[int]) -> None:
        """Take what the model chose after the newest token and after each of the draft."""
        before = len(self.generated)
        for token, guess in zip(choices, [*self.draft, None], strict=True):
            self.generated.append(token)
            self.finished = self._is_end(self.request, self.generated)
            if self.finished or token != guess:
                break
        # The newest token was never read, and what is in the slots beyond it is of guesses that failed.
        self._cached = len(self.request.prompt) + len(self.generated) - 1
        if self._drafts and self.draft:
            agreed = sum(1 for token, guess in zip(self.generated[before:], self.draft, strict=False) if token == guess)
            self._drafts.learn(agreed)
