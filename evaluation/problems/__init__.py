"""Problem sets, and the formats that they are read from."""

from evaluation.problems.files import read_lines
from evaluation.problems.loading import SETS, SOURCES, is_there, load_problem_sets, load_problems
from evaluation.problems.problem import Problem, PromptFormat, Style
from evaluation.problems.problem_set import Part, ProblemSet

__all__ = [
    "SETS",
    "SOURCES",
    "Part",
    "Problem",
    "ProblemSet",
    "PromptFormat",
    "Style",
    "is_there",
    "load_problem_sets",
    "load_problems",
    "read_lines",
]
