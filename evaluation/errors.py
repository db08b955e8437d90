"""The errors of the evaluation package. Each message names what was read, where, and what to do."""

from __future__ import annotations


class EvaluationError(Exception):
    """A problem set, a prompt or an evaluation is wrong or impossible."""


class ModelError(EvaluationError):
    """A model cannot be prompted, or cannot generate, on any machine."""


class LogitsError(ModelError):
    """A model generates nothing for any prompt: its logits are NaN or infinite."""

    def __init__(self) -> None:
        super().__init__("the model's logits are not finite (NaN or Inf) for any prompt, so it generates nothing")


class ConsentError(EvaluationError):
    """Generated code would be executed without consent."""

    def __init__(self) -> None:
        super().__init__(
            "scoring executes model-generated code on this machine. It runs in a sandbox (separate processes, no "
            "network, limits on time and memory), but treat it as untrusted all the same. To consent, pass "
            "--allow-code-execution, or set allow_code_execution: true under evaluation in the config (in Python: "
            "allow_code_execution=True)"
        )
