"""What a generator is: the one interface between an evaluator and whatever runs the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Generated:
    """What a model wrote after one prompt.

    Attributes:
        text: what it wrote, special tokens left out; it may go on past a stop text.
        tokens: how many tokens that took, the end of text included.
    """

    text: str
    tokens: int


class Generator(Protocol):
    """Writes greedily after prompts."""

    def generate(self, prompts: Sequence[Sequence[int]], stops: Sequence[str]) -> Iterator[tuple[int, Generated]]:
        """Yield (index of the prompt, what was written) as each is finished, in any order.

        Args:
            prompts: token ids.
            stops: writing may end as soon as one of these texts has been written.
        """
