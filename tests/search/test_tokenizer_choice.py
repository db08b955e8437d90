"""An export with a parent's tokenizer: the one that a person names, or the one under which the merge solves most."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluation import Evaluator, load_problems
from merging import load_tokenizer
from search import Leaderboard, SearchConfig, export_trial, run_search
from search.prompt_formats import Tried
from search.results import ResultsFolder
from tests.search.conftest import Command, load_as_scored
from tests.search.family import Family, make_family
from tests.search.programs import executed_once

BOS = "<s>"


def begin_with(tokenizer: Path, token: str) -> None:
    """Let a tokenizer put a token before every text."""
    content = json.loads(tokenizer.read_text())
    ids = [each["id"] for each in content["added_tokens"] if each["content"] == token]
    template = [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": template,
        "pair": [*template, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": ids, "tokens": [token]}},
    }
    tokenizer.write_text(json.dumps(content))


def end_with(config: Path, token: str) -> None:
    """Let a tokenizer end its texts with a token, and have a chat template that ends a turn with it."""
    template = "{% for message in messages %}{{ message['content'] }}" + token + "{% endfor %}"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token": token, "chat_template": template}))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Family, Path]:
    """Return a family whose parents have tokenizers of their own, and the results of a search over it."""
    family = make_family(tmp_path_factory.mktemp("family"))
    begin_with(family.a / "tokenizer.json", BOS)
    end_with(family.b / "tokenizer_config.json", BOS)
    with executed_once():
        run_search(
            SearchConfig.load(family.write(evaluation=", compute_dtype: float32")), family.folder / "run", trials=1
        )
    return family, family.folder / "run"


@pytest.mark.slow
def test_a_tokenizer_that_is_named_is_written_with_its_ends_and_changes_no_weight(
    command: Command, searched: tuple[Family, Path], tmp_path: Path
) -> None:
    family, results = searched
    for name, words in (("own", []), ("b", ["--tokenizer", "b"])):
        done = command("export", results, "--trial", "0", "--to", tmp_path / name, *words)
        assert done.exit_code == 0, done.output
    own, lent = (load_file(tmp_path / name / "model.safetensors") for name in ("own", "b"))
    assert own.keys() == lent.keys()
    assert all(torch.equal(own[name], lent[name]) for name in own)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "b")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    assert tokenizer.chat_template == load_tokenizer(str(family.b)).chat_template
    bos = tokenizer.convert_tokens_to_ids(BOS)
    assert (tokenizer.eos_token_id, model.config.eos_token_id) == (bos, bos)
    ends = model.generation_config.eos_token_id
    assert bos in (ends if isinstance(ends, list) else [ends])
    assert "was not scored with them" in " ".join((tmp_path / "b" / "README.md").read_text().split())
    assert "--tokenizer b --to b" in (tmp_path / "b" / "README.md").read_text()


def test_a_tokenizer_of_no_parent_is_refused(command: Command, finished: Path, tmp_path: Path) -> None:
    done = command("export", finished, "--anyway", "--to", tmp_path / "out", "--tokenizer", "c")
    assert done.exit_code == 2
    assert "--tokenizer c: is not a parent of this merge; give one of best, a, b, base" in done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_best_tokenizer_is_that_under_which_the_export_solves_most_of_the_search_split(
    searched: tuple[Family, Path], tmp_path: Path
) -> None:
    family, results = searched
    shown: list[Tried] = []
    notes: list[str] = []
    export_trial(results, tmp_path / "out", trial=0, tokenizer="best", show=shown.extend, note=notes.append)
    tasks = ResultsFolder.open(results).splits
    scores = {(row.prompt, row.tokenizer): row.report.pass_at_1 for row in shown if row.report}
    record = next(row.record for row in Leaderboard.open(results).rows if row.name == "trial 0")
    assert scores["completion", "the merge"] == record.search.score  # which it was scored with
    best = max(scores.values())
    model, tokenizer = load_as_scored(tmp_path / "out", results), load_tokenizer(str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "ask the model in the format `completion`" in card
    problems = load_problems(family.problems)
    with Evaluator(problems, allow_code_execution=True, max_new_tokens=12) as evaluator:
        found = evaluator.evaluate(model, tokenizer, problems=problems.subset(tasks["search"]))
        reported = evaluator.evaluate(model, tokenizer, problems=problems.subset(tasks["report"]), plain=True)
    assert found.pass_at_1 == best
    (ruling,) = [note for note in notes if note.startswith("Of ")]
    assert ruling in card
    assert len(scores) > 2
    assert best > scores["completion", "the merge"]  # a text that begins with a token suits this merge
    assert f"it solves {reported.pass_at_1:.1%} (95% interval" in ruling
    assert "not comparable with them" in ruling


@pytest.mark.slow
def test_prompts_that_cannot_be_scored_are_not_called_the_same(finished: Path, tmp_path: Path) -> None:
    shown: list[Tried] = []
    notes: list[str] = []
    export_trial(finished, tmp_path / "out", anyway=True, tokenizer="best", show=shown.extend, note=notes.append)
    assert {row.note.partition(":")[0] for row in shown if row.prompt == "chat"} == {"prompt format 'chat'"}
    assert [row.tokenizer for row in shown if row.report] == ["the merge"]
    assert notes[0] == (
        "There is no choice but completion with the tokenizer of the merge: every other prompt is the same, or cannot "
        "be scored."
    )


@pytest.mark.slow
def test_without_consent_nothing_is_scored_to_choose_a_tokenizer(
    command: Command, searched: tuple[Family, Path], tmp_path: Path
) -> None:
    config = searched[1] / "config.yaml"
    given = config.read_text()
    config.write_text(given.replace(", allow_code_execution: true", ""))
    try:
        done = command("export", searched[1], "--trial", "0", "--to", tmp_path / "out", "--tokenizer", "best")
        assert done.exit_code == 2
        assert "--allow-code-execution" in done.output
        assert not (tmp_path / "out").exists()
    finally:
        config.write_text(given)
