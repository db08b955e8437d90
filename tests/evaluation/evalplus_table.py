"""The verdicts of evalplus 0.3.1 on the cases: `python -m tests.evaluation.evalplus_table` writes it to evalplus.json.

evalplus installs the clients of four companies, so it is not a dependency. In an environment of its own:

    pip install -e '.[test]'
    pip install --no-deps evalplus==0.3.1 tree-sitter tree-sitter-python appdirs tempdir wget psutil tqdm
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.evaluation.evalplus_cases import JUDGED, MBPP_INPUTS, Judged, answers

TABLE = Path(__file__).with_name("evalplus.json")


def main() -> None:
    from evalplus.data.mbpp import mbpp_deserialize_inputs
    from evalplus.sanitize import sanitize

    table = {
        "sanitized": [sanitize(answer.text, answer.entry_point) for answer in answers()],
        "verdicts": [verdicts(judged) for judged in JUDGED],
        "inputs": {number: repr(mbpp_deserialize_inputs(f"Mbpp/{number}", it)) for number, it in MBPP_INPUTS.items()},
    }
    TABLE.write_text(json.dumps(table, indent=1) + "\n")


def verdicts(judged: Judged) -> Sequence[bool]:
    """Return whether evalplus passes each solution on the base inputs and on the others."""
    from evalplus.data.mbpp import mbpp_deserialize_inputs
    from evalplus.eval import untrusted_check
    from evalplus.eval._special_oracle import MBPP_OUTPUT_NOT_NONE_TASKS
    from evalplus.gen.util import trusted_exec

    problem, kinds = dict(judged.problem), ("base", "plus")
    is_mbpp = problem["task_id"].startswith("Mbpp/")
    for kind in kinds if is_mbpp else ():
        problem[f"{kind}_input"] = mbpp_deserialize_inputs(problem["task_id"], problem[f"{kind}_input"])
    name = problem["entry_point"]
    as_present = name in MBPP_OUTPUT_NOT_NONE_TASKS
    program = problem["prompt"] + problem["canonical_solution"]
    expected = {kind: trusted_exec(program, problem[f"{kind}_input"], name, True, as_present) for kind in kinds}

    def passes(solution: str, kind: str) -> bool:
        results, seconds = expected[kind]
        inputs: Any = problem[f"{kind}_input"]
        dataset = "mbpp" if is_mbpp else "humaneval"
        status, _ = untrusted_check(dataset, solution, inputs, name, results, problem["atol"], seconds, fast_check=True)
        return bool(status == "pass")

    return [all(passes(solution, kind) for kind in kinds) for solution in judged.solutions]


def recorded() -> Mapping[str, Any]:
    """Return the table."""
    table: Mapping[str, Any] = json.loads(TABLE.read_text())
    return table


if __name__ == "__main__":
    main()
