"""Calibration: what a parent does with a small file of text, for the methods that need more than weights.

Two things are observed, for each tensor, in float32: `gram`, the mean over the tokens of x xᵀ of the inputs x of each
linear layer (RegMean), and `fisher`, the diagonal of the Fisher information per token (Fisher-weighted averaging).
Guarantees: a parent is run over a file once for a parent set, one text at a time, so that nothing depends on how texts
are batched; labels are drawn with a fixed seed. The last bits depend on the device and the number of threads, as in
everything that a model computes. Does not judge whether the text resembles what a parent was trained on.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from merging.checkpoints.weights import Digest
from merging.errors import MergingError, first_line, shown
from merging.live_model import build_model
from merging.methods import METHODS
from merging.methods.registry import Observed
from merging.parents import OnRead, ParentSet
from merging.planning.plan import Source, Step
from merging.residency.memory_errors import is_out_of_memory, with_room
from merging.statistics import forms
from merging.statistics.statistics import Kept, Placing
from merging.tokenization.embeddings import RearrangedTensor
from merging.tokenization.tokenizers import load_tokenizer

_OBSERVATIONS = forms.named(version=1)
CALIBRATION_TOKENS = 512
"""Longer texts are cut to this many tokens."""


def calibrate(steps: Iterable[Step], parents: ParentSet, progress: OnRead | None = None) -> None:
    """Run every parent over its calibration file, if a step's method needs this and it was not done yet.

    Args:
        steps: the steps of the merge.
        parents: the open parents.
        progress: called with (phase, texts done, texts in all).

    Raises:
        MergingError: a file is missing, or holds no text; a parent cannot be run, or has nothing to observe.
    """
    for kind, parent, file in dict.fromkeys(pair for step in steps for pair in _needs(step)):
        observations(kind, parent, file, parents, progress)


def observed(step: Step, index: int, parents: ParentSet) -> Tensor | None:
    """Return what was observed of an input's tensor: (in, in) or its own shape; None if its module is not observed."""
    kind, _, file = list(_needs(step))[index]
    source: Source = step.inputs[index]
    found = observations(kind, source.parent, file, parents)
    stored = parents.stored(source.parent, source.tensor)
    tensor = step.name if isinstance(stored, RearrangedTensor) else source.tensor
    # A tied head has no tensor of its own, only the embedding.
    own = found.get(tensor, found.get(parents.architecture.tied_weights.get(tensor, tensor)))
    if kind == "fisher" and isinstance(stored, RearrangedTensor):
        return _rearranged(own, stored.alignment.own[source.parent])
    return own  # all rows of a linear layer have the same inputs


def _rearranged(fisher: Tensor | None, own: Tensor) -> Tensor | None:
    """Return an embedding's Fisher information in the rows of another vocabulary: zero for rows that are filled."""
    if fisher is None:
        return None
    own = own.to(fisher.device)
    rows = fisher[own.clamp(min=0)]
    rows[own < 0] = 0
    return rows


def observations(
    kind: Observed, parent: str, file: str, parents: ParentSet, progress: OnRead | None = None
) -> dict[str, Tensor]:
    """Return what is observed of a parent on a file, by tensor; computed at most once per parent set."""
    sequences = cache(lambda: _tokenize(read_texts(file), parent, file, parents))

    def observe() -> dict[str, Tensor]:
        return _observe(kind, parent, file, sequences(), parents, progress)

    def made_of(digest: Digest) -> object:
        return _made_of(parent, sequences(), parents, digest)

    return parents.statistics.once(
        (kind, parent, file), observe, Kept(kind, _OBSERVATIONS, made_of, parents.place(parents.device))
    )


def _made_of(parent: str, sequences: Sequence[Tensor], parents: ParentSet, digest: Digest) -> object:
    """Return what identifies observations: the token ids of the texts, the weights, the config, and the code."""
    checkpoint = parents.checkpoints[parent]
    weights = [parents.stored(parent, name).made_of(digest) for name in _names(parent, parents)]
    own_code = checkpoint.folder.glob("*.py") if checkpoint.options.trust_remote_code else ()
    code = [version("transformers"), *(digest(file) for file in sorted(own_code))]
    return [[ids.tolist() for ids in sequences], weights, checkpoint.config.to_dict(), code]


def _names(parent: str, parents: ParentSet) -> list[str]:
    tied = parents.architecture.tied_weights if parents.checkpoints[parent].config.tie_word_embeddings else ()
    return [name for name in parents.names(parent) if name not in tied]


