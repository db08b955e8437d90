"""The errors of the evaluation package: each names what was read, where, and what to do."""

from __future__ import annotations


class EvaluationError(Exception):
    """A problem set, a prompt or an evaluation that cannot be done as asked."""


class ModelError(EvaluationError):
    """A model that cannot be asked, or cannot answer, on whatever machine."""


class LogitsError(ModelError):
    """A model none of whose completions could be written: its logits are NaN or infinite."""

    def __init__(self) -> None:
        super().__init__("the model's logits are not finite (NaN or Inf), whatever it is asked: it writes nothing")


class ConsentError(EvaluationError):
    """Model-written code would be executed, and nobody has agreed to that."""

    def __init__(self) -> None:
        super().__init__(
            "scoring executes code that a language model wrote, on this machine; it runs in a sandbox (separate "
            "processes, no network, limits on time and memory), but read it as untrusted code all the same. To agree, "
            "give --allow-code-execution, or set allow_code_execution: true under evaluation in the config "
            "(in Python: allow_code_execution=True)"
        )
