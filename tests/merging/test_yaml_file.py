"""What people write in YAML is read strictly, and ends in one message whatever is wrong with it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from merging import MergingError, YamlReader
from merging.recipes.yaml_file import _LOADER

READER = YamlReader("recipe", MergingError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "mine.yaml:3: is not valid YAML: the key 'a' is given twice"),
        ("a: {b: {c: 1, c: 1}}", "mine.yaml:1: is not valid YAML: the key 'c' is given twice"),
        ("a: 1\n\tb: 2", "mine.yaml:2: is not valid YAML: found a tab character that violates indentation"),
        ("a: \x01", "mine.yaml: is not valid YAML: unacceptable character #x0001: control characters are not allowed"),
        ("a: 2001-13-01", "mine.yaml: is not valid YAML: month must be in 1..12"),
        ("[" * 1000, "mine.yaml:2: is not valid YAML: did not find expected node content"),
        ("[" * 100_000, "mine.yaml:1: is not valid YAML: exceeded maximum nesting depth"),
        ("[" * 900 + "]" * 900, "mine.yaml: is not valid YAML: lists and mappings are nested more than 100 deep"),
        ("? {a: 1}\n: 2", "mine.yaml:1: is not valid YAML: found unhashable key"),
        ("a: &a {b: *a}", "mine.yaml: is not valid YAML: an alias (*name) is inside the value that it names"),
        ("a: &a [1, [*a]]", "mine.yaml: is not valid YAML: an alias (*name) is inside the value that it names"),
        ("a: nul\0", "mine.yaml: is not valid YAML: unacceptable character #x0000"),
        ("? [1, 2]\n: 3", "mine.yaml:1: is not valid YAML: found unhashable key"),
        ("a: 1\n---\nb: 2", "mine.yaml:2: a second document begins here; a recipe is one"),
        ("a: 1\n---\n", "mine.yaml:2: a second document begins here; a recipe is one"),
        ("---\na: 1\n...\n---\nb: 2", "mine.yaml:4: a second document begins here; a recipe is one"),
        ("a: &x {b: 1}\nc: [{<<: *x, d: 1, d: 2}]", "mine.yaml:2: is not valid YAML: the key 'd' is given twice"),
        ("a: !!python/name:os.system", "mine.yaml:1: is not valid YAML: could not determine a constructor for the tag"),
    ],
)
def test_what_is_no_valid_yaml_is_one_message_with_the_line(text: str, message: str) -> None:
    with pytest.raises(MergingError) as caught:
        READER.parse(text, "mine.yaml")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_long_lists_are_read_by_libyaml_and_refused_by_their_first_entry() -> None:
    class Words(BaseModel):
        words: tuple[str, ...]

    assert issubclass(_LOADER, yaml.CSafeLoader)  # ten times as fast as PyYAML's own
    data = READER.parse("words: [" + "1," * 10_000 + "]", "mine.yaml")
    with pytest.raises(MergingError, match=r"mine\.yaml: words\[0\]: expected a word, got 1"):
        READER.validate(Words, data, "mine.yaml")


def test_a_merge_key_may_be_overridden() -> None:
    text = "base: &x {weight: 1, density: 0.5}\ndeep: {er: &y {<<: *x, weight: 2}}\nmodel: {<<: *y, density: 1}"
    found = READER.parse(text, "mine.yaml")
    assert isinstance(found, dict)
    assert found["model"] == {"weight": 2, "density": 1}
    assert found["deep"]["er"] == {"weight": 2, "density": 0.5}


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(MergingError):
        READER.parse(text, "mine.yaml")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name, message in (("nothing", "cannot be read: No such file"), ("binary", "is not UTF-8 text; a recipe is a")):
        with pytest.raises(MergingError, match=rf"{name}\.yaml: {message}"):
            READER.text(tmp_path / f"{name}.yaml")


def test_what_the_schema_refuses_does_not_wait_for_torch(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("merge_method: linear\nmodles: []\n")
    code = (
        "import sys; from merging import MergingError, Recipe\n"
        "try: Recipe.load(sys.argv[1])\n"
        "except MergingError as error: print(error)\n"
        "print('torch' in sys.modules)"
    )
    for name, message in (("bad", "modles: unknown key; did you mean"), ("nowhere", "cannot be read")):
        words = [sys.executable, "-c", code, str(tmp_path / f"{name}.yaml")]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert message in done.stdout
        assert done.stdout.splitlines()[-1] == "False"
