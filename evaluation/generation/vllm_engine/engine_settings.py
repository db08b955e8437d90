"""The settings of a vLLM engine, as a function of the model, its texts and the memory that the engine may take.

Guarantees: pure; nothing here allocates memory. vLLM 0.32 refuses a GPU whose free memory is below
`gpu_memory_utilization`, even if the bytes for keys and values are given. So this fraction never exceeds what the
weights, keys and values will take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.errors import EvaluationError
from evaluation.generation.pass_memory import DeviceKind
from evaluation.generation.room import MOST_ROWS, Room

ENGINE_OVERHEAD_BYTES = 3_500_000_000
"""The bytes of a GPU that an engine takes besides weights, keys and values: the CUDA context, a step's activations and
logits, a tensor that is being loaded, CUDA graphs. An estimate: it was never measured on a GPU."""

_GUESSES: Mapping[DeviceKind, int] = {"cpu": 64, "cuda": 15}
# A guess costs one position of a step; a step costs as much as this many positions, plus those of its rows. The figure
# for GPUs is an estimate.
_STEP_POSITIONS: Mapping[DeviceKind, int] = {"cpu": 20, "cuda": 130}
# The most positions of a step whose rows all generate. On a GPU, CUDA graphs exist up to here, and vLLM takes memory
# for the logits of each graph without having planned it. On a CPU, it is the most that vLLM schedules.
_MOST_POSITIONS: Mapping[DeviceKind, int] = {"cpu": 4096, "cuda": 1024}
# The most tokens that a step reads; vLLM's own default depends on the card.
_READ_TOKENS = 8192
# The fraction of a GPU for a live model and an engine, if the room sets no limit.
_OWN_PART = 0.9
# vLLM reserves keys and values in blocks of this many tokens.
_BLOCK: Mapping[DeviceKind, int] = {"cpu": 128, "cuda": 16}
# The length is rounded up to a multiple of this, so that slightly longer texts do not restart the engine.
_LENGTH_STEP = 1024


@dataclass(frozen=True, slots=True)
class EngineDemand:
    """The model and texts that an engine has to serve.

    Attributes:
        weight_bytes: the bytes of the model's weights.
        slot_bytes: the bytes of one token's keys and values.
        context: the most tokens that the model can read.
        texts: per request, the most tokens of its prompt with its completion.
    """

    weight_bytes: int
    slot_bytes: int
    context: int
    texts: tuple[int, ...]

    @property
    def length(self) -> int:
        """The most tokens of a text that an engine for this demand should accept."""
        return min(self.context, _rounded(max(self.texts), _LENGTH_STEP))


@dataclass(frozen=True, slots=True)
class Device:
    """The device that an engine is started on.

    Attributes:
        kind: the kind of device.
        total_bytes: the bytes of its memory; unused for a CPU.
    """

    kind: DeviceKind
    total_bytes: int = 0


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The settings of an engine.

    Attributes:
        folder: the folder of the model's config and tokenizer; weights are not read from it.
        dtype: the dtype of weights, keys and values, as torch names it.
        rows: requests decoded at once.
        length: the most tokens of a prompt plus its completion plus the guesses beyond it.
        cache_bytes: the bytes for keys and values.
        memory_part: the fraction of a GPU's memory that must be free; None on a CPU.
        draft_tokens: the most tokens guessed at once; 0 makes no guesses.
        step_positions: how many positions cost as much as a step.
        most_positions: the most positions of a step whose rows all generate.
        digits: the tokenizer's digits, see `digits_of`.
    """

    folder: str
    dtype: str
    rows: int
    length: int
    cache_bytes: int
    memory_part: float | None
    draft_tokens: int
    step_positions: int
    most_positions: int
    digits: Mapping[int, str]

    @property
    def kind(self) -> DeviceKind:
        """The kind of device that it is for."""
        return "cpu" if self.memory_part is None else "cuda"


