"""What the documentation shows works: its commands are parsed, its configs read, its tutorial run.

A comment above a block says what a reader cannot see:

- `<!-- docs: file NAME -->`: readers save the block under this name.
- `<!-- docs: config, on quickstart.yaml -->`: the block is a part of a config, which configs/quickstart.yaml completes.
- `<!-- docs: ranges of METHOD -->`: each line is a parameter with a range, of a model in a recipe of this method.
- `<!-- docs: commands are run -->`, anywhere on a page: its blocks of shell and Python are run from top to bottom, too.
- `<!-- docs: not run: REASON -->`: but not this one.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from docs.scripts.reference import PAGES as REFERENCE
from docs.scripts.reference import reference
from evaluation import Evaluator, load_problems
from merging import Recipe, load_model, load_tokenizer
from search.cli import main
from search.space.sections import Sections
from search.space.space import SearchSpace
from tests.search.family import make_family

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = [page for page in PAGES if "\n<!-- docs: commands are run -->\n" in page.read_text(encoding="utf-8")]
BLOCK = re.compile(r"(?:<!-- docs: ([^\n]*?) -->\n)?^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:(?<=\n\n)|(?<=\A))((?: {4}.*\n)+)")
MENTIONED = re.compile(r"(?<!`)`(merge-search [a-z].*?)`", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code, its language, and what the comment above it says."""

    note: str
    language: str
    text: str


def blocks(page: Path, *languages: str) -> list[Block]:
    """Return the blocks of a page in one of these languages, in order."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(*each) for each in found if each[1] in languages]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_has_these_arguments_and_options(page: Path) -> None:
    for words in commands(page):
        parse(words)
    for words in mentions(page):
        with contextlib.suppress(click.MissingParameter):  # a part of a command
            parse(words)


def test_commands_are_found_in_blocks_indented_lines_and_sentences(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    text = "Say `merge-search list`.\n\n    A=b pip install x && merge-search run a.yaml | jq 'a | b' # why\n\n"
    page.write_text(f"{text}```bash\nmerge-search merge \\\n    a.yaml b > c\n```\n")
    assert list(commands(page)) == [["merge", "a.yaml", "b"], ["run", "a.yaml"]]
    assert list(mentions(page)) == [["list"]]


def test_a_wrong_option_is_found() -> None:
    with pytest.raises(click.NoSuchOption):
        parse(["run", "configs/quickstart.yaml", "--trails", "3"])


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command of merge-search on a page, but for the first."""
    text = page.read_text(encoding="utf-8")
    shown = [block.text for block in blocks(page, "bash")] + INDENTED.findall(BLOCK.sub("", text))
    for line in "\n".join(shown).replace("\\\n", " ").splitlines():
        for words in calls(line):
            if (
                "merge-search" in words[:-1]
                and words[0] in ("merge-search", "nohup", "docker")
                and "build" not in words
            ):
                yield words[len(words) - words[::-1].index("merge-search") :]


