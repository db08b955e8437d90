"""A machine that fails costs no trial: what it could not finish is run again, and a night is not burnt in seconds."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluation import EvaluationError, ModelError
from evaluation.errors import LogitsError
from evaluation.generation.out_of_memory import is_out_of_memory
from evaluation.sandbox.errors import SandboxError
from evaluation.sandbox.verdict import Verdict
from evaluation.sandbox.zygote_pair import ZygotePair
from merging import MachineError, Merger, MergingError, NonFiniteTensor, OutOfMemory, Recipe
from merging.residency.memory_errors import is_out_of_memory as merging_is_out_of_memory
from search import Leaderboard, SearchConfig, SearchError, run_search
from search.errors import PrunedError, is_of_the_candidate
from search.progress import Progress
from search.run.trial import Bench, describe
from search.study.local_store import LocalStore
from tests.search.conftest import Command
from tests.search.family import NO_REPORT, Family
from tests.search.jobs import claim, finish, forget, forget_reports

LOST = torch.AcceleratorError("CUDA error: device-side assert triggered")
IO = OSError(errno.EIO, "Input/output error")
# Of what the family's searches begin with, and of the finished one in all.
PARENTS, SCORED = 4, 3

Break = Callable[[int, Recipe], BaseException | None]


class Killed(BaseException):
    """What no worker lives to see."""


class Ends(Progress):
    """Remembers how trials ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def scored(self, score: float | None, *told: Any) -> None:
        self.ended.append(told[3] if score is None else "scored")


@pytest.fixture
def begun(finished: Path, shared_family: Family, tmp_path: Path) -> tuple[SearchConfig, Path]:
    """Return the config and the folder of a search of three trials that may go on."""
    shutil.copytree(finished, tmp_path / "run")
    return SearchConfig.load(shared_family.write("finished.yaml")), tmp_path / "run"


@pytest.fixture
def unreported(one_trial: tuple[SearchConfig, Path]) -> tuple[SearchConfig, Path]:
    """Return the config and the folder of a search whose models, of one trial, are to be scored on the report split."""
    forget_reports(one_trial[1])
    return one_trial


def break_merging(monkeypatch: pytest.MonkeyPatch, breaks: Break) -> list[Recipe]:
    """Let a merge raise what `breaks` returns, given how many were begun before, and the recipe; return the merges."""
    merges: list[Recipe] = []
    apply = Merger.apply

    def broken(merger: Merger, recipe: Recipe, progress: Any = None) -> Any:
        merges.append(recipe)
        if error := breaks(len(merges) - 1, recipe):
            raise error
        return apply(merger, recipe, progress)

    monkeypatch.setattr(Merger, "apply", broken)
    return merges


def breaks_first(error: BaseException) -> Break:
    """Break the first merge, and each of that recipe."""
    poison: list[Recipe] = []

    def breaks(before: int, recipe: Recipe) -> BaseException | None:
        poison.extend([recipe] * (before == 0))
        return error if recipe in poison else None

    return breaks


def scored(board: Leaderboard) -> int:
    return sum(row.record.kind == "trial" and row.record.search.state == "complete" for row in board.rows)


def failed(board: Leaderboard) -> list[str]:
    return [row.record.search.error or "" for row in board.rows if row.record.search.state == "failed"]