def _needs(step: Step) -> Iterator[tuple[Observed, str, str]]:
    kind = METHODS[step.method].observes
    if kind is not None:
        for source, file in zip(step.inputs, dict(step.per_input)["calibration"], strict=True):
            yield kind, source.parent, str(file)


def _observe(
    kind: Observed,
    parent: str,
    file: str,
    sequences: Sequence[Tensor],
    parents: ParentSet,
    progress: OnRead | None,
) -> dict[str, Tensor]:
    watch = partial(progress, f"calibrating {Path(parent).name}") if progress else None
    place = parents.place(parents.device)

    def run() -> dict[str, Tensor]:
        model = _float32_model(parent, parents)
        on_device = [ids.to(parents.device) for ids in sequences]
        observe = {"gram": mean_grams, "fisher": diagonal_fisher}[kind]
        return in_parts(lambda names: observe(model, on_device, watch, names), observable(kind, model), place)

    with torch.inference_mode(False):
        what = f"{parents.device} ran out of memory while {parent} was calibrated"
        found = with_room(run, lambda: parents.give_up_some(parents.device), what)
    by_name = {parents.architecture.layout.name_of(name): tensor for name, tensor in found.items()}
    merged = parents.names(parent)
    found = {name: by_name[name] for name in merged if name in by_name}
    if not found:
        raise MergingError(
            f"model {parent}: has no linear layers (torch.nn.Linear) whose inputs could be observed; "
            "choose a method that needs no calibration"
        )
    for name, tensor in found.items():
        if not tensor.isfinite().all():
            raise MergingError(
                f"model {parent}: what it computes from {file} is not finite (seen at {name}); "
                "look for NaN or Inf in its weights"
            )
    return found


