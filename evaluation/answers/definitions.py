"""The statements of a program that a function needs: its definition, and all that define what it uses.

Names are resolved as Python resolves them, so a function's local names are not taken for the module's. Statements that
call the function are examples, which nothing needs.
"""

from __future__ import annotations

import ast
import io
import symtable
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Definition = _Function | ast.ClassDef
_Import = ast.Import | ast.ImportFrom
# The statements that may define a function; a loop is left out, since its variable is not one.
_Binding = _Definition | ast.Assign | ast.AnnAssign | ast.If | ast.Try

# The rank of a definition: whether it returns something, and whether it does anything at all.
Rank: TypeAlias = tuple[bool, bool]


def rank(body: Iterable[ast.stmt], name: str) -> Rank | None:
    """Return the rank of the best definition of a name in a program, or None if nothing defines it."""
    found = (_Statement.of(node) for node in body if isinstance(node, _Binding))
    return max((each.rank for each in found if each.defines(name)), default=None)


def needed(own: Sequence[ast.stmt], others: Sequence[ast.stmt], name: str) -> Sequence[ast.stmt]:
    """Return the statements that a function needs: all imports of its program first, then the rest in order.

    Args:
        own: the program that defines the function.
        others: other programs, which define what this one lacks.
        name: the function's name.
    """
    mine = [each for each in map(_Statement.of, own) if not each.is_example(name)]
    bound = {made for each in mine for made in each.binds}
    theirs = [each for each in map(_Statement.of, others) if not each.is_example(name) and not each.binds & bound]
    module = _without_drafts([*theirs, *mine])
    imported = {made for each in module if isinstance(each.node, _Import) for made in each.binds}
    kept = [each for each in module if each in mine and (each.imports or each.sets(imported))]
    reached = {name}.union(*(each.uses for each in kept))
    while new := [each for each in module if each not in kept and _makes(each, module, imported, name) & reached]:
        kept += new
        reached = reached.union(*(each.uses for each in new))
    imports = [each.node for each in module if each in kept and isinstance(each.node, _Import)]
    return [*imports, *(each.node for each in module if each in kept and not isinstance(each.node, _Import))]


def body_indentation(program: str, name: str) -> str:
    """Return the indentation of a function's body if that function ends the program; otherwise an empty string."""
    try:
        last = ast.parse(program).body[-1]
    except (SyntaxError, ValueError, RecursionError, MemoryError, IndexError):
        return ""
    if not isinstance(last, ast.FunctionDef | ast.AsyncFunctionDef) or last.name != name:
        return ""
    first = last.body[0]
    lines = list(io.StringIO(program, newline=""))  # as Python counts them; str.splitlines() ends more lines
    before = lines[first.lineno - 1][: first.col_offset]
    return "" if before.strip() else before


