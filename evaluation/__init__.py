"""Evaluation: a model and problems in, outcomes out. Usable without the other packages.

from evaluation import Evaluator, load_problems
with Evaluator(load_problems("humaneval"), allow_code_execution=True) as evaluator:
    report = evaluator.evaluate(model, tokenizer)
report.pass_at_1, report.outcomes["HumanEval/0"].passed
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evaluation.errors import ConsentError, EvaluationError, ModelError, ScreenedError
    from evaluation.evaluator import Evaluator
    from evaluation.generation.book import DraftBook, DraftEntry
    from evaluation.generation.compute import Speeds, compute_speeds
    from evaluation.generation.draws import Sampling
    from evaluation.generation.protocol import BACKENDS, BackendName, ComputeDtype, Generated, Generator, Request
    from evaluation.preflight import prompt_notes
    from evaluation.problems import Problem, ProblemSet, PromptFormat, load_problem_sets, load_problems
    from evaluation.prompts import PROMPT_FORMATS
    from evaluation.report import Outcome, Report
    from evaluation.samples import ScoredSamples, score_samples
    from evaluation.sandbox.isolation import Isolation
    from evaluation.sandbox.pool import SandboxPool
    from evaluation.sandbox.verdict import Status, Verdict
    from evaluation.scoring import PairedTest, paired_test, pass_at_k, wilson_interval

# Imported on first use, so that a command that scores nothing does not wait for torch.
_HOMES = {
    "BACKENDS": "generation.protocol",
    "BackendName": "generation.protocol",
    "PROMPT_FORMATS": "prompts",
    "ComputeDtype": "generation.protocol",
    "ConsentError": "errors",
    "EvaluationError": "errors",
    "DraftBook": "generation.book",
    "DraftEntry": "generation.book",
    "Evaluator": "evaluator",
    "Generated": "generation.protocol",
    "Generator": "generation.protocol",
    "Isolation": "sandbox.isolation",
    "ModelError": "errors",
    "Outcome": "report",
    "PairedTest": "scoring",
    "Problem": "problems",
    "ProblemSet": "problems",
    "PromptFormat": "problems",
    "Report": "report",
    "Request": "generation.protocol",
    "Sampling": "generation.draws",
    "SandboxPool": "sandbox.pool",
    "ScoredSamples": "samples",
    "ScreenedError": "errors",
    "Speeds": "generation.compute",
    "Status": "sandbox.verdict",
    "Verdict": "sandbox.verdict",
    "compute_speeds": "generation.compute",
    "load_problem_sets": "problems",
    "load_problems": "problems",
    "paired_test": "scoring",
    "pass_at_k": "scoring",
    "prompt_notes": "preflight",
    "score_samples": "samples",
    "wilson_interval": "scoring",
}

__all__ = [
    "BACKENDS",
    "PROMPT_FORMATS",
    "BackendName",
    "ComputeDtype",
    "ConsentError",
    "DraftBook",
    "DraftEntry",
    "EvaluationError",
    "Evaluator",
    "Generated",
    "Generator",
    "Isolation",
    "ModelError",
    "Outcome",
    "PairedTest",
    "Problem",
    "ProblemSet",
    "PromptFormat",
    "Report",
    "Request",
    "Sampling",
    "SandboxPool",
    "ScoredSamples",
    "ScreenedError",
    "Speeds",
    "Status",
    "Verdict",
    "compute_speeds",
    "load_problem_sets",
    "load_problems",
    "paired_test",
    "pass_at_k",
    "prompt_notes",
    "score_samples",
    "wilson_interval",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'evaluation' has no attribute {name!r}")
    return getattr(import_module(f"evaluation.{_HOMES[name]}"), name)
