"""The code in what a chat model answers: parsed, as EvalPlus sanitizes (arXiv:2305.01210), and matched by no pattern.

Guarantees: an answer of any text gives some code and raises nothing. Of several blocks the longest that defines the
function is taken; of that, the function, what it reaches, and all imports.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from evaluation.problems.problem import parse

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


@dataclass(frozen=True, slots=True)
class Block:
    """Lines that are a program.

    Attributes:
        text: the lines.
        tree: what they parse to.
        size: how many of them are not blank.
    """

    text: str
    tree: ast.Module
    size: int


def code_of(answer: str, entry_point: str) -> str:
    """Return the definition of a function in an answer, after the imports and with what it reaches.

    Where no part of the answer defines it, the longest part that is a program; where none is, the answer.
    """
    found = list(blocks(answer))
    defining = [block for block in found if entry_point in _by_name(block.tree.body)]
    if not found:
        return answer
    if not defining:
        return max(found, key=lambda block: block.size).text
    return _needed(max(defining, key=lambda block: block.size), entry_point)


def blocks(text: str) -> Iterator[Block]:
    """Yield the parts of a text that are programs: from each line on which one can begin, as far as it goes.

    Those that begin at a statement of one before are left out; they end where that does.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    within: set[int] = set()
    for start, line in enumerate(lines):
        if start in within or not line.strip() or line[0] in " \t":
            continue
        end, tree = _longest(lines, start)
        if tree is not None and tree.body:
            yield Block("\n".join(lines[start:end]), tree, sum(bool(line.strip()) for line in lines[start:end]))
            within |= {start + number for number in _outer_lines(tree, end - start)}


def _longest(lines: Sequence[str], start: int) -> tuple[int, ast.Module | None]:
    """Return where the longest program that begins at a line ends, and its tree."""
    end = len(lines)
    while end > start:
        try:
            return end, parse("\n".join(lines[start:end]))
        except SyntaxError as error:
            # What is wrong with a line stays so whatever follows, so the program ends before it.
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
    """Return the lines, from 0, on which a statement of a program begins, or that belong to none."""
    inner: set[int] = set()
    for node in tree.body:
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
        inner |= set(range(first, node.end_lineno or first))
    return set(range(count)) - inner


def _needed(block: Block, entry_point: str) -> str:
    imports = [node for node in block.tree.body if _is_import(node)]
    definitions = _by_name(block.tree.body)
    reached = _reached(entry_point, definitions)
    kept = [node for node in block.tree.body if any(definitions[name] is node for name in reached)]
    try:
        return "\n\n".join(ast.unparse(node) for node in [*imports, *kept])
    except RecursionError:
        return block.text


def _is_import(node: ast.stmt) -> bool:
    # One from __future__ cannot stand after the prompt.
    return isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and node.module != "__future__")


def _by_name(body: Sequence[ast.stmt]) -> dict[str, _Definition]:
    """Return what defines each name: the first that does, but a function that returns something before a mere stub."""
    found: dict[str, _Definition] = {}
    for node in body:
        if isinstance(node, _Definition):
            for name in _names(node):
                if name not in found or (_is_stub(found[name]) and not _is_stub(node)):
                    found[name] = node
    return found


def _names(node: _Definition) -> Collection[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return (node.name,)
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]


def _is_stub(node: _Definition) -> bool:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    return not any(isinstance(part, ast.Return | ast.Yield | ast.YieldFrom) for part in ast.walk(node))


def _reached(entry_point: str, definitions: dict[str, _Definition]) -> set[str]:
    """Return the names of the entry point and of all definitions that it uses, or that these use."""
    reached, waiting = {entry_point}, [entry_point]
    while waiting:
        used = {part.id for part in ast.walk(definitions[waiting.pop()]) if isinstance(part, ast.Name)}
        new = (used & definitions.keys()) - reached
        reached |= new
        waiting += new
    return reached
