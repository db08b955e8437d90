"""The checker's view of the solution's process: the function that the tests call, and what its calls return.

Guarantees: every value that arrives is data of builtin types, or stands for an object over there: an iterator, whose
items are made as the tests take them; a function, whose calls run over there; any other object, which the tests can
only pass back. An answer that is not a message of ours ends the check, without an exception that the tests could catch.
"""

from __future__ import annotations

import builtins
import contextlib
import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn, Self, cast

from evaluation.sandbox.channel import MAX_MESSAGE_BYTES, Channel, ChannelClosed
from evaluation.sandbox.codec import HELD, ITERATOR, MAX_ITEMS, CodecError, decode, encode, refuse
from evaluation.sandbox.control_messages import CheckStatus

Finish = Callable[[CheckStatus, str], NoReturn]  # ends the check with a status and a detail

_MOST_ITEMS = 1024  # the most items of an iterator requested at once


class Remote:
    """An object of the solution's process.

    Attributes:
        form: its form in a message.
    """

    def __init__(self, form: list[object], solution: RemoteSolution) -> None:
        self.form = form
        self._solution = solution

    @property
    def _number(self) -> object:
        return self.form[1]

    def __repr__(self) -> str:
        return f"<{self.form[3]} object>"


class RemoteObject(Remote):
    """An object that is neither an iterator nor a function; equal to nothing, not even itself."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return False


class RemoteFunction(Remote):
    """An object that can be called."""

    def __call__(self, *arguments: object, **keywords: object) -> object:
        """Call it over there. Raises its error."""
        return self._solution.call(self._number, arguments, keywords)


class RemoteIterator(Remote):
    """An object with a next item; equal only to itself."""

    def __init__(self, form: list[object], solution: RemoteSolution) -> None:
        super().__init__(form, solution)
        self._waiting: deque[object] = deque()
        self._end: BaseException | None = None
        self._count = 1

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> object:
        if not self._waiting and self._end is None:
            # One item at first, so that no unwanted one is made; then more, so that long iterators are fast.
            self._waiting, self._end = self._solution.take(self._number, self._count)
            self._count = min(2 * self._count, _MOST_ITEMS)
        if self._waiting:
            return self._waiting.popleft()
        error, self._end = self._end, StopIteration()
        assert error is not None
        raise error

    @property
    def has_waiting(self) -> bool:
        """Whether items have arrived that the tests have not taken yet."""
        return bool(self._waiting)


class RemoteSolution:
    """The solution's process, at the other end of a connection.

    Args:
        channel: the connection.
        finish: ends the check.
    """

    def __init__(self, channel: Channel, finish: Finish) -> None:
        self._channel = channel
        self._finish = finish
        self.was_called = False

    def await_program(self) -> None:
        """Wait until the program has been executed. Raises its error."""
        with self._reading():
            failure = self._receive()
            error = None if failure is None else _rebuild(decode(failure))
        if error is not None:
            raise error

    def entry_point(self, name: str) -> RemoteFunction:
        """Return the function that the tests call."""
        function = RemoteFunction([HELD, 0, "function", name], self)
        vars(function).update(__name__=name, __qualname__=name)
        return function

    def call(self, number: object, arguments: tuple[object, ...], keywords: dict[str, object]) -> object:
        """Call a function over there, and apply its changes to the arguments. Raises its error."""
        given = self._encode([list(arguments), keywords])
        with self._reading():
            succeeded, answer, changed = self._ask([number, given])
            if changed is not None:
                _write_back((*arguments, *keywords.values()), decode(changed, self._remote))
            if succeeded is True:
                return decode(answer, self._remote)
            error = _rebuild(decode(answer))
        raise error

    def take(self, number: object, count: int) -> tuple[deque[object], BaseException | None]:
        """Return the next items of an iterator over there, up to `count`, and the exception that ended it, if any."""
        with self._reading():
            succeeded, items, end = self._ask([number, count])
            if succeeded is not True:
                return deque(), _rebuild(decode(items))
            found = decode(items, self._remote)
            if not isinstance(found, list) or not (found or end):
                raise CodecError
            return deque(found), None if end is None else _rebuild(decode(end))

    def _ask(self, request: list[object]) -> tuple[object, object, object]:
        """Send a request; return the three parts of its answer. Raises ValueError or TypeError for other answers."""
        message = json.dumps(request).encode()
        if len(message) > MAX_MESSAGE_BYTES:
            self._finish("unscorable", f"the tests' arguments: more than {MAX_MESSAGE_BYTES >> 20} MiB")
        self.was_called = True
        try:
            self._channel.send(message)
        except ChannelClosed as error:
            self._lose(error)
        first, second, third = cast("list[object]", self._receive())
        return first, second, third

    def _receive(self) -> object:
        try:
            message = self._channel.receive()
        except ChannelClosed as error:
            self._lose(error)
        return json.loads(message)

    def _lose(self, error: ChannelClosed) -> NoReturn:
        self._finish("lost", f"the solution's process: {error}")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """End the check if something other than a message arrives."""
        try:
            yield
        except (CodecError, ValueError, TypeError, LookupError, RecursionError):
            self._finish("failed", "the solution's process: it sent something that is not a message")

    def _encode(self, value: object) -> object:
        """Return the form of a test's arguments. If they cannot cross, the program is not at fault."""
        try:
            return encode(value, self._form, exact=True)
        except CodecError as error:
            self._finish("unscorable", f"the tests' arguments: {error}")

    def _form(self, value: object) -> object:
        if isinstance(value, Remote) and not (isinstance(value, RemoteIterator) and value.has_waiting):
            return value.form
        if not isinstance(value, Iterator):
            refuse(value)
        items = list(itertools.islice(value, MAX_ITEMS + 1))
        return [ITERATOR, *cast("list[object]", encode(items, self._form, exact=True))[1:]]

    def _remote(self, content: list[object]) -> Remote:
        number, kind, name = content
        if not isinstance(number, int) or not isinstance(kind, str) or not isinstance(name, str):
            raise TypeError
        return _KINDS[kind]([HELD, number, kind, name], self)


_KINDS = {"object": RemoteObject, "function": RemoteFunction, "iterator": RemoteIterator}


def _rebuild(description: object) -> BaseException:
    """Return the builtin error that the solution raised, or one of a base class if its own takes other arguments.

    Raises CodecError if the description is not one of an error.
    """
    if not isinstance(description, tuple) or len(description) != 2 or not isinstance(description[1], tuple):
        raise CodecError
    name, arguments = description
    kind = vars(builtins).get(name) if isinstance(name, str) else None
    if not isinstance(kind, type) or not issubclass(kind, BaseException):
        raise CodecError
    for base in kind.__mro__[: kind.__mro__.index(BaseException)]:
        with contextlib.suppress(TypeError, ValueError):  # UnicodeDecodeError, for one, takes five arguments
            return cast("BaseException", base(*arguments))
    return BaseException(*arguments)


def _write_back(arguments: Sequence[object], changed: object) -> None:
    """Apply the function's changes to the caller's lists, dictionaries and sets, as within one process."""
    if not isinstance(changed, list) or len(changed) != len(arguments):
        raise CodecError
    for mine, theirs in zip(arguments, changed, strict=True):
        if isinstance(mine, list) and isinstance(theirs, list):
            mine[:] = theirs
        elif (isinstance(mine, dict) and isinstance(theirs, dict)) or (
            isinstance(mine, set) and isinstance(theirs, set)
        ):
            mine.clear()
            mine.update(theirs)
