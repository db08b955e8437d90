"""A family of tiny random models that pass some of some toy problems and fail the others, and searches over it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.tiny import TinyModel, byte_tokenizer, save_tiny_model

_NAMES = ["alpha", "beta", "gamma", "delta", "rho", "sigma", "tau", "phi"]
# For `evaluation`: all problems are searched on, where no report is of interest.
NO_REPORT = ", report_fraction: 0"
# How much likelier than others these models are to end a line.
_EAGERNESS = 2.5


@dataclass(frozen=True)
class Family:
    """A base, two fine-tunes of it, and problems."""

    folder: Path
    base: Path
    a: Path
    b: Path
    problems: Path

    def config(self, recipe: str = "", evaluation: str = "", search: str = "", more: str = "") -> str:
        """Return a config's text; what is given is put into its sections."""
        ties = """
  merge_method: ties
  base_model: base
  models:
    - model: a
      parameters: {density: {low: 0.2, high: 1.0, knots: 2}, weight: 1.0}
    - model: b
      parameters: {density: 0.5, weight: {low: 0.0, high: 1.0}}
"""
        return f"""
recipe: {recipe or ties}
evaluation: {{problems: problems.jsonl, max_new_tokens: 12, workers: 1, allow_code_execution: true{evaluation}}}
search: {{trials: 3, finalists: 2, ascent: off{search}}}
{more}
"""

    def write(self, name: str = "search.yaml", **sections: str) -> Path:
        """Write a config beside the models and return its path."""
        file = self.folder / name
        file.write_text(self.config(**sections), encoding="utf-8")
        return file


def make_family(folder: Path) -> Family:
    """Make the models and the problems."""
    family = Family(folder, folder / "base", folder / "a", folder / "b", folder / "problems.jsonl")
    for model, seed in ((family.base, 0), (family.a, 1), (family.b, 2)):
        save_tiny_model(model, TinyModel(seed=seed, change=0.4))
        _like_newlines(model / "model.safetensors")
    problems = [_problem(name, kind) for kind in ("one", "two") for name in _NAMES]
    family.problems.write_text("".join(json.dumps(problem) + "\n" for problem in problems), encoding="utf-8")
    return family


def _problem(name: str, kind: str) -> dict[str, str]:
    # What a model generates stands in a comment, and is harmless until it begins a new line.
    return {
        "task_id": f"{kind}/{name}",
        "prompt": f"def {name}(x):\n    return x  # {kind} {name}",
        "entry_point": name,
        "canonical_solution": "",
        "test": "def check(candidate):\n    assert candidate(3) == 3\n",
    }


def _like_newlines(file: Path) -> None:
    tensors = load_file(file)
    newline = byte_tokenizer().encode("\n")[0]
    tensors["lm_head.weight"][newline] *= _EAGERNESS
    save_file(tensors, file, metadata={"format": "pt"})
