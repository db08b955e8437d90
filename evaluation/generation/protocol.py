"""What a generator is: the one interface between an evaluator and whatever runs the model. Data in, data out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, get_args

from evaluation.generation.draws import Draw

if TYPE_CHECKING:  # names of backends are known without waiting for torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BackendName: TypeAlias = Literal["transformers", "vllm"]
# What models compute in: the recipe's dtype or float32, whichever is faster on the CPU at hand; or always one of them.
ComputeDtype: TypeAlias = Literal["auto", "recipe", "float32"]
# Told the index of a request and its reference's mean log-likelihood.
OnLikelihood: TypeAlias = Callable[[int, float], None]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)


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
        draw: how the tokens are drawn; None: each is the likeliest.
    """

    prompt: Sequence[int]
    stops: Sequence[str] = ()
    max_new_tokens: int = 512
    drafts: Sequence[Sequence[int]] = ()
    reference: Sequence[int] = ()
    draw: Draw | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """What a model wrote after one prompt.

    Attributes:
        text: what it wrote, special tokens left out; it may go on past a stop text.
        tokens: the ids of that, the end of text included.
        log_likelihood: of the request's reference: the mean over its tokens, in nats; None if none was asked for, NaN
            where the logits are.
        finite: whether there were logits to choose a token by to the end; where they are NaN or infinite, writing ends.
    """

    text: str
    tokens: tuple[int, ...]
    log_likelihood: float | None = None
    finite: bool = True


class Generator(Protocol):
    """Writes greedily after prompts."""

    def generate(
        self, requests: Sequence[Request], on_likelihood: OnLikelihood | None = None
    ) -> Iterator[tuple[int, Generated]]:
        """Yield (index of the request, what was written) as each is finished, in any order.

        A caller may stop early.

        Args:
            requests: what is wanted.
            on_likelihood: told the likelihood of each reference as soon as it is known, which is before most is
                written; what it raises ends the generation.
        """


class Backend(Protocol):
    """Makes generators, and keeps what outlives a model."""

    def generator(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, plain: bool = False) -> Generator:
        """Return a generator for a live model, as it is when `generate` is called.

        Args:
            model: a causal language model in eval mode.
            tokenizer: its tokenizer.
            plain: no guesses, and a batch size that does not depend on what memory is free, as far as there is any.
        """

    def close(self) -> None:
        """Let go of everything."""