def calls(line: str) -> Iterator[list[str]]:
    """Yield the words of each program that a line of shell calls, without variables, redirections and comments."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for is_operator, words in itertools.groupby(lexer, lambda word: set(word) <= set(lexer.punctuation_chars)):
        if not is_operator:
            yield list(itertools.dropwhile(re.compile(r"\w+=").match, words))


def mentions(page: Path) -> Iterator[list[str]]:
    """Yield the words of the commands that the sentences of a page mention."""
    for mention in MENTIONED.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if "..." not in mention:
            yield mention.split()[1:]


def parse(words: list[str]) -> None:
    """Parse a command as the shell would, without doing anything."""
    command = main.get_command(click.Context(main), words[0])
    assert command is not None, f"merge-search has no command {words[0]}"
    with contextlib.suppress(click.exceptions.Exit):  # of --help
        command.make_context(words[0], words[1:])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_config_and_recipe_is_read(page: Path) -> None:
    for block in blocks(page, "yaml"):
        read(block)


def test_a_misspelt_key_is_found() -> None:
    with pytest.raises(Exception, match="trails"):
        read(Block("config, on quickstart.yaml", "yaml", "search: {trails: 3}"))


def read(block: Block) -> None:
    """Read a block as the config or recipe that it is, or that its note completes it to."""
    if found := re.match(r"ranges of (\w+)", block.note):
        read_ranges(found[1], block.text)
        return
    if "of a method in a script" in block.note:  # which is run with it
        return
    data = yaml.safe_load(block.text)
    if found := re.match(r"config, on ([\w.]+)", block.note):
        data = completed(data, yaml.safe_load((ROOT / "configs" / found[1]).read_text(encoding="utf-8")))
    if "recipe" in data:
        sections = Sections.of(data, "the page")
        SearchSpace.read(sections.recipe, "the page")
    else:
        Recipe.parse(block.text, "the page")


def completed(part: Any, whole: Any) -> Any:
    """Return a config in which a part replaces what is there under its keys."""
    if not isinstance(part, dict) or not isinstance(whole, dict):
        return part
    return {**whole, **{key: completed(value, whole.get(key)) for key, value in part.items()}}


def read_ranges(method: str, lines: str) -> None:
    """Read parameters with ranges, each by itself."""
    for key, value in (entry for line in lines.splitlines() for entry in (yaml.safe_load(line) or {}).items()):
        value = {**value, "knots": 4} if value.get("knots") == "layers" else value  # they are counted in the model
        parameters = {"weight": 1.0, key: value}
        models = [{"model": "a", "parameters": parameters}, {"model": "b", "parameters": {"weight": 1.0}}]
        SearchSpace.read({"merge_method": method, "base_model": "base", "models": models}, "the page")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_of_python_is_python(page: Path) -> None:
    for block in blocks(page, "python"):
        ast.parse(textwrap.dedent(block.text))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_note_is_one_that_the_tests_know(page: Path) -> None:
    known = r"file \S+(, of a method in a script)?|config, on \S+|ranges of \w+|commands are run|not run: .+"
    notes = re.findall(r"<!-- docs: (.*?) -->", page.read_text(encoding="utf-8"))
    assert [note for note in notes if not re.fullmatch(known, note)] == []


def test_the_reference_is_that_of_the_code() -> None:
    made = reference()
    stale = [page for page, text in made.items() if (REFERENCE / page).read_text(encoding="utf-8") != text]
    assert stale == [], "run: python -m docs.scripts.reference"
    assert {page.name for page in REFERENCE.glob("*.md")} == set(made)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # of the whole tutorial
@pytest.mark.parametrize("page", RUN, ids=name)
def test_what_a_page_shows_runs(page: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    python = ""
    for block in blocks(page, "bash", "python", "yaml"):
        if block.note.startswith("not run"):
            continue
        if found := re.match(r"file ([^\s,]+)", block.note):
            (tmp_path / found[1]).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            python += block.text  # later blocks use the names of earlier ones
            run([sys.executable, "-c", python], tmp_path)
        elif block.language == "bash":
            run(["bash", "-euo", "pipefail", "-c", block.text], tmp_path)


@pytest.mark.slow
def test_the_example_of_a_callback_is_told_of_each_new_best_trial(tmp_path: Path) -> None:
    (example,) = blocks(ROOT / "docs" / "integrations.md", "python")
    copy_configs_with_few_problems(tmp_path)
    printed = run([sys.executable, "-c", example.text], tmp_path)  # a callback that raises ends no search
    assert re.fullmatch(r"\atrial-0: \d+\.\d%\n(\atrial-\d+: \d+\.\d%\n)*", printed)


@pytest.mark.slow
def test_the_example_of_an_observer_ends_an_evaluation_at_a_completion_that_fails(tmp_path: Path) -> None:
    (example,) = (it for it in blocks(ROOT / "docs" / "evaluation.md", "python") if "Observer" in it.text)
    family = make_family(tmp_path)
    problems, model = load_problems(family.problems), load_model(str(family.a))
    with Evaluator(problems, allow_code_execution=True, max_new_tokens=12, workers=1) as evaluator:
        names = {"problems": problems, "model": model, "tokenizer": load_tokenizer(str(family.a))}
        report = evaluator.evaluate(model, names["tokenizer"])
        with pytest.raises(Exception, match="/") as ended:
            exec(example.text, {**names, "evaluator": evaluator})
    assert type(ended.value).__name__ == "Enough"
    assert not report.outcomes[str(ended.value)].passed


def run(command: list[str], folder: Path) -> str:
    """Run a command as a reader would, and return what it prints."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def copy_configs_with_few_problems(folder: Path) -> None:
    """Copy configs/ with every thirtieth problem of the quickstart: .ci/run searches on all of them."""
    shutil.copytree(ROOT / "configs", folder / "configs")
    problems = folder / "configs" / "quickstart" / "problems.jsonl"
    problems.write_text("".join(problems.read_text(encoding="utf-8").splitlines(keepends=True)[::30]), encoding="utf-8")