@pytest.mark.parametrize(
    ("error", "of_the_candidate"),
    [
        (NonFiniteTensor("lm_head.weight", "ties"), True),
        (MergingError("layer_range [2, 2] holds no layers"), True),
        (PrunedError("unlikely"), True),
        (ModelError("the tokenizer has no chat template"), True),
        (LogitsError(), True),
        (MachineError("model.safetensors: tensor x cannot be read"), False),
        (EvaluationError("vLLM: its process ended with 1"), False),
        (SandboxError("the sandbox cannot start a process"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (LOST, False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False),
        (IO, False),
        (MemoryError(), False),
        (KeyError("a bug"), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_is_the_candidates_or_the_machines(error: Exception, of_the_candidate: bool) -> None:
    assert is_of_the_candidate(error) is of_the_candidate


def test_an_error_without_words_goes_by_its_name() -> None:
    assert describe(MemoryError()) == "MemoryError"
    assert describe(KeyError("a bug")) == "KeyError: 'a bug'"
    assert describe(ModelError("no template")) == "no template"


@pytest.mark.parametrize(
    ("error", "out_of_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (LOST, False),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_merging_and_scoring_take_the_same_errors_for_want_of_memory(error: Exception, out_of_memory: bool) -> None:
    assert [merging_is_out_of_memory(error), is_out_of_memory(error)] == [out_of_memory] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "merges"),
    [(LOST, 1), (IO, 3), (MemoryError(), 6)],
    ids=["lost", "I/O", "memory"],
)
def test_a_machine_that_fails_ends_the_worker_and_no_trial(
    error: Exception, merges: int, begun: tuple[SearchConfig, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = begun
    was = Leaderboard.open(out)
    with monkeypatch.context() as broken:
        tried = break_merging(broken, lambda *_: error)
        with pytest.raises(SearchError, match=r"^the machine fails at .*trial \d+: .*see .*worker\.log;.*same c"):
            run_search(config, out, trials=SCORED + 3)
    assert len(tried) == merges
    assert Leaderboard.open(out) == was
    resumed = run_search(config, out, trials=SCORED + 3)
    assert (scored(resumed), failed(resumed), resumed.unfinished) == (SCORED + 3, [], "")
    assert {row.name for row in was.rows} <= {row.name for row in resumed.rows}


def test_the_command_line_says_so_in_one_line_and_ends_with_2(
    begun: tuple[SearchConfig, Path], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = begun
    break_merging(monkeypatch, lambda *_: IO)
    done = command("run", config.source, "--out", out, "--trials", "100")
    assert done.exit_code == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("merge-search: the machine fails at 3 models in a row, the last one trial 5: OSError: ")
    assert "Traceback" not in done.stderr
    assert (out / "worker.log").read_text().count("the machine failed\nTraceback") == 3


@pytest.mark.slow
def test_a_parent_whose_file_vanishes_is_no_failure_of_the_candidates(
    begun: tuple[SearchConfig, Path], family: Family
) -> None:
    config, out = SearchConfig.load(family.write(more="merging: {memory_budget: 0}")), begun[1]
    weights, away = family.a / "model.safetensors", family.folder / "away"

    class Unmount(Progress):
        def trial(self, name: str, done: int) -> None:  # noqa: ARG002
            if name == "trial 3":
                weights.rename(away)

    with pytest.raises(SearchError, match=r"3 models in a row, the last one trial 5: .*a/model\.safetensors: tensor"):
        run_search(config, out, trials=SCORED + 3, progress=Unmount())
    away.rename(weights)
    resumed = run_search(config, out, trials=SCORED + 3)
    assert (scored(resumed), failed(resumed)) == (SCORED + 3, [])


@pytest.mark.slow
@pytest.mark.sandbox
def test_a_sandbox_that_dies_is_no_failure_of_the_candidates(
    begun: tuple[SearchConfig, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = begun
    forget(out, "verdicts")
    check = ZygotePair.check

    def dead(worker: ZygotePair, problem: Any, completion: str) -> Verdict:
        if completion == problem.canonical_solution:
            return check(worker, problem, completion)
        return Verdict("harness_error", "a sandbox process has died")

    with monkeypatch.context() as broken:
        broken.setattr(ZygotePair, "check", dead)
        with pytest.raises(SearchError, match=r"at 3 models in a row, .*the sandbox failed"):
            run_search(config, out, trials=6)
    resumed = run_search(config, out, trials=6)
    assert (scored(resumed), failed(resumed)) == (6, [])


@pytest.mark.slow
def test_parents_that_the_machine_fails_at_are_scored_when_it_works_again(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SearchConfig.load(family.write(evaluation=NO_REPORT))
    with monkeypatch.context() as broken:
        break_merging(broken, lambda before, _: LOST if before == 1 else None)
        with pytest.raises(SearchError, match=r"the machine fails at b: AcceleratorError"):
            run_search(config, tmp_path / "run", trials=0)
    resumed = run_search(config, tmp_path / "run", trials=0)
    assert [row.record.search.state for row in resumed.rows] == ["complete"] * PARENTS


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemory("cuda:0 has no room for the 0.52 GB of one tensor of every parent"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_where_memory_ran_out_once_it_is_tried_again_at_once(
    error: Exception, begun: tuple[SearchConfig, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = begun
    merges = break_merging(monkeypatch, lambda before, _: error if before == 0 else None)
    ends = Ends()
    board = run_search(config, out, trials=SCORED + 1, progress=ends)
    assert merges[0] == merges[1]
    assert (scored(board), failed(board)) == (SCORED + 1, [])
    assert set(ends.ended) == {"scored"}


def test_a_trial_at_which_alone_the_machine_fails_is_run_once_more_and_fails(
    begun: tuple[SearchConfig, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = begun
    merges = break_merging(monkeypatch, breaks_first(KeyError("a bug")))
    ends = Ends()
    board = run_search(config, out, trials=SCORED + 3, progress=ends)
    assert ends.ended[:4] == ["to be run again", "scored", "scored", "to be run again"]
    assert merges[3] == merges[0]  # after all others
    assert (scored(board), board.unfinished) == (SCORED + 2, "")
    [reason] = failed(board)
    assert reason.startswith("was run 2 times and never finished (KeyError: 'a bug'; KeyError: 'a bug')")
    assert "--retry-failed" in reason


@pytest.mark.slow
@pytest.mark.parametrize(("error", "reason"), [(LOST, "AcceleratorError"), (Killed(), "its worker died")])
def test_a_trial_that_ends_its_worker_twice_fails_and_may_be_tried_again(
    error: BaseException,
    reason: str,
    begun: tuple[SearchConfig, Path],
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, out = begun
    with monkeypatch.context() as broken:
        break_merging(broken, breaks_first(error))
        for _ in range(2):
            with pytest.raises((SearchError, Killed)):
                run_search(config, out, trials=SCORED + 2)
        board = run_search(config, out, trials=SCORED + 2)
        assert (scored(board), board.unfinished) == (SCORED + 1, "")
        assert [reason in why for why in failed(board)] == [True]
    lines = command("leaderboard", out).stdout.splitlines()
    (row,) = [line for line in lines if line.startswith("trial") and "failed" in line]
    assert "a: density" in row  # whose parameters they were
    assert "b: weight" in row
    healed = run_search(config, out, trials=SCORED + 2, retry_failed=True)
    assert (scored(healed), failed(healed)) == (SCORED + 2, [])


@pytest.mark.slow
def test_failures_of_before_are_run_again_where_that_is_asked_for(
    begun: tuple[SearchConfig, Path], command: Command
) -> None:
    config, out = begun
    with closing(LocalStore(out)) as store, store.sign_in() as worker:
        jobs = [claim(store, worker, SCORED + 3, config) for _ in range(3)]
        for job in jobs:  # as if all of them were bad candidates
            finish(store, job, config, "failed", "AcceleratorError: CUDA error: device-side assert triggered")
    lost = [job.record.parameters for job in jobs]
    assert len(failed(run_search(config, out, trials=SCORED + 3))) == len(lost) == 3
    done = command("run", config.source, "--out", out, "--trials", SCORED + 3, "--retry-failed")
    assert done.exit_code == 0, done.stderr
    board = Leaderboard.open(out)
    assert (scored(board), failed(board)) == (SCORED + 3, [])
    assert [sum(row.record.parameters == params for row in board.rows) for params in lost] == [1, 1, 1]


@pytest.mark.slow
def test_a_model_that_the_machine_fails_at_on_the_report_split_is_scored_there_later(
    unreported: tuple[SearchConfig, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = unreported
    with monkeypatch.context() as broken:
        break_merging(broken, lambda before, _: LOST if before == 0 else None)
        with pytest.raises(SearchError, match=r"the machine fails at a: AcceleratorError"):
            run_search(config, out, trials=1)
    with monkeypatch.context() as broken:
        merges = break_merging(broken, lambda before, _: IO if before == 0 else None)
        resumed = run_search(config, out, trials=1)
    assert len(merges) == PARENTS + 1 + 1
    assert merges[-1] == merges[0]  # after all others
    assert resumed.unfinished == ""
    assert all(row.record.on("report").score is not None for row in resumed.rows)


@pytest.mark.slow
def test_a_model_that_kills_its_workers_on_the_report_split_is_left_out(
    unreported: tuple[SearchConfig, Path], shared_family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = unreported
    score, b = Bench.score, str(shared_family.b)

    def die(bench: Bench, recipe: Recipe, *arguments: Any, **options: Any) -> Any:
        if arguments == ("report",) and recipe.parents() == (b,):
            raise Killed
        return score(bench, recipe, *arguments, **options)

    with monkeypatch.context() as deadly:
        deadly.setattr(Bench, "score", die)
        for _ in range(2):
            with pytest.raises(Killed):
                run_search(config, out, trials=1)
        board = run_search(config, out, trials=1)
    assert {row.name for row in board.rows if row.record.on("report").score is None} == {b}
    assert board.unfinished == ""
    retried = run_search(config, out, trials=1, retry_failed=True)
    assert all(row.record.on("report").score is not None for row in retried.rows)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(130)])
def test_a_person_who_stops_a_worker_fails_no_trial(
    stop: BaseException, begun: tuple[SearchConfig, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = begun
    with monkeypatch.context() as stopped:
        merges = break_merging(stopped, lambda *_: stop)
        for _ in range(3):
            with pytest.raises(type(stop)):
                run_search(config, out, trials=SCORED + 1)
    assert merges == merges[:1] * 3
    board = run_search(config, out, trials=SCORED + 1)
    assert (scored(board), failed(board)) == (SCORED + 1, [])


@pytest.mark.slow
def test_a_person_who_stops_a_worker_at_the_report_split_keeps_no_model_from_it(
    unreported: tuple[SearchConfig, Path], shared_family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    (config, out), b = unreported, str(shared_family.b)
    with monkeypatch.context() as stopped:
        break_merging(stopped, lambda _, recipe: SystemExit(130) if recipe.parents() == (b,) else None)
        for _ in range(2):
            with pytest.raises(SystemExit):
                run_search(config, out, trials=1)
    board = run_search(config, out, trials=1)
    assert all(row.record.on("report").score is not None for row in board.rows)


@pytest.mark.slow
def test_a_parent_that_fails_is_run_once_more_at_the_next_start_and_not_at_every_one(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SearchConfig.load(family.write(evaluation=NO_REPORT))

    def breaks(_: int, recipe: Recipe) -> BaseException | None:
        return NonFiniteTensor("lm_head.weight", "linear") if recipe.parents() == (str(family.b),) else None

    merges = break_merging(monkeypatch, breaks)
    runs = []
    for _ in range(3):
        board = run_search(config, tmp_path / "run", trials=0)
        runs.append(len(merges))
        assert [row.name for row in board.rows if row.record.search.state == "failed"] == [str(family.b)]
    assert runs == [PARENTS, PARENTS + 1, PARENTS + 1]
