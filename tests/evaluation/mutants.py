"""Programs near a right one: what a model might have written, mostly wrong, some of it right."""

from __future__ import annotations

import ast
import random
import textwrap
from collections.abc import Iterator

from evaluation import Problem

_COMPARISONS = [ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq]
_OPERATIONS = [ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod]


class _Mutator(ast.NodeTransformer):
    """Changes the one node whose turn it is, among those that can be changed."""

    def __init__(self, turn: int, chance: random.Random) -> None:
        self._turn = turn
        self._chance = chance
        self.seen = 0

    def visit(self, node: ast.AST) -> ast.AST:
        changed = self._change(node) if self._is_due(node) else None
        return changed or self.generic_visit(node)

    def _is_due(self, node: ast.AST) -> bool:
        if not isinstance(node, ast.Compare | ast.BinOp | ast.Constant | ast.BoolOp | ast.Return | ast.If | ast.Call):
            return False
        self.seen += 1
        return self.seen - 1 == self._turn

    def _change(self, node: ast.AST) -> ast.AST | None:
        if isinstance(node, ast.Compare):
            node.ops[0] = self._chance.choice(_COMPARISONS)()
        elif isinstance(node, ast.BinOp):
            node.op = self._chance.choice(_OPERATIONS)()
        elif isinstance(node, ast.BoolOp):
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        elif isinstance(node, ast.Constant):
            value = node.value
            return ast.Constant(not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else None)
        elif isinstance(node, ast.Return):
            return ast.Return(ast.Tuple([node.value or ast.Constant(None)], ast.Load()))
        elif isinstance(node, ast.If):
            node.test = ast.UnaryOp(ast.Not(), node.test)
        elif isinstance(node, ast.Call) and node.args:
            return node.args[0]
        return None


def mutated(problem: Problem, count: int) -> Iterator[str]:
    """Yield completions that differ from the problem's own in one node each, the same ones every time."""
    chance = random.Random(problem.task_id)
    source = "def solution():\n" + problem.canonical_solution
    counter = _Mutator(-1, chance)
    counter.visit(ast.parse(source))
    for turn in chance.sample(range(counter.seen), min(count, counter.seen)):
        tree = ast.fix_missing_locations(_Mutator(turn, chance).visit(ast.parse(source)))
        [function] = tree.body
        assert isinstance(function, ast.FunctionDef)
        yield textwrap.indent("\n".join(ast.unparse(line) for line in function.body), "    ") + "\n"


def truncated(problem: Problem) -> Iterator[str]:
    """Yield the problem's own solution, cut at a line and in the middle of one, and nothing at all."""
    lines = problem.canonical_solution.splitlines(keepends=True)
    yield "".join(lines[: len(lines) // 2])
    yield problem.canonical_solution[: 2 * len(problem.canonical_solution) // 3]
    yield ""