def settings_for(
    demand: EngineDemand,
    device: Device,
    room: Room,
    dtype: str,
    digits: Mapping[int, str],
    batch_size: int | None = None,
    draft_tokens: int | None = None,
) -> EngineSettings:
    """Return the settings of an engine that takes no more than its room.

    If the room sets no limit, an engine on a GPU takes what a live model beside it leaves.

    Args:
        demand: the model and texts that the engine has to serve.
        device: the device that it is started on.
        room: the memory that it may take.
        dtype: the dtype of the weights, as torch names it.
        digits: the tokenizer's digits.
        batch_size: requests decoded at once; by default as many as can use the cache, up to `MOST_ROWS`.
        draft_tokens: the most tokens guessed at once; the default depends on the device.

    Raises:
        EvaluationError: the longest text does not fit.
    """
    guesses = _GUESSES[device.kind] if draft_tokens is None else draft_tokens
    # With less room than this after the longest row, vLLM drops all guesses of a step, and schedules zeros instead.
    length = min(demand.context, demand.length + guesses)
    least = _blocks([length], device.kind) * demand.slot_bytes
    wanted = _wanted(demand, device.kind, batch_size or MOST_ROWS, length, guesses)
    available = wanted if device.kind == "cpu" and room.engine_cache_bytes is None else _available(demand, device, room)
    if device.kind == "cuda" and available < least:
        raise EvaluationError(_too_small(demand, device, room, length, least))
    cache = max(least, min(available, wanted))
    # On average, a text is half as long as the longest.
    rows = min(MOST_ROWS, max(1, 2 * cache // (length * demand.slot_bytes))) if device.kind == "cuda" else MOST_ROWS
    return EngineSettings(
        folder="",
        dtype=dtype,
        rows=batch_size or rows,
        length=length,
        cache_bytes=cache,
        memory_part=None if device.kind == "cpu" else min(1.0, (demand.weight_bytes + cache) / device.total_bytes),
        draft_tokens=guesses,
        step_positions=_STEP_POSITIONS[device.kind],
        most_positions=_MOST_POSITIONS[device.kind],
        digits=digits,
    )


def row_bytes(text: int, slot_bytes: int, kind: DeviceKind) -> int:
    """Return the bytes of the keys and values of a text of `text` tokens, with its guesses."""
    return _rounded(text + _GUESSES[kind], _BLOCK[kind]) * slot_bytes


def least_cache_bytes(text: int, slot_bytes: int, kind: DeviceKind) -> int:
    """Return the fewest bytes for keys and values with which an engine for a text of `text` tokens starts."""
    return _blocks([_rounded(text, _LENGTH_STEP) + _GUESSES[kind]], kind) * slot_bytes


def llm_arguments(settings: EngineSettings, proposer: str) -> dict[str, object]:
    """Return the arguments of `vllm.LLM`.

    Args:
        settings: the engine's settings.
        proposer: the class that makes guesses, as vLLM imports it.
    """
    arguments: dict[str, object] = {
        "model": settings.folder,
        "dtype": settings.dtype,
        "load_format": "dummy",
        "generation_config": "vllm",
        "max_model_len": settings.length,
        "max_num_seqs": settings.rows,
        "kv_cache_memory_bytes": settings.cache_bytes,
        # With cached prefixes, vLLM 0.32 on a CPU chose other tokens after a row had waited for another row's blocks.
        "enable_prefix_caching": False,
    }
    if settings.memory_part is None:
        arguments["enforce_eager"] = True  # on a CPU, compiled code keeps the weights it was compiled with
    else:
        arguments["gpu_memory_utilization"] = settings.memory_part
        arguments["max_num_batched_tokens"] = _READ_TOKENS
    if settings.draft_tokens:
        arguments["speculative_config"] = {
            "method": "custom_class",
            "model": proposer,
            "num_speculative_tokens": settings.draft_tokens,
        }
        if settings.memory_part is not None:
            # vLLM's graphs of whole steps need the same number of guesses in each row, which never happens here.
            sizes = list(capture_sizes(settings.most_positions))
            arguments["compilation_config"] = {"cudagraph_mode": "PIECEWISE", "cudagraph_capture_sizes": sizes}
    return arguments


def capture_sizes(most: int) -> tuple[int, ...]:
    """Return the numbers of positions to capture CUDA graphs for; a step is padded to the next one.

    Args:
        most: the largest number, a power of two.
    """
    sizes = [1, 2, 4, 8]
    while sizes[-1] < most:
        sizes.append(sizes[-1] + max(8, 1 << (sizes[-1].bit_length() - 3)))
    return tuple(sizes)


def _available(demand: EngineDemand, device: Device, room: Room) -> int:
    """Return the bytes that keys and values may take."""
    if room.engine_cache_bytes is not None:
        return room.engine_cache_bytes
    own = int(_OWN_PART * device.total_bytes) - demand.weight_bytes
    whole = room.engine_bytes if room.engine_bytes is not None else own
    return whole - demand.weight_bytes - ENGINE_OVERHEAD_BYTES


def _wanted(demand: EngineDemand, kind: DeviceKind, rows: int, length: int, guesses: int) -> int:
    """Return the bytes of keys and values that an engine can use; on a CPU, whose memory is shared, by these texts."""
    longest = sorted((text + guesses for text in demand.texts), reverse=True)[:rows]
    return _blocks([length] * rows if kind == "cuda" else longest, kind) * demand.slot_bytes


def _blocks(texts: Sequence[int], kind: DeviceKind) -> int:
    """Return the tokens in all blocks that texts fill, including the block that vLLM keeps for itself."""
    return sum(_rounded(text, _BLOCK[kind]) for text in [*texts, 1])


def _too_small(demand: EngineDemand, device: Device, room: Room, length: int, least: int) -> str:
    gigabytes = "{:.1f} GB".format
    parts = (
        f"{gigabytes(demand.weight_bytes / 1e9)} for weights, {gigabytes(ENGINE_OVERHEAD_BYTES / 1e9)} for activations "
        f"and CUDA graphs, and at least {gigabytes(least / 1e9)} for keys and values of {length} tokens"
    )
    if room.engine_cache_bytes is not None:
        may = f"it may take {gigabytes(room.engine_cache_bytes / 1e9)} for keys and values"
    elif room.engine_bytes is not None:
        may = f"it may take {gigabytes(room.engine_bytes / 1e9)} in all"
    else:
        whole = gigabytes(device.total_bytes / 1e9)
        may = f"with a live model beside it, it may take {_OWN_PART:.0%} of a GPU of {whole}"
    return (
        f"vLLM needs {parts}; {may}: lower merging.memory_budget so that fewer parents are on the GPU, or use "
        "the backend transformers"
    )


def _rounded(number: int, step: int) -> int:
    return -(-number // step) * step
