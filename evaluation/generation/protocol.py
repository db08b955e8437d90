"""What a generator is: the one interface between an evaluator and whatever runs the model. Data in, data out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Request:
    """One completion that is wanted.

    Attributes:
        prompt: token ids, at least one.
        stops: writing may end as soon as one of these texts has been written.
        max_new_tokens: the most tokens that are written.
        drafts: what similar models wrote after the same prompt, as token ids, likelier ones first. They save time
            where the model agrees, and change nothing else.
        reference: a completion whose likelihood under the model is wanted; empty for none.
    """

    prompt: Sequence[int]
    stops: Sequence[str] = ()
    max_new_tokens: int = 512
    drafts: Sequence[Sequence[int]] = ()
    reference: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Generated:
    """What a model wrote after one prompt.

    Attributes:
        text: what it wrote, special tokens left out; it may go on past a stop text.
        tokens: the ids of that, the end of text included.
        log_likelihood: of the request's reference: the mean over its tokens, in nats; None if none was asked for.
    """

    text: str
    tokens: tuple[int, ...]
    log_likelihood: float | None = None


class Generator(Protocol):
    """Writes greedily after prompts."""

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Generated]]:
        """Yield (index of the request, what was written) as each is finished, in any order.

        A caller may stop early.
        """
