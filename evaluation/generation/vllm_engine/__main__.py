"""The engine's process: `python -m evaluation.generation.vllm_engine CONNECTION`, an inherited descriptor.

Guarantees: it ends when the other side of the connection does, even in the middle of a completion.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection

from evaluation.errors import EvaluationError
from evaluation.generation.vllm_engine.messages import (
    Answer,
    Cancel,
    Chunk,
    Done,
    Generate,
    Load,
    Loaded,
    Order,
    StartEngine,
)
from evaluation.generation.vllm_engine.weight_stream import WeightPiece


class CancelledError(Exception):
    """The other side has cancelled the load."""


def main() -> None:
    """Serve until the other side hangs up."""
    connection: Connection[Answer, Order] = Connection(int(sys.argv[1]))
    try:
        _serve(connection)
    except (EOFError, ConnectionError):
        return
    except Exception as error:  # report any error to the other side
        traceback.print_exc()
        connection.send(EvaluationError(f"{type(error).__name__}: {error}"))


def _serve(connection: Connection[Answer, Order]) -> None:
    start = connection.recv()
    assert isinstance(start, StartEngine)
    # Imported here, so that a failing import of vLLM is reported like other failures.
    from evaluation.generation.vllm_engine.engine import Engine

    engine = Engine(start.settings, start.memory)
    connection.send(Done())
    while True:
        order = connection.recv()
        if isinstance(order, Load):
            with contextlib.suppress(CancelledError):
                engine.load(_chunks(connection), lambda: connection.send(Done()))
        elif isinstance(order, Generate):
            for completed in engine.generate(order, lambda: _is_cancelled(connection)):
                connection.send(completed)
        elif isinstance(order, Cancel):
            continue  # it came after the last completion, and that order has already been answered
        connection.send(Done())


def _chunks(connection: Connection[Answer, Order]) -> Iterator[Sequence[WeightPiece]]:
    while not isinstance(order := connection.recv(), Loaded):
        if isinstance(order, Cancel):
            raise CancelledError
        assert isinstance(order, Chunk)
        yield order.pieces


def _is_cancelled(connection: Connection[Answer, Order]) -> bool:
    if not connection.poll():
        return False
    assert isinstance(connection.recv(), Cancel)  # EOFError if the other side is gone
    return True


if __name__ == "__main__":
    main()
