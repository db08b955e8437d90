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
    from evaluation.errors import ConsentError, EvaluationError, LogitsError, ModelError
    from evaluation.evaluator import Evaluator, Solution
    from evaluation.generation.backend_protocol import ComputeDtype, Generated, Request
    from evaluation.generation.backends import BACKENDS, BackendName
    from evaluation.generation.compute_dtype import Speeds, compute_speeds
    from evaluation.generation.drafting.draft_store import Draft, DraftStore
    from evaluation.generation.room import Room
    from evaluation.generation.sampling import Sampling
    from evaluation.observer import Observer, OutcomeCounter
    from evaluation.problems import PROMPT_FORMATS, Problem, ProblemSet, PromptFormat, load_problem_sets, load_problems
    from evaluation.report import Outcome, Report
    from evaluation.samples import ScoredSamples, score_samples
    from evaluation.sandbox.isolation import Isolation
    from evaluation.sandbox.pool import SandboxPool
    from evaluation.sandbox.verdict import Status, Verdict
    from evaluation.scoring import PairedTest, p_better, paired_test, pass_at_k, wilson_interval
    from evaluation.tokenizer_notes import prompt_notes

# The names that each module exports. They are imported on first use (PEP 562), so that a command that scores nothing
# does not wait for torch.
_NAMES = {
    "errors": "ConsentError EvaluationError LogitsError ModelError",
    "evaluator": "Evaluator Solution",
    "generation.backends": "BACKENDS BackendName",
    "generation.compute_dtype": "Speeds compute_speeds",
    "generation.drafting.draft_store": "Draft DraftStore",
    "generation.backend_protocol": "ComputeDtype Generated Request",
    "generation.room": "Room",
    "generation.sampling": "Sampling",
    "observer": "Observer OutcomeCounter",
    "tokenizer_notes": "prompt_notes",
    "problems": "PROMPT_FORMATS Problem ProblemSet PromptFormat load_problem_sets load_problems",
    "report": "Outcome Report",
    "samples": "ScoredSamples score_samples",
    "sandbox.isolation": "Isolation",
    "sandbox.pool": "SandboxPool",
    "sandbox.verdict": "Status Verdict",
    "scoring": "PairedTest p_better paired_test pass_at_k wilson_interval",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'evaluation' has no attribute {name!r}")
    return getattr(import_module(f"evaluation.{_HOMES[name]}"), name)