def observable(kind: Observed, model: nn.Module) -> list[str]:
    """Return the names of the tensors that can be observed."""
    if kind == "fisher":
        return [name for name, _ in model.named_parameters()]
    return [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def in_parts(
    observe: Callable[[Sequence[str]], dict[str, Tensor]], names: Sequence[str], place: Placing | None = None
) -> dict[str, Tensor]:
    """Observe many tensors together; if memory runs out, half of them at a time, and so on.

    Args:
        observe: returns the observations of some tensors, by name; they do not depend on the other tensors.
        names: the names of all tensors.
        place: puts a tensor where there is room for it.
    """
    found: dict[str, Tensor] = {}
    left = [list(names)]
    while left:
        some = left.pop()
        try:
            own = observe(some)
        except Exception as error:
            if len(some) < 2 or not is_out_of_memory(error):
                raise
            left += [some[len(some) // 2 :], some[: len(some) // 2]]
        else:
            found |= {name: place(tensor, None) if place else tensor for name, tensor in own.items()}
            del own
    return found


def read_texts(file: str) -> list[str]:
    """Read the texts of a calibration file.

    A .jsonl file has one text per line: a string, or a mapping with `text`, or with `prompt` and `canonical_solution`,
    as in problem sets. In any other file, texts are separated by empty lines.

    Raises:
        MergingError: the file is missing, is not UTF-8, has a line of another kind, or holds no text.
    """
    try:
        content = Path(file).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise MergingError(
            f"calibration: {file}: cannot be read: {error.strerror}; give a small .jsonl or text file"
        ) from None
    except UnicodeDecodeError:
        raise MergingError(f"calibration: {file}: is not UTF-8 text") from None
    if file.endswith(".jsonl"):
        texts = [_text(line, f"{file}:{number}") for number, line in enumerate(content.split("\n"), 1) if line.strip()]
    else:
        texts = [text for text in content.split("\n\n") if text.strip()]
    if not any(text.strip() for text in texts):
        raise MergingError(f"calibration: {file}: holds no text; a few dozen examples of what the model is for will do")
    return [text for text in texts if text.strip()]


def _text(line: str, where: str) -> str:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise MergingError(f"calibration: {where}: is not JSON: {first_line(error)}") from None
    if isinstance(data, dict):
        parts = [data[key] for key in ("prompt", "canonical_solution") if key in data]
        data = data.get("text", "".join(parts) if parts and all(isinstance(part, str) for part in parts) else None)
    if not isinstance(data, str):
        raise MergingError(f"calibration: {where}: expected a string, or a mapping with 'text', got {shown(line)}")
    return data


def _float32_model(parent: str, parents: ParentSet) -> nn.Module:
    config = copy.deepcopy(parents.checkpoints[parent].transformers_config)
    config.dtype = torch.float32
    model = build_model(config, parents)
    targets = {parents.architecture.layout.name_of(name): tensor for name, tensor in model.state_dict().items()}
    for name in _names(parent, parents):
        targets[name].copy_(parents.source(parent, name))
    return model


# Merging runs in inference mode, where new tensors can have no gradients.
@torch.inference_mode(False)
def _tokenize(texts: Sequence[str], parent: str, file: str, parents: ParentSet) -> list[Tensor]:
    tokenizer = load_tokenizer(parent, parents.options)
    text_config = parents.checkpoints[parent].config.get_text_config()
    length = min(CALIBRATION_TOKENS, getattr(text_config, "max_position_embeddings", CALIBRATION_TOKENS))
    encoded = [torch.tensor(tokenizer(text).input_ids[:length]) for text in texts]
    for ids in encoded:
        if ids.numel() and int(ids.max()) >= text_config.vocab_size:
            raise MergingError(f"model {parent}: its tokenizer has ids beyond its embedding, met in {file}")
    return [ids[None] for ids in encoded if ids.numel()]


Watch = Callable[[int, int], None]


def mean_grams(
    model: nn.Module, sequences: Sequence[Tensor], watch: Watch | None = None, names: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Return the mean over all tokens of x xᵀ of the inputs x of each nn.Linear, (in, in), by its weight's name.

    Args:
        model: a model in float32.
        sequences: token ids, (1, tokens) each.
        watch: called with (sequences done, in all).
        names: the names of the weights; by default all.
    """
    found = {f"{name}.weight": each for name, each in model.named_modules() if isinstance(each, nn.Linear)}
    linears = {name: each for name, each in found.items() if names is None or name in names}
    grams = {name: each.weight.new_zeros(each.in_features, each.in_features) for name, each in linears.items()}

    def observe(name: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].reshape(-1, inputs[0].shape[-1])
        grams[name].addmm_(rows.T, rows)  # RegMean's G = XᵀX

    hooks = [each.register_forward_pre_hook(partial(observe, name)) for name, each in linears.items()]
    try:
        with torch.no_grad():
            for done, ids in enumerate(sequences, start=1):
                model(ids)
                if watch:
                    watch(done, len(sequences))
    finally:
        for hook in hooks:
            hook.remove()
    tokens = sum(ids.numel() for ids in sequences)
    return {name: gram.div_(tokens) for name, gram in grams.items()}


def diagonal_fisher(
    model: nn.Module, sequences: Sequence[Tensor], watch: Watch | None = None, names: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Return the mean over all tokens of (∇ log p(y | x))², y drawn from the model itself, by the parameter's name.

    Each position's label is drawn independently, so the square of a text's summed gradient has the sum of the
    positions' squares as its mean. Each parameter's gradient is freed as soon as it is squared.

    Args:
        model: a model in float32.
        sequences: token ids, (1, tokens) each.
        watch: called with (sequences done, in all).
        names: the names of the parameters; by default all.
    """
    generator = torch.Generator().manual_seed(0)
    parameters = {name: each for name, each in model.named_parameters() if names is None or name in names}
    fisher = {name: torch.zeros_like(parameter, requires_grad=False) for name, parameter in parameters.items()}

    def square(name: str, parameter: Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        fisher[name].addcmul_(gradient, gradient)  # Fisher merging's F = E_x E_y (∇ log p(y | x))²

    with ExitStack() as hooks, torch.enable_grad():
        for name, parameter in model.named_parameters():
            hooks.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(name in parameters)
        for name, parameter in parameters.items():
            hook = parameter.register_post_accumulate_grad_hook(partial(square, name))  # type: ignore[no-untyped-call]
            hooks.callback(hook.remove)
        for done, ids in enumerate(sequences, start=1):
            likelihood = log_likelihood_of_a_draw(model(ids).logits[0], generator)
            if likelihood.requires_grad:  # the model may use none of the parameters
                likelihood.backward()  # type: ignore[no-untyped-call]
            if watch:
                watch(done, len(sequences))
    tokens = sum(ids.numel() for ids in sequences)
    return {name: total.div_(tokens) for name, total in fisher.items()}


def log_likelihood_of_a_draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a label for each position of logits (positions, vocabulary); return the log-likelihood of all labels."""
    log_probabilities = torch.log_softmax(logits, dim=-1)
    labels = torch.multinomial(log_probabilities.detach().exp().cpu(), 1, generator=generator)
    return log_probabilities.gather(1, labels.to(logits.device)).sum()
