"""The engine's process: `python -m evaluation.generation.vllm_engine CONNECTION WEIGHTS`, two inherited descriptors.

Guarantees: it ends when the other side of the connection does, even in the middle of a completion.
"""

from __future__ import annotations

import sys
import traceback
from multiprocessing.connection import Connection

from evaluation.errors import EvaluationError
from evaluation.generation.vllm_engine.messages import (
    Answer,
    Cancel,
    Done,
    EngineSettings,
    Generate,
    Load,
    Order,
)


def main() -> None:
    """Serve until the other side hangs up."""
    connection: Connection[Answer, Order] = Connection(int(sys.argv[1]))
    try:
        _serve(connection, int(sys.argv[2]))
    except (EOFError, ConnectionError):
        return
    except Exception as error:  # whatever it is, the other side must know
        traceback.print_exc()
        connection.send(EvaluationError(f"{type(error).__name__}: {error}"))


def _serve(connection: Connection[Answer, Order], file: int) -> None:
    settings = connection.recv()
    assert isinstance(settings, EngineSettings)
    # Imported here, so that a vLLM that cannot be imported is reported like other failures.
    from evaluation.generation.vllm_engine.engine import Engine
    from evaluation.generation.vllm_engine.shared_weights import SeenWeights

    engine = Engine(settings, SeenWeights(file))
    connection.send(Done())
    while True:
        order = connection.recv()
        if isinstance(order, Load):
            engine.load(order.weights)
        elif isinstance(order, Generate):
            for completed in engine.generate(order, lambda: _is_cancelled(connection)):
                connection.send(completed)
        elif isinstance(order, Cancel):
            continue  # it came after the last completion, whose end was answered
        connection.send(Done())


def _is_cancelled(connection: Connection[Answer, Order]) -> bool:
    if not connection.poll():
        return False
    assert isinstance(connection.recv(), Cancel)  # EOFError if the other side is gone
    return True


if __name__ == "__main__":
    main()