def at_once(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a statement and all nodes executed with it, which excludes the bodies of functions and classes."""
    waiting = [node]
    while waiting:
        yield (part := waiting.pop())
        if not isinstance(part, _Definition | ast.Lambda):
            waiting += ast.iter_child_nodes(part)


@dataclass(frozen=True, eq=False, slots=True)
class _Statement:
    """A statement of a module.

    Attributes:
        node: its syntax tree.
        binds: the names that it defines, assigns or imports.
        uses: the module's names that it reads, at once or when the function that it defines is called.
        changes: the names whose items or attributes it sets.
        calls: the names that it calls only for the effect, each with the method called on it (or "").
    """

    node: ast.stmt
    binds: frozenset[str]
    uses: frozenset[str]
    changes: frozenset[str]
    calls: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, node: ast.stmt) -> _Statement:
        try:
            table = symtable.symtable(ast.unparse(node), "<answer>", "exec")
            binds, uses = frozenset(_bound(table)), frozenset(_used(table))
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # a return outside of a function
            binds = uses = frozenset(_names(node))
        parts = list(at_once(node))
        return cls(node, binds, uses, frozenset(_changed(parts)), frozenset(_called(parts)))

    @property
    def rank(self) -> Rank:
        """How complete a definition it is; anything but a function ranks as one that returns something."""
        if not isinstance(self.node, _Function):
            return True, True
        returns = any(isinstance(part, ast.Return | ast.Yield | ast.YieldFrom) for part in ast.walk(self.node))
        return returns, not all(map(_is_idle, self.node.body))

    @property
    def imports(self) -> bool:
        """Whether it is an import, or an `if` or `try` that contains one."""
        parts = at_once(self.node) if isinstance(self.node, _Import | ast.If | ast.Try) else ()
        return any(isinstance(part, _Import) for part in parts)

    def defines(self, name: str) -> bool:
        """Whether it may define a name."""
        return name in self.binds and not self.is_example(name)

    def is_example(self, name: str) -> bool:
        """Whether it only demonstrates the function, runs as a script, or cannot follow other statements."""
        node = self.node
        if isinstance(node, _Import):
            return name in self.binds or (isinstance(node, ast.ImportFrom) and node.module == "__future__")
        if isinstance(node, ast.If) and any(
            isinstance(it, ast.Name) and it.id == "__name__" for it in ast.walk(node.test)
        ):
            return True
        calls = (part.func for part in at_once(node) if isinstance(part, ast.Call))
        return any(isinstance(called, ast.Name) and called.id == name for called in calls)

    def sets(self, imported: set[str]) -> bool:
        """Whether it configures an imported module: a recursion limit, a seed, a precision."""
        setters = (base for base, method in self.calls if method.startswith(("set", "seed")))
        return not imported.isdisjoint({*setters, *self.changes})


def _makes(each: _Statement, module: Sequence[_Statement], imported: set[str], name: str) -> frozenset[str]:
    """Return the names whose values depend on a statement."""
    found = each.binds | each.changes
    for called, method in each.calls:
        if method:
            found |= {called} - imported
        else:
            # A function called only for its effect changes the variables that it uses, if any.
            inside = _reached({called}, module)
            found |= (inside | each.uses) & _variables(module) if name not in inside else frozenset()
    return found


def _reached(names: set[str], module: Sequence[_Statement]) -> frozenset[str]:
    found = frozenset(names)
    while more := frozenset().union(*(each.uses for each in module if each.binds & found)) - found:
        found |= more
    return found


def _variables(module: Sequence[_Statement]) -> frozenset[str]:
    plain = (each for each in module if not isinstance(each.node, _Definition | _Import))
    return frozenset().union(*(each.binds for each in plain))


def _without_drafts(module: Sequence[_Statement]) -> Sequence[_Statement]:
    """Return the statements without the definitions that a later one, or a better one, replaces."""
    best: dict[str, tuple[Rank, int]] = {}
    for index, each in enumerate(module):
        if isinstance(each.node, _Definition):
            best[each.node.name] = max(best.get(each.node.name, (each.rank, index)), (each.rank, index))
    return [
        each
        for index, each in enumerate(module)
        if not isinstance(each.node, _Definition) or best[each.node.name][1] == index
    ]


def _names(node: ast.AST) -> Iterator[str]:
    return (part.id for part in ast.walk(node) if isinstance(part, ast.Name))


def _bound(table: symtable.SymbolTable) -> Iterator[str]:
    return (it.get_name() for it in table.get_symbols() if it.is_assigned() or it.is_imported() or it.is_namespace())


def _used(table: symtable.SymbolTable, outermost: bool = True) -> Iterator[str]:
    for symbol in table.get_symbols():
        if symbol.is_referenced() if outermost else symbol.is_global():
            yield symbol.get_name()
    for child in table.get_children():
        yield from _used(child, outermost=False)


def _changed(parts: Iterable[ast.AST]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, ast.Subscript | ast.Attribute) and not isinstance(part.ctx, ast.Load):
            yield from _base(part)


def _called(parts: Iterable[ast.AST]) -> Iterator[tuple[str, str]]:
    """Yield the name in each call made only for its effect, and the method called on it (or "")."""
    for part in parts:
        if isinstance(part, ast.Expr) and isinstance(part.value, ast.Call):
            function = part.value.func
            if isinstance(function, ast.Name):
                yield function.id, ""
            elif isinstance(function, ast.Attribute):
                yield from ((base, function.attr) for base in _base(function))


def _base(node: ast.expr) -> Iterator[str]:
    while isinstance(node, ast.Subscript | ast.Attribute | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    if isinstance(node, ast.Name):
        yield node.id


def _is_idle(node: ast.stmt) -> bool:
    """Whether a statement is a docstring, an ellipsis, or says that something is still to be written."""
    if isinstance(node, ast.Raise):
        return node.exc is not None and "NotImplementedError" in _base(node.exc)
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
