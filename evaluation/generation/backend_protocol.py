"""The interface between the evaluator and a backend, which runs a model."""

from __future__ import annotations

import collections.abc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from evaluation.generation.sampling import TokenDraws

if TYPE_CHECKING:  # a command that scores nothing does not wait for torch
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What models compute in: always the recipe's dtype, always float32, or whichever of them is faster on this CPU.
ComputeDtype: TypeAlias = Literal["auto", "recipe", "float32"]
# Called with the index of a request and the mean log-likelihood of its reference.
OnLikelihood: TypeAlias = Callable[[int, float], None]


@dataclass(frozen=True, slots=True)
class StreamedWeights:
    """The tensors of a model that is on the device `meta`, made while they are read.

    Attributes:
        device: where they are made.
        tensors: yields them by their names in a checkpoint, in the order of its layers, tied ones once. What goes wrong
            with them reaches the caller of `Evaluator.evaluate`.
    """

    device: torch.device
    tensors: Callable[[], Iterator[tuple[str, torch.Tensor]]]


@dataclass(frozen=True, slots=True)
class Request:
    """A request for one completion.

    Attributes:
        prompt: token ids, at least one.
        stops: generation may end as soon as one of these texts is there.
        max_new_tokens: the most tokens of the completion.
        drafts: completions of the same prompt by similar models, as token ids, likelier ones first. They save time
            where the model agrees with them, and change nothing else.
        reference: a completion whose likelihood under the model is wanted; empty for none.
        draw: how tokens are drawn; None takes the likeliest.
    """

    prompt: Sequence[int]
    stops: Sequence[str] = ()
    max_new_tokens: int = 512
    drafts: Sequence[Sequence[int]] = ()
    reference: Sequence[int] = ()
    draw: TokenDraws | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """A completion.

    Attributes:
        text: without special tokens; it may go on past a stop text.
        tokens: its ids, the end of text included.
        log_likelihood: the mean over the tokens of the request's reference, in nats; None without a reference, NaN
            where the logits are.
        finite: whether all tokens had finite logits to be chosen by; generation ends at NaN or infinity.
        guessed: how many tokens were guessed for it; 0 where the backend does not count them.
        accepted: how many of the guesses are its tokens.
    """

    text: str
    tokens: tuple[int, ...]
    log_likelihood: float | None = None
    finite: bool = True
    guessed: int = field(default=0, compare=False)
    accepted: int = field(default=0, compare=False)


Completions: TypeAlias = collections.abc.Generator[tuple[int, Generated], None, None]


class Backend(Protocol):
    """Completes prompts with live models, and keeps what outlives a model."""

    def generate(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[Request],
        on_likelihood: OnLikelihood | None = None,
        *,
        plain: bool = False,
        weights: StreamedWeights | None = None,
    ) -> Completions:
        """Yield (index of the request, its completion) as completions end; a caller may close the iterator early.

        Args:
            model: a causal language model in eval mode.
            tokenizer: its tokenizer.
            requests: they are started in this order.
            on_likelihood: called with the likelihood of each reference as soon as it is known, which is before most
                tokens are generated; an exception from it ends generation.
            plain: make no guesses, and use a batch size that depends on free memory only where there is too little.
            weights: the model's, if it holds none itself; only for backends in `STREAMING`.
        """

    def close(self) -> None:
        """Release everything."""
