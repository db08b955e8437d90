"""A request in progress: a row of a batch, in plain Python.

Guarantees: its tokens are those that the model chose, one after the other. It can leave a batch and continue in another
one from the same point.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from transformers import PreTrainedTokenizerBase

from evaluation.generation.backend_protocol import Generated, Request
from evaluation.generation.drafting.drafter import Drafter
from evaluation.generation.engine.pass_layout import Piece
from evaluation.generation.text import ends_in_stop, text_after


class ActiveRequest:
    """A request in progress.

    Args:
        index: the request's index.
        request: the request.
        tokenizer: the model's tokenizer.
        ends: the tokens that end a completion.
        drafter: makes the guesses; None for no guesses.

    Attributes:
        generated: the tokens so far.
        finished: whether they are complete.
        finite: whether all tokens were chosen from finite logits.
        cached: how many tokens the slots hold; 0 if they hold nothing of this request.
        draft: the guesses in the running pass.
        log_likelihood: the log-likelihood of the request's reference, once the model has read it.
        guessed: the number of guesses that the model has checked.
        accepted: the number of guesses that held.
    """

    def __init__(
        self,
        index: int,
        request: Request,
        tokenizer: PreTrainedTokenizerBase,
        ends: Collection[int],
        drafter: Drafter | None = None,
    ) -> None:
        self.index = index
        self.request = request
        self.generated: list[int] = []
        self.finished = False
        self.finite = True
        self.cached = 0
        self.draft: Sequence[int] = ()
        self.log_likelihood: float | None = None
        self.guessed = self.accepted = 0
        self._tokenizer = tokenizer
        self._ends = ends
        self._drafter = drafter

    @property
    def reads_reference(self) -> bool:
        """Whether the next pass reads the reference instead of guesses."""
        return bool(self.request.reference) and self.log_likelihood is None and not self.generated

    @property
    def generation(self) -> Generated:
        """The tokens so far, as a completion."""
        text = text_after(self.request.prompt, self.generated, self._tokenizer)
        return Generated(text, tuple(self.generated), self.log_likelihood, self.finite, self.guessed, self.accepted)

    def piece(self, place: int, certainty: float) -> Piece:
        """Return the tokens for the next pass: those that the slots lack, then guesses.

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
        return Piece(
            place,
            self.cached,
            [*known[self.cached :], *self.draft],
            len(self.draft),
            self.reads_reference,
            self.request.draw,
            len(self.generated),
        )

    def overflowed(self) -> None:
        """Note that the logits of a pass are not finite, and that the slots no longer hold anything.

        Attention hides a guess from earlier tokens by a weight of 0, and 0 times NaN is NaN. So the guesses may be the
        cause, and the request continues without any. If there were none, the text is the cause, and the request ends.
        """
        self.finished, self.finite = not self.draft, bool(self.draft)
        self._drafter = None
        self.cached = 0

    def accept(self, choices: Sequence[int]) -> None:
        """Accept the model's choices after the newest token and after each guess."""
        before = len(self.generated)
        for token, guess in zip(choices, [*self.draft, None], strict=True):
            self.generated.append(token)
            self.finished = self._is_complete()
            if self.finished or token != guess:
                break
        # The model has not read the newest token yet; slots beyond it hold guesses that failed.
        self.cached = len(self.request.prompt) + len(self.generated) - 1
        if self._drafter and self.draft:
            agreed = sum(1 for token, guess in zip(self.generated[before:], self.draft, strict=False) if token == guess)
            self._drafter.learn(agreed)
            self.guessed += len(self.draft)
            self.accepted += agreed

    def _is_complete(self) -> bool:
        if self.generated[-1] in self._ends or len(self.generated) >= self.request.max_new_tokens:
            return True
        return ends_in_stop(self.request.stops, self.generated, self._tokenizer)
