"""The solution's side of a check: it executes what the model wrote, and answers calls of the entry point.

Guarantees: no test text ever enters this process or its zygote. Nothing it says can be a pass: it can only return
values, which the checker then judges.
"""

from __future__ import annotations

import builtins
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, cast

from evaluation.sandbox.channel import MAX_REPLY_BYTES, MAX_REQUEST_BYTES, Channel, ChannelClosed
from evaluation.sandbox.codec import decode, dumps, encode

_BUILTIN_ERRORS = frozenset(
    value for value in vars(builtins).values() if isinstance(value, type) and issubclass(value, BaseException)
)


@dataclass(frozen=True, slots=True)
class SolutionJob:
    """What a solution's process is told: the program, and the name of the function that will be called."""

    program: str
    entry_point: str


def serve(job: SolutionJob, connection: int, confine: Callable[[], None]) -> NoReturn:
    """Confine this process, execute the program and answer calls until the checker is gone."""
    leave, channel = os._exit, Channel(connection, MAX_REQUEST_BYTES)
    try:
        confine()
        channel.send(str(os.getpid()).encode())
        answer = _load(job)
        if isinstance(answer, bytes):
            channel.send(answer)
        else:
            channel.send(b"null")
            while True:
                channel.send(_answer(answer, channel.receive()))
    except ChannelClosed:
        pass
    finally:
        leave(0)


def _load(job: SolutionJob) -> Callable[..., object] | bytes:
    """Execute the program, and return its entry point, or the message that says why there is none."""
    random.seed(0)
    namespace: dict[str, object] = {}
    try:
        exec(compile(job.program, "<solution>", "exec"), namespace)
        if job.entry_point not in namespace:
            raise NameError(f"name '{job.entry_point}' is not defined")
    except BaseException as error:  # whatever it raises, SystemExit too, is the program's failure
        return dumps(_describe(error)).encode()
    return cast("Callable[..., object]", namespace[job.entry_point])


def _answer(function: Callable[..., object], request: bytes) -> bytes:
    """Make one call, and return the message of its result and, if it changed them, of its arguments."""
    given, keywords = json.loads(request)
    arguments = cast("list[object]", decode(given))
    try:
        result = dumps(function(*arguments, **cast("dict[str, object]", decode(keywords))))
        changed = dumps(arguments) if encode(arguments) != given else "null"
        reply = f"[true, {result}, {changed}]"
    except BaseException as error:
        reply = f"[false, {dumps(_describe(error))}, null]"
    if len(reply) > MAX_REPLY_BYTES:
        reply = '[false, ["t", "MemoryError", ["t", "the result is larger than 1 MiB"]], null]'
    return reply.encode()


def _describe(error: BaseException) -> tuple[str, tuple[object, ...]]:
    """Return the nearest builtin type's name and the error's arguments."""
    name = next(kind.__name__ for kind in type.mro(type(error)) if kind in _BUILTIN_ERRORS)
    arguments = BaseException.args.__get__(error)  # type: ignore[attr-defined]
    if all(type(argument) in (str, int) for argument in arguments):
        return name, tuple(argument[:500] if isinstance(argument, str) else argument for argument in arguments)
    return name, (str(error)[:500],)
