"""Finds the code in a chat answer by parsing it, as EvalPlus does (arXiv:2305.01210), instead of matching patterns.

Guarantees: every answer yields some code after a bounded amount of parsing; none raises an error. Of several
definitions of the function, the last one that returns something is taken, with the imports beside it and all statements
that it depends on, wherever they are. Example calls and script code are left out.
"""

from __future__ import annotations

import ast
import codeop
import textwrap
import warnings
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from evaluation.answers.definitions import at_once, needed, rank
from evaluation.answers.wrapping import is_fence, readings, sections
from evaluation.problems.problem import parse

# The limit on characters parsed per answer: this many times the answer's length, but at least this many. Without a
# limit, 500 unclosed brackets would be parsed 125,000 times.
_MOST_TIMES, _LEAST_CHARACTERS = 200, 1_000_000
# With these flags, an error of `compile` says whether the input is merely incomplete.
_ONE_LINE = ast.PyCF_ONLY_AST | codeop.Compile().flags


class Effort:
    """The parsing budget of one answer."""

    def __init__(self, answer: str) -> None:
        self._left = max(_LEAST_CHARACTERS, _MOST_TIMES * len(answer))

    def allows(self, program: str) -> bool:
        """Charge a program to the budget, and return whether it may be parsed."""
        self._left -= len(program)
        return self._left >= 0


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """Consecutive lines that parse as a program.

    Attributes:
        text: the lines.
        tree: their syntax tree.
        place: their line numbers in the whole text, from 0.
        is_cut_off: whether their fence is never closed and the rest of it is not a program.
    """

    text: str
    tree: ast.Module
    place: range
    is_cut_off: bool

    @property
    def size(self) -> int:
        """The number of lines that are not blank."""
        return sum(bool(line.strip()) for line in self.text.split("\n"))


def code_of(answer: str, entry_point: str, indentation: str = "") -> str:
    """Return a function's definition from an answer, after the imports and with the statements that it depends on.

    If no part of the answer defines the function, return its body if a part holds that; failing that, the longest part
    that is a program; failing that, the whole answer.

    Args:
        answer: the text that the model generated.
        entry_point: the function's name.
        indentation: the indentation of the function's body, if the prompt begins the function.
    """
    read, effort = readings(answer), Effort(answer)
    for texts in read:
        if code := _definition(texts, entry_point, effort) or (
            indentation and next(_bodies(texts, indentation, effort), "")
        ):
            return code
    longest = max(blocks(read[0][0], effort), key=lambda block: block.size, default=None)
    return longest.text if longest else answer


def blocks(text: str, effort: Effort | None = None) -> Iterator[CodeBlock]:
    """Yield the parts of a text that are programs: the longest one from each line where a program can begin.

    A part that begins at a statement of an earlier part is skipped, because it ends where that one does. The iterator
    ends when the effort is spent.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    effort = effort or Effort(text)
    fences = [number for number, line in enumerate(lines) if is_fence(line)]
    last = max((number for number, line in enumerate(lines) if line.strip()), default=0)
    within: set[int] = set()
    for start, line in enumerate(lines):
        if start in within or not line.strip() or line[0] in " \t" or not _may_begin(line):
            continue
        end, tree = _longest(lines, start, effort)
        if tree is not None and tree.body:
            # It lies in a fence that is never closed, and ends before the text does.
            is_cut_off = bisect_left(fences, start) % 2 == 1 and bisect_left(fences, end) == len(fences) and end <= last
            yield CodeBlock("\n".join(lines[start:end]), tree, range(start, end), is_cut_off)
            within |= {start + number for number in _outer_lines(tree, end - start)}


def _may_begin(line: str) -> bool:
    """Whether a program may begin with a line. Most prose already fails here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(f"{line}\n", "<answer>", "exec", _ONE_LINE)
    except SyntaxError as error:
        return "incomplete input" in error.msg
    except (ValueError, RecursionError, MemoryError):
        return True
    return True


def _longest(lines: Sequence[str], start: int, effort: Effort) -> tuple[int, ast.Module | None]:
    """Return the end of the longest program that begins at a line, and its tree; the line and None without one."""
    end = len(lines)
    while end > start and effort.allows(program := "\n".join(lines[start:end])):
        try:
            return end, parse(program)
        except SyntaxError as error:
            # A wrong line stays wrong whatever follows it, so the program ends before it.
            end = min(end - 1, start + max(0, (error.lineno or 1) - 1))
        except ValueError:  # a NUL byte, half of a surrogate pair
            end = min(end - 1, next(number for number in range(start, end) if not _is_source(lines[number])))
        except (RecursionError, MemoryError):
            break
    return start, None


def _is_source(line: str) -> bool:
    try:
        return b"\0" not in line.encode()
    except UnicodeEncodeError:
        return False


def _outer_lines(tree: ast.Module, count: int) -> set[int]:
    """Return the lines (from 0) on which a statement of the program begins, or which belong to no statement."""
    inner: set[int] = set()
    for node in tree.body:
        inner |= set(range(node.lineno, node.end_lineno or node.lineno))
    return set(range(count)) - inner


def _definition(texts: Sequence[str], entry_point: str, effort: Effort) -> str | None:
    """Return the best definition of the function in some texts; among equals, the last in the first text with one."""
    best: tuple[tuple[bool, ...], Sequence[CodeBlock], CodeBlock] | None = None
    for found in (list(blocks(text, effort)) for text in texts):
        end = 0
        for block in found:
            quality = None if block.place.start < end else _quality(block, entry_point)
            end = block.place.stop if quality else end  # code inside its strings does not count
            if quality and (best is None or quality > best[0] or (quality == best[0] and found is best[1])):
                best = quality, found, block
    return _needed(*best[1:], entry_point) if best else None


def _quality(block: CodeBlock, entry_point: str) -> tuple[bool, ...] | None:
    """Rate a block's definition of the function; None if it has none."""
    if (found := rank(block.tree.body, entry_point)) is None:
        return None
    returns, does_something = found
    return returns, not block.is_cut_off, does_something


def _needed(found: Sequence[CodeBlock], own: CodeBlock, entry_point: str) -> str:
    others = [node for block in found if block.place.start not in own.place for node in block.tree.body]
    return _unparsed(needed(own.tree.body, others, entry_point)) or own.text


def _unparsed(nodes: Sequence[ast.stmt]) -> str | None:
    try:
        return "\n\n".join(map(ast.unparse, nodes))
    except (RecursionError, ValueError):  # a backslash within an f-string, up to Python 3.11
        return None


def _bodies(texts: Sequence[str], indentation: str, effort: Effort) -> Iterator[str]:
    """Yield the function bodies in an answer, those in its last fence first."""
    for text in texts:
        parts = sections(text)
        for part in (*reversed(parts[1::2]), *parts[::2]):
            beginning = "\n".join(takewhile(_is_inner, part.strip("\n").split("\n")))
            # A body that continues the prompt's last line lacks the indentation that the prompt already has.
            for written in (beginning, part, indentation + part.lstrip("\n")):
                for block in blocks(textwrap.dedent(written), effort):
                    if any(isinstance(it, ast.Return | ast.Yield) for node in block.tree.body for it in at_once(node)):
                        yield textwrap.indent(_unparsed(block.tree.body) or block.text, indentation)


def _is_inner(line: str) -> bool:
    return not line.strip() or line[0] in " \t"
