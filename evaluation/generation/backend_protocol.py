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

# The dtype that models compute in: the recipe's, float32, or whichever of them is faster on this CPU.
ComputeDtype: TypeAlias = Literal["auto", "recipe", "float32"]
# Called with the index of a request and the mean log-likelihood of its reference.
OnLikelihood: TypeAlias = Callable[[int, float], None]


@dataclass(frozen=True, slots=True)
class StreamedWeights:
    """The tensors of a model that is on the device `meta`, made while they are read.

    Attributes:
        device: the device that they are made on.
        tensors: yields (name in a checkpoint, tensor) in the order of the layers, tied tensors once. Its exceptions
            reach the caller of `Evaluator.evaluate`.
    """

    device: torch.device
    tensors: Callable[[], Iterator[tuple[str, torch.Tensor]]]


@dataclass(frozen=True, slots=True)
class Request:
    """A request for one completion.

    Attributes:
        prompt: token ids, at least one.
        stops: generation may end as soon as one of these texts appears.
        max_new_tokens: the most tokens of the completion.
        drafts: completions of the same prompt by similar models, as token ids, likelier ones first. They save time
            where the model agrees with them; they do not change the completion.
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
        text: the text without special tokens; it may go on past a stop text.
        tokens: the ids, including the end of text.
        log_likelihood: the mean over the tokens of the request's reference, in nats; None without a reference, NaN if
            the logits are.
        finite: whether all tokens were chosen from finite logits; generation ends at NaN or infinity.
        guessed: the number of tokens guessed for it; 0 if the backend does not count them.
        accepted: the number of guesses that became its tokens.
    """

    text: str
    tokens: tuple[int, ...]
    log_likelihood: float | None = None
    finite: bool = True
    guessed: int = field(default=0, compare=False)
    accepted: int = field(default=0, compare=False)


Completions: TypeAlias = collections.abc.Generator[tuple[int, Generated], None, None]


class Backend(Protocol):
    """Completes prompts with live models, and keeps the state that outlives a model."""

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
            requests: the requests, started in this order.
            on_likelihood: called with the likelihood of each reference as soon as it is known, which is before most
                tokens are generated; an exception from it ends generation.
            plain: make no guesses, and use a batch size that depends on free memory only if there is too little.
            weights: the model's weights, if it holds none itself; only for backends in `STREAMING`.
        """

    def close(self) -> None:
        """Release everything."""
