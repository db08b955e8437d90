"""Streaming: the memory needed to bring parents to a device that has no room to keep them, computed from sizes alone.

The sources of one tensor that are not kept on the device are a group. A group of up to a chunk is copied ahead of the
work into one of two buffers. A larger one is not: it is merged piece by piece, each copied when its turn comes. So the
memory never exceeds three chunks, whatever the models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CHUNK = 256 << 20
"""The most bytes of a group that is copied as a whole, by default.

The largest tensors of a layer of three 7B parents take a little more, and so are merged in pieces: on a small card,
keys and values make better use of the memory than copying ahead would.
"""

ALIGNMENT = 512
"""Tensors begin at multiples of this many bytes in a buffer."""

# A piece's sources take an eighth of a chunk: the piece before is still there, and eager kernels' results of both.
_INTERMEDIATE = 8


@dataclass(frozen=True, slots=True)
class StreamingBytes:
    """The bytes that streaming takes at most: of the device's memory, and of the host's, pinned."""

    device: int
    host: int


def streaming_bytes(groups: Iterable[Sequence[int]], chunk: int = CHUNK, *, from_files: bool = False) -> StreamingBytes:
    """Return what streaming takes on a device.

    Args:
        groups: for each tensor of the merge, the bytes of each of its sources that is not kept on the device.
        chunk: the most bytes of a group that is copied as a whole.
        from_files: whether some sources are kept nowhere, and are read into pinned memory first.
    """
    groups = list(groups)
    buffer = buffer_bytes(groups, chunk)
    pieces = chunk if any(group_bytes(group) > chunk for group in groups) else 0
    return StreamingBytes(2 * buffer + pieces, 2 * buffer * from_files)


def buffer_bytes(groups: Iterable[Sequence[int]], chunk: int = CHUNK) -> int:
    """Return the bytes of each of the two buffers: those of the largest group that is copied as a whole."""
    return max((size for group in groups if (size := group_bytes(group)) <= chunk), default=0)


def group_bytes(sizes: Iterable[int]) -> int:
    """Return the bytes that tensors of these sizes take in a buffer."""
    return sum(map(aligned, sizes))


def aligned(size: int) -> int:
    """Return a size rounded up to the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def piece_elements(bytes_per_element: int, chunk: int, multiple: int) -> int:
    """Return the elements of a piece.

    Args:
        bytes_per_element: the bytes that an element takes in all sources together.
        chunk: the bytes that a piece and what is made of it may take.
        multiple: the number that the result is a multiple of.
    """
    return max(1, chunk // _INTERMEDIATE // (bytes_per_element * multiple)) * multiple
