"""The solution's side of a check: it executes the generated program, and answers calls of the entry point.

Guarantees: the text of the tests never enters this process or its zygote. Nothing that it sends can be a pass: it only
returns values, which the checker judges.
"""

from __future__ import annotations

import builtins
import json
import os
import random
from collections.abc import Callable, Iterator
from typing import NoReturn, cast

from evaluation.sandbox.channel import MAX_MESSAGE_BYTES, Channel, ChannelClosed
from evaluation.sandbox.codec import HELD, decode, dumps, encode
from evaluation.sandbox.control_messages import Run

_BUILTIN_ERRORS = frozenset(
    value for value in vars(builtins).values() if isinstance(value, type) and issubclass(value, BaseException)
)
_TOO_LARGE = f'[false, ["t", "MemoryError", ["t", "the result is larger than {MAX_MESSAGE_BYTES >> 20} MiB"]], null]'


def serve(order: Run, connection: int, number: int, confine: Callable[[], None]) -> NoReturn:
    """Confine this process, send its number, execute the program and answer requests until the checker is gone."""
    leave, channel = os._exit, Channel(connection)
    try:
        confine()
        channel.send(str(number).encode())
        program = _load(order)
        if isinstance(program, bytes):
            channel.send(program)
        else:
            channel.send(b"null")
            while True:
                channel.send(program.answer(channel.receive()))
    except ChannelClosed:
        pass
    finally:
        leave(0)


def _load(order: Run) -> _Program | bytes:
    """Execute the program and return it, or a message that says why it failed."""
    random.seed(0)
    namespace: dict[str, object] = {}
    try:
        exec(compile(order.program, "<solution>", "exec"), namespace)
        if order.entry_point not in namespace:
            raise NameError(f"name '{order.entry_point}' is not defined")
    except BaseException as error:  # any exception, even SystemExit, is the program's failure
        return dumps(_describe(error)).encode()
    return _Program(namespace[order.entry_point])


class _Program:
    """The objects that the checker may use: the entry point, number 0, and every object kept for it since."""

    def __init__(self, entry_point: object) -> None:
        self._held = {0: entry_point}
        self._numbers = {id(entry_point): 0}
        self._next_number = 1

    def answer(self, request: bytes) -> bytes:
        """Return the answer to a request: a call of a function, or the next items of an iterator."""
        number, wanted = json.loads(request)
        try:
            answer = self._take(number, wanted) if isinstance(wanted, int) else self._call(number, wanted)
        except BaseException as error:
            answer = f"[false, {dumps(_describe(error))}, null]"
        return (answer if len(answer) <= MAX_MESSAGE_BYTES else _TOO_LARGE).encode()

    def _call(self, number: int, given: object) -> str:
        """Make one call; return its result, and its arguments if it changed them."""
        arguments, keywords = cast("tuple[list[object], dict[str, object]]", decode(given, self._find))
        function = cast("Callable[..., object]", self._held[number])
        result = dumps(function(*arguments, **keywords), self._hold)
        if encode([arguments, keywords], self._hold) == given:
            return f"[true, {result}, null]"
        return f"[true, {result}, {dumps([*arguments, *keywords.values()], self._hold)}]"

    def _take(self, number: int, count: int) -> str:
        """Return the next items of an iterator, and the exception that ended it, if any."""
        iterator = cast("Iterator[object]", self._held[number])
        items: list[object] = []
        end = "null"
        try:
            while len(items) < count:
                items.append(next(iterator))
        except BaseException as error:
            end = dumps(_describe(error))
            self._held[number] = iter(())  # free the ended iterator, which may be large
            self._numbers.pop(id(iterator), None)
        return f"[true, {dumps(items, self._hold)}, {end}]"

    def _hold(self, value: object) -> object:
        """Keep a value that has no plain form, and return the form that stands for it."""
        number = self._numbers.setdefault(id(value), self._next_number)
        if number == self._next_number:
            self._held[number] = value
            self._next_number += 1
        kind = type(value)
        sort = "iterator" if hasattr(kind, "__next__") else "function" if callable(value) else "object"
        return [HELD, number, sort, kind.__name__[:80]]

    def _find(self, content: list[object]) -> object:
        return self._held[cast("int", content[0])]


def _describe(error: BaseException) -> tuple[str, tuple[object, ...]]:
    """Return the nearest builtin type's name and the error's arguments."""
    name = next(kind.__name__ for kind in type.mro(type(error)) if kind in _BUILTIN_ERRORS)
    arguments = BaseException.args.__get__(error)  # type: ignore[attr-defined]
    if all(type(argument) in (str, bytes, int) for argument in arguments):
        return name, tuple(argument if isinstance(argument, int) else argument[:500] for argument in arguments)
    return name, (str(error)[:500],)
