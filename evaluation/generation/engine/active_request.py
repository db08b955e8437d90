"""A request under way: a row of a batch, in plain Python.

Guarantees: its tokens are those that the model chose, one after the other. It can leave a batch and continue in another
one where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evaluation.generation.drafting.drafter import Drafter
from evaluation.generation.engine.pass_layout import Piece
from evaluation.generation.protocol import Request


class ActiveRequest:
    """A request under way.

    Args:
        index: the request's.
        request: the request.
        is_end: tells whether the tokens so far end the completion.
        drafter: makes the guesses; None makes none.

    Attributes:
        generated: the tokens so far.
        finished: whether they are complete.
        finite: whether all logits that tokens were chosen by are finite.
        draft: the guesses in the running pass.
        log_likelihood: of the request's reference, once the model has read it.
    """

    def __init__(
        self, index: int, request: Request, is_end: Callable[[Request, Sequence[int]], bool], drafter: Drafter | None
    ) -> None:
        self.index = index
        self.request = request
        self.generated: list[int] = []
        self.finished = False
        self.finite = True
        self.draft: Sequence[int] = ()
        self.log_likelihood: float | None = None
        self._is_end = is_end
        self._drafter = drafter
        self._cached = 0

    @property
    def fresh(self) -> bool:
        """Whether the slots hold nothing of this request yet."""
        return self._cached == 0

    @property
    def reads_reference(self) -> bool:
        """Whether the next pass reads the reference in place of guesses."""
        return bool(self.request.reference) and self.log_likelihood is None and not self.generated

    def given(self, tokens: int) -> None:
        """Note that the slots hold the first tokens, copied from another row with the same prompt."""
        self._cached = tokens

    def evicted(self) -> None:
        """Note that the slots are gone; the tokens stay."""
        self._cached = 0

    def piece(self, place: int, certainty: float) -> Piece:
        """Return the tokens for the next pass: those that the slots lack, and guesses.

        Args:
            place: the row in the batch.
            certainty: the least probability at which a guess is worth its place in the pass.
        """
        self.draft = ()
        if self.reads_reference:
            self.draft = self.request.reference
        elif self._drafter:
            room = self.request.max_new_tokens - len(self.generated) - 1
            self.draft = self._drafter.propose(self.generated, room, certainty)
        known = [*self.request.prompt, *self.generated]
        return Piece(place, self._cached, [*known[self._cached :], *self.draft])

    def overflowed(self) -> None:
        """Note that the logits of a pass are not finite, and that the slots hold nothing any more.

        Attention hides a guess from earlier tokens by a weight of 0, and 0 times NaN is NaN. So the guesses may be the
        cause, and the request continues without any. If there were none the text is the cause, and it ends.
        """
        self.finished, self.finite = not self.draft, bool(self.draft)
        self._drafter = None
        self._cached = 0

    def accept(self, choices: Sequence[int]) -> None:
        """Accept the model's choices after the newest token and after each guess."""
        before = len(self.generated)
        for token, guess in zip(choices, [*self.draft, None], strict=True):
            self.generated.append(token)
            self.finished = self._is_end(self.request, self.generated)
            if self.finished or token != guess:
                break
        # The model has not read the newest token yet; slots beyond it hold guesses that failed.
        self._cached = len(self.request.prompt) + len(self.generated) - 1
        if self._drafter and self.draft:
            agreed = sum(1 for token, guess in zip(self.generated[before:], self.draft, strict=False) if token == guess)
            self._drafter.learn(agreed)
