"""How the transformers backend decodes on a device: its tokens, its seconds a pass, and what a pass consists of.

A model of random weights, of the shape of deepseek-coder, generates as many tokens for every prompt, so that all passes
but the first have one new token per row. What one pass takes is the difference of two runs, divided by the passes by
which they differ: reading the prompts and all that is done once drops out.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor
from torch.autograd import DeviceType
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from evaluation import Request
from evaluation.generation.backends import BackendName, make_backend
from evaluation.generation.engine import tuning
from tests.tiny import TinyVocabulary, byte_tokenizer

_ATTENTION = "aten::_scaled_dot_product_"
# In float32, two logits this close (as a part of the largest) may be in either order in programs that are both right.
_TIE = 1e-4
_SHORT, _LONG = 8, 24


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the checks are.

    Attributes:
        hidden, layers, vocabulary: of the model whose passes are timed.
        rows: prompts that are decoded at once.
        prompt: tokens of the longest prompt; the shortest has half.
        merged_layers: of the models that are merged, which have the shape of deepseek-coder-6.7b otherwise.
    """

    hidden: int = 2048
    layers: int = 24
    vocabulary: int = 32256
    rows: int = 82
    prompt: int = 300
    merged_layers: int = 4

    @property
    def head(self) -> int:
        """The width of an attention head."""
        return min(128, self.hidden // 4)


SMALL = Sizes(hidden=128, layers=2, vocabulary=300, rows=4, prompt=24, merged_layers=1)


def random_model(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> LlamaForCausalLM:
    """Return a model whose weights are made on the device, and which never ends a text by itself."""
    config = LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.hidden * 43 // 16,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.hidden // sizes.head,
        num_key_value_heads=sizes.hidden // sizes.head,
        max_position_embeddings=4096,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with device:
        return LlamaForCausalLM._from_config(config, dtype=dtype).eval()


def requests(sizes: Sizes, new_tokens: int, rows: int | None = None) -> list[Request]:
    """Return prompts of random tokens, from half of the longest length to all of it."""
    generator, count = torch.Generator().manual_seed(1), rows or sizes.rows
    lengths = [sizes.prompt - row * (sizes.prompt // 2) // count for row in range(count)]
    most = min(200, sizes.vocabulary)  # the tokens of the byte tokenizer that are no special ones
    return [
        Request(torch.randint(most, (length,), generator=generator).tolist(), max_new_tokens=new_tokens)
        for length in lengths
    ]


def completions(model: Any, asked: Sequence[Request], backend: BackendName = "transformers") -> list[list[int]]:
    """Return what a backend generates, without guesses, all prompts at once."""
    tokenizer = byte_tokenizer(TinyVocabulary())
    made = make_backend(backend, len(asked))
    try:
        found = dict(made.generate(model, tokenizer, asked, plain=True))
    finally:
        made.close()
    return [list(found[index].tokens) for index in range(len(asked))]


@torch.inference_mode()
def by_generate(model: Any, asked: Sequence[Request]) -> list[list[int]]:
    """Return what transformers' generate writes for each prompt by itself."""
    found = []
    for request in asked:
        ids = torch.tensor([list(request.prompt)], device=model.device)
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=request.max_new_tokens, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip
        found.append(out[0, ids.shape[1] :].tolist())
    return found


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two programs agree: completions that are equal, and those that part where two tokens are as likely."""

    equal: int
    ties: int
    of: int

    @property
    def holds(self) -> bool:
        """Whether every difference is a tie."""
        return self.equal + self.ties == self.of


@torch.inference_mode()
def agreement(model: Any, asked: Sequence[Request], one: Sequence[list[int]], other: Sequence[list[int]]) -> Agreement:
    """Compare completions of a model; where two differ, the model says whether both choices were as good."""
    equal = ties = 0
    for request, a, b in zip(asked, one, other, strict=True):
        place = next((index for index, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
        if place is None:
            equal += len(a) == len(b)
            continue
        ids = torch.tensor([[*request.prompt, *a[:place]]], device=model.device)
        logits = model(ids).logits[0, -1].float()
        ties += bool((logits[a[place]] - logits[b[place]]).abs() <= _TIE * logits.abs().max())
    return Agreement(equal, ties, len(asked))


def copy_speed(device: torch.device, size: int) -> float:
    """Return how many bytes a second a copy on the device moves: what it reads and what it writes."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * size / median(_seconds(device, lambda: target.copy_(source)) for _ in range(5))


def launch_seconds(device: torch.device, count: int = 2000) -> float:
    """Return how long the host takes to launch one small piece of work."""
    number = torch.zeros(1, device=device)

    def launch() -> None:
        for _ in range(count):
            number.add_(1)

    launch()
    return median(_seconds(device, launch) for _ in range(3)) / count


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Wait until a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def any_attention() -> Iterator[None]:
    """Let torch choose among all its backends of attention, cuDNN's too, where generation does not."""
    with patch.object(tuning, "GPU", replace(tuning.GPU, backends=())):
        yield


def pass_seconds(model: Any, sizes: Sizes) -> float:
    """Return the seconds of one decoding pass, all of the host's work included."""

    def run(new_tokens: int) -> float:
        return _seconds(model.device, lambda: completions(model, requests(sizes, new_tokens)))

    run(_SHORT)
    short, long = (median(run(tokens) for _ in range(3)) for tokens in (_SHORT, _LONG))
    return (long - short) / (_LONG - _SHORT)


def pass_contents(model: Any, sizes: Sizes) -> dict[str, Any]:
    """Return what a decoding pass consists of: launches, copies to and from the device, and what takes longest.

    On a CPU the launches are torch's calls that do not call others. The backends of attention are those of all passes.
    """
    on_card = model.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_card]
    counts, names, longest = [], set[str](), dict[str, float]()
    for tokens in (_SHORT, _LONG):
        with profile(activities=activities) as profiled:
            completions(model, requests(sizes, tokens))
            wait(model.device)
        count = {"launches": 0, "to the device": 0, "from the device": 0}
        longest = {}
        for event in profiled.events() or []:
            if event.name.startswith(_ATTENTION):
                names.add(event.name.removeprefix(_ATTENTION))
            if on_card and event.device_type == DeviceType.CUDA:
                kind = "to the device" if "HtoD" in event.name else "from the device" if "DtoH" in event.name else ""
                count[kind or "launches"] += 1
                longest[event.name] = longest.get(event.name, 0.0) + event.time_range.elapsed_us()
            elif not on_card and event.name.startswith("aten::") and not event.cpu_children:
                count["launches"] += 1
                longest[event.name] = longest.get(event.name, 0.0) + event.self_cpu_time_total
        counts.append(count)
    passes = _LONG - _SHORT
    each = {kind: round((counts[1][kind] - counts[0][kind]) / passes, 1) for kind in counts[0]}
    top = sorted(longest, key=lambda name: -longest[name])[:8]
    return each | {"attention": sorted(names), "longest": {name[:80]: round(longest[name] / 1e3, 2) for name in top}}


def pass_syncs(model: Any, sizes: Sizes) -> float | None:
    """Return how often the host waits for the device in a decoding pass, as torch warns of it; None on a CPU."""
    if model.device.type != "cuda":
        return None
    counts = []
    for tokens in (_SHORT, _LONG):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                completions(model, requests(sizes, tokens))
            finally:
                torch.cuda.set_sync_debug_mode("default")
        counts.append(sum("synchroniz" in str(warning.message) for warning in caught))
    return (counts[1] - counts[0]) / (_LONG - _SHORT)


def bytes_read(model: Any, sizes: Sizes) -> int:
    """Return what a pass must read: the weights (of the embedding only some rows), and the keys and values."""
    embedding = model.get_input_embeddings().weight
    weights = sum(each.nbytes for each in model.parameters()) - embedding.nbytes
    cached = sum(len(each.prompt) for each in requests(sizes, 1)) + sizes.rows * (_SHORT + _LONG) // 2
    return weights + cached * 2 * sizes.layers * sizes.hidden * embedding.element_size()


def planned_bytes(model: Any, asked: Sequence[Request], device: torch.device) -> int:
    """Return what is planned for weights, keys and values, and a pass of these requests, all at once."""
    from evaluation.generation.pass_memory import PASS_TOKENS, DeviceKind, ModelShape, pass_bytes

    weights = sum(each.nbytes for each in model.parameters())
    shape = ModelShape.of(model.config, next(model.parameters()).element_size())
    length = max(len(each.prompt) + each.max_new_tokens for each in asked)
    kind: DeviceKind = "cuda" if device.type == "cuda" else "cpu"
    tokens = PASS_TOKENS[kind] + length
    return weights + len(asked) * length * shape.slot_bytes + pass_bytes(shape, tokens, length, kind)


def attention_speeds(sizes: Sizes, device: torch.device, dtype: torch.dtype, shapes: int = 12) -> dict[str, Any]:
    """Return what attention with a mask takes in each of torch's backends: in shapes that are new, and in a known one.

    Milliseconds a call, of one layer of a decoding pass; and which backend torch chooses by itself.
    """
    backends = [SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    heads = sizes.hidden // sizes.head

    def operands(length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        query = torch.ones(sizes.rows, heads, 1, sizes.head, device=device, dtype=dtype)
        key = torch.ones(sizes.rows, heads, length, sizes.head, device=device, dtype=dtype)
        return query, key, key, torch.zeros(sizes.rows, 1, 1, length, device=device, dtype=dtype)

    def call(length: int) -> tuple[float, float]:
        *qkv, mask = operands(length)
        attend = partial(F.scaled_dot_product_attention, *qkv, attn_mask=mask)
        return _seconds(device, attend), _seconds(device, attend)

    found: dict[str, Any] = {}
    for backend in backends:
        with sdpa_kernel([backend]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they say why a backend does not take these operands
            try:
                call(sizes.prompt)
                new, known = zip(*(call(sizes.prompt + more) for more in range(1, shapes)), strict=True)
            except RuntimeError as error:
                found[backend.name] = f"refused: {str(error).splitlines()[0]}"
            else:
                found[backend.name] = {"new": round(median(new) * 1e3, 3), "known": round(median(known) * 1e3, 3)}
    *qkv, mask = operands(sizes.prompt)
    return found | {"chosen": SDPBackend(torch._fused_sdp_choice(*qkv, attn_mask=mask)).name}


def peak_bytes(device: torch.device) -> int | None:
    """Return the most memory that tensors have taken on a card; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
