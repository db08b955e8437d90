"""Problem sets, and the formats that they are read from."""

from evaluation.problems.files import read_lines
from evaluation.problems.problem import PROMPT_FORMATS, Problem, PromptFormat, Style
from evaluation.problems.problem_set import Part, ProblemSet
from evaluation.problems.sources import SETS, SOURCES, is_there, load_problem_sets, load_problems

__all__ = [
    "PROMPT_FORMATS",
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
