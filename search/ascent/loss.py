"""The loss of a model on solutions: how near it is to generating other tokens than those that passed.

A greedy completion is lost at its first wrong token, so the loss depends on each token's margin: its logit minus that
of the best other token. Likelihoods would not do: merging changes the scale of the logits, and a likelihood rewards
confidence, with which a model may solve fewer problems.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor
from transformers import PreTrainedModel

from evaluation import Solution
from evaluation.generation.out_of_memory import make_room_on_host
from evaluation.generation.pass_memory import ModelShape
from evaluation.generation.threads import threads_for

# The unit of the margins, in logits, and the power of the product. With power 1, a completion of many doubtful tokens
# would have the same loss as a hopeless one, and no gradient.
_SCALE, _POWER = 0.5, 0.3
# Limits of one forward pass, including padding: enough tokens to use all cores, and memory for the logits and their
# gradient.
_TOKENS, _LOGITS = 2048, 1 << 25
# How many vectors a layer keeps per token: those as wide as the model, and those as wide as its MLP. If activations are
# computed twice, it keeps only its input, but the C library does not use all freed memory again: about twice as much
# (docs/gpu-figures.md). The logits have a gradient.
_STATES, _MLP_STATES, _INPUTS, _LOGITS_KEPT = 10, 4, 3, 2


def loss_of(margins: Tensor) -> Tensor:
    """Return the loss of one solution, in [0, 1]: 1 - prod(1 - miss)^0.3 with miss = sigmoid(-margin / 0.5).

    Args:
        margins: (tokens,), the margins of its tokens, in logits.
    """
    return 1 - torch.exp(_POWER * F.logsigmoid(margins / _SCALE).sum())


def margins_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the logits of tokens (..., tokens) minus those of the best others, given all logits (..., vocabulary)."""
    two = logits.topk(2, dim=-1)
    others = torch.where(two.indices[..., 0] == tokens, two.values[..., 1], two.values[..., 0])
    return (logits.gather(-1, tokens[..., None])[..., 0] - others).float()


def losses(
    model: PreTrainedModel, solutions: Sequence[Solution], each: Callable[[Tensor], None] | None = None
) -> list[float]:
    """Return the loss of each solution.

    Args:
        model: a causal language model in eval mode.
        solutions: the solutions; their losses are computed in batches of similar length.
        each: called with the losses (solutions,) of each batch, while its graph exists.
    """
    found: dict[str, float] = {}
    with threads_for(model):
        vocabulary = cast("torch.nn.Embedding", model.get_input_embeddings()).num_embeddings
        for batch in _batches(solutions, _LOGITS // vocabulary):
            if model.device.type == "cpu":
                make_room_on_host(_LOGITS * model.dtype.itemsize)
            batch_losses = _losses(model, batch)
            if each:
                each(batch_losses)
            found |= zip((solution.task_id for solution in batch), batch_losses.tolist(), strict=True)
    return [found[solution.task_id] for solution in solutions]


@dataclass(frozen=True, slots=True)
class BackwardPass:
    """The sizes of a backward pass, on one of the devices that a model lies on (docs/concepts/proposals.md).

    Attributes:
        shape: the model's shape.
        layers: the number of layers.
        longest: the tokens of the longest solution.
        elements: the elements of all tensors.
        largest: the elements of the largest tensor.
        has_head: whether the logits are made there.
    """

    shape: ModelShape
    layers: int
    longest: int
    elements: int
    largest: int
    has_head: bool = True

    @property
    def whole(self) -> int:
        """The bytes that it takes with the gradient of the whole model."""
        activations = activation_bytes(self.shape, self.layers, self.longest)
        # When the gradients of the last layers are there, the logits are gone.
        return activations + max(self.shape.itemsize * self.elements, self._largest)

    @property
    def by_tensor(self) -> int:
        """The bytes that it takes if slopes are taken tensor by tensor, and activations are computed twice."""
        inputs = _INPUTS * self.shape.itemsize * max(_TOKENS, self.longest) * self.layers * self.shape.hidden
        return inputs + activation_bytes(self.shape, 1, self.longest) + self._largest

    @property
    def _largest(self) -> int:
        """The logits with their gradient, and the largest tensor: its gradient, and its sum or its merge in float32."""
        logits = _LOGITS_KEPT * max(_LOGITS, self.longest * self.shape.vocabulary) if self.has_head else 0
        return self.shape.itemsize * (logits + self.largest) + torch.float32.itemsize * self.largest


def activation_bytes(shape: ModelShape, layers: int, longest: int) -> int:
    """Return the bytes that some layers keep for a backward pass.

    Args:
        shape: the model's shape.
        layers: the number of layers.
        longest: the tokens of the longest text.
    """
    kept = _STATES * shape.hidden + _MLP_STATES * shape.intermediate
    return shape.itemsize * max(_TOKENS, longest) * layers * kept


def _losses(model: PreTrainedModel, batch: Sequence[Solution]) -> Tensor:
    device = model.device
    texts = [[*solution.prompt, *solution.completion] for solution in batch]
    width, first = max(map(len, texts)), min(len(solution.prompt) for solution in batch) - 1
    # No token sees the padding on the right, because attention looks to the left.
    ids = torch.tensor([text + [0] * (width - len(text)) for text in texts], device=device)
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts], device=device)
    wanted = {"logits_to_keep": torch.arange(first, width - 1, device=device)} if _keeps_logits(model) else {}
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **wanted).logits
    # All rows at once, because the gradient of each part of the logits would be as large as the whole.
    margins = margins_of(logits if wanted else logits[:, first:-1], ids[:, first + 1 :])
    starts = [len(solution.prompt) - 1 - first for solution in batch]
    return torch.stack(
        [
            loss_of(row[start : start + len(each.completion)])
            for row, start, each in zip(margins, starts, batch, strict=True)
        ]
    )


def _keeps_logits(model: PreTrainedModel) -> bool:
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def _batches(solutions: Sequence[Solution], kept: int) -> Iterator[list[Solution]]:
    """Yield batches of solutions of similar length, within the limits on tokens and on positions with logits."""
    batch: list[Solution] = []
    for solution in sorted(solutions, key=lambda each: len(each.prompt) + len(each.completion)):
        more = [*batch, solution]
        longest = len(solution.prompt) + len(solution.completion)  # they are sorted
        with_logits = longest - min(len(each.prompt) for each in more)
        if batch and (longest * len(more) > _TOKENS or with_logits * len(more) > kept):
            yield batch
            batch = []
        batch.append(solution)
    if batch:
        yield batch
