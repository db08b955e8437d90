"""What is computed only from the parents is found on disk again, with the same bits, whatever happens to the disk."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from pkgutil import resolve_name
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from merging import MergeOptions, Merger, ParentSet, Recipe, export_model
from merging.arithmetic.magnitude_table import TABLE, magnitude_table
from merging.statistics import digests, forms
from merging.statistics.digests import FileChanged, FileDigests
from merging.statistics.folder import StatisticKey, StatisticsFolder
from merging.statistics.statistics import Kept, Statistics
from tests.merging.conftest import Family, make_family
from tests.merging.disks import Limit, small_disk, small_files
from tests.merging.peft_oracle import save_adapter
from tests.parametrization import every
from tests.tiny import TinyModel, TinyVocabulary, save_tiny_model

TEXT = "def add(a, b):\n    return a + b\n\nfor each in range(3):\n    print(each)\n"


def recipe(family: Family, method: str, a: str = "", b: str = "", shared: str = "", more: str = "") -> Recipe:
    """Return a merge of two models, each with some parameters."""
    models = "".join(f"- {{model: {m}, parameters: {{{p}}}}}\n" for m, p in ((family.a, a), (family.b, b)))
    return Recipe.parse(
        f"merge_method: {method}\nbase_model: {family.base}\nmodels:\n{models}parameters: {{{shared}}}\n"
        f"dtype: bfloat16\n{more}"
    )


def of_text(family: Family, method: str, folder: Path) -> Recipe:
    """Return a merge by a method that observes what the models do with a text."""
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    calibrated = f"calibration: {folder}/text.txt"
    return recipe(family, method, calibrated, calibrated)


# By method: the recipe, and what computes a statistic of it that is kept.
CASES: dict[str, tuple[Callable[[Family, Path], Recipe], str]] = {
    "ties": (
        lambda f, _: recipe(f, "ties", "weight: 1, density: 0.4", "weight: 0.5, density: 0.3"),
        "merging.methods.magnitudes.magnitude_table",
    ),
    "della": (
        lambda f, _: recipe(f, "della", "weight: 1, density: 0.4", "weight: 0.5, density: 0.6"),
        "merging.methods.della._ranks",
    ),
    "sce": (lambda f, _: recipe(f, "sce", shared="select_topk: 0.3"), "merging.methods.magnitudes.magnitude_table"),
    "pcb": (lambda f, _: recipe(f, "pcb", shared="density: 0.3"), "merging.methods.magnitudes.magnitude_table"),
    "tsv_m": (lambda f, _: recipe(f, "tsv_m", "weight: 0.7", "weight: 0.8"), "torch.linalg.svd"),
    "iso_c": (lambda f, _: recipe(f, "iso_c", "weight: 0.7", "weight: 0.8"), "torch.linalg.svd"),
    "wudi": (lambda f, _: recipe(f, "wudi", shared="iterations: 9"), "merging.methods.extra.wudi.least_interfering"),
    "fisher": (lambda f, folder: of_text(f, "fisher", folder), "merging.calibration.diagonal_fisher"),
    "regmean": (lambda f, folder: of_text(f, "regmean", folder), "merging.calibration.mean_grams"),
}  # fmt: skip


def merged(recipe: Recipe, folder: Path | None) -> dict[str, Tensor]:
    """Return the tensors that a merger makes, with statistics of a folder or none."""
    with ParentSet.open(recipe, MergeOptions(statistics=folder)) as parents:
        parents.statistics.write()
        model = Merger(parents).apply(recipe)
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def calls(monkeypatch: pytest.MonkeyPatch, target: str) -> Mock:
    """Count the calls of a function, which does what it did."""
    spy = Mock(wraps=resolve_name(target))
    monkeypatch.setattr(target, spy)
    return spy


def identity_of(folder: StatisticsFolder, name: str, numbers: object = None) -> StatisticKey:
    """Return a statistic that is made of no file."""
    identity = folder.identity(name, 1, lambda _: "nothing", numbers)
    assert identity
    return identity


def digests_in(monkeypatch: pytest.MonkeyPatch, memory: Path) -> Path:
    """Let digests be remembered in a folder."""
    memory.mkdir()
    monkeypatch.setattr(digests, "cache_folder", lambda _: memory)
    return memory


def break_file(file: Path, how: str) -> None:
    """Do to a file what disks and people do."""
    content = file.read_bytes()
    if how == "a bit":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif how == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        file.write_bytes(b"")
    else:
        file.write_bytes(b"something else, of somebody else")


@pytest.mark.parametrize("method", every(3, CASES))
def test_a_merge_is_the_same_with_what_was_found_and_with_what_was_computed(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    make, computes = CASES[method]
    chosen, folder = make(family, tmp_path), tmp_path / "statistics"
    expected = merged(chosen, None)
    assert_equal(merged(chosen, folder), expected)
    spy = calls(monkeypatch, computes)
    caplog.set_level(logging.INFO)
    assert_equal(merged(chosen, folder), expected)
    assert not spy.called
    assert caplog.messages[-1].endswith("found on disk, 0 computed")
    shutil.rmtree(folder)
    assert_equal(merged(chosen, folder), expected)
    assert spy.called


@pytest.mark.parametrize("method", every(3, ["della", "tsv_m", "regmean", "iso_c", "fisher"]))
def test_a_merge_is_the_same_wherever_there_is_room_for_its_statistics(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    first = CASES[method][0](family, tmp_path)
    models = [model.model_copy(update={"parameters": {**model.parameters, "weight": 0.3}}) for model in first.models]
    other = first.model_copy(update={"models": tuple(models)})
    expected = merged(other, None)
    held: list[Tensor] = []
    replaced: list[Tensor] = []

    def place(made: Tensor, instead_of: Tensor | None) -> Tensor:
        if instead_of is not None:
            assert any(each is instead_of for each in held)
            replaced.append(instead_of)
            return instead_of.copy_(made)
        if not any(each is made for each in held):
            held.append(made.clone())
            return held[-1]
        return made

    monkeypatch.setattr(ParentSet, "place", lambda *_: place)
    with ParentSet.open(first) as parents:
        merger = Merger(parents)
        merger.apply(first)
        once = len(held)
        assert_equal(dict(merger.apply(other).state_dict()), expected)
        assert 0 < len(held) == once  # what depends on the weights is replaced, and all else is there
        assert bool(replaced) == (method in ("iso_c", "regmean"))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "how"), [("ties", "a bit"), ("pcb", "cut"), ("ties", "empty"), ("pcb", "foreign")])
def test_what_is_damaged_is_computed_again_and_said(
    family: Family, tmp_path: Path, caplog: pytest.LogCaptureFixture, method: str, how: str
) -> None:
    chosen, folder = CASES[method][0](family, tmp_path), tmp_path / "statistics"
    expected = merged(chosen, folder)
    broken = list(folder.iterdir())
    assert "numbers.json" in {file.name for file in broken}
    for file in broken:
        break_file(file, how)
    assert_equal(merged(chosen, folder), expected)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sorted(told) == sorted({message for message in told if "damaged" in message})
    assert {message.partition(":")[0] for message in told} == {str(file) for file in broken}
    caplog.clear()
    caplog.set_level(logging.INFO)
    assert_equal(merged(chosen, folder), expected)
    assert caplog.messages[-1].endswith("found on disk, 0 computed")


@pytest.mark.parametrize("numbers", [None, 0.5])
def test_whichever_byte_is_damaged_nothing_else_is_read(tmp_path: Path, numbers: float | None) -> None:
    folder = StatisticsFolder(tmp_path)
    folder.writes = True
    folder.write(identity_of(folder, "x", numbers), {"x": torch.arange(9.0), "y": torch.arange(3)})
    folder.save()
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    for place in range(len(content)):
        for broken in (content[:place], content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]):
            file.write_bytes(broken)
            assert StatisticsFolder(tmp_path).read(identity_of(folder, "x", numbers)) is None


@pytest.mark.parametrize("keeps_times", [False, True])
def test_a_parent_of_the_same_name_and_size_with_other_weights_has_other_statistics(
    family: Family, tmp_path: Path, keeps_times: bool
) -> None:
    shutil.copytree(family.a, tmp_path / "a")
    weights = tmp_path / "a/model.safetensors"
    chosen = CASES["ties"][0](Family(family.base, str(tmp_path / "a"), family.b), tmp_path)
    merged(chosen, tmp_path / "statistics")
    before = weights.stat()
    other = {name: tensor * 1.5 for name, tensor in load_file(weights).items()}
    save_file(other, weights, metadata={"format": "pt"})
    if keeps_times:
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert weights.stat().st_size == before.st_size
    assert_equal(merged(chosen, tmp_path / "statistics"), merged(chosen, None))


def test_the_same_weights_elsewhere_have_the_same_statistics(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged(CASES["ties"][0](family, tmp_path), tmp_path / "statistics")
    shutil.copytree(family.a, tmp_path / "a")
    spy = calls(monkeypatch, CASES["ties"][1])
    moved = CASES["ties"][0](Family(family.base, str(tmp_path / "a"), family.b), tmp_path)
    merged(moved, tmp_path / "statistics")
    assert not spy.called


def test_another_torch_has_statistics_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = StatisticsFolder(tmp_path)
    folder.writes = True
    folder.write(identity_of(folder, "svd"), {"x": torch.ones(5000)})
    assert folder.read(identity_of(folder, "svd"))
    monkeypatch.setattr("torch.__version__", "99.0")
    assert not folder.read(identity_of(folder, "svd"))


def test_an_adapter_with_another_scale_has_other_statistics(family: Family, tmp_path: Path) -> None:
    adapter = save_adapter(family.base, tmp_path / "adapter", seed=1, target_modules=["q_proj", "down_proj"])
    adapted = Family(family.base, f"{family.base}+{adapter}", family.b)
    chosen = CASES["ties"][0](adapted, tmp_path)
    assert_equal(merged(chosen, tmp_path / "statistics"), merged(chosen, None))
    config = Path(adapter) / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 60}))
    assert_equal(merged(chosen, tmp_path / "statistics"), merged(chosen, None))


@pytest.mark.slow
def test_what_is_assembled_of_pieces_is_found_by_its_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = make_family(tmp_path / "models", architecture="mixtral")
    chosen, folder = CASES["ties"][0](family, tmp_path), tmp_path / "statistics"
    assert_equal(merged(chosen, folder), merged(chosen, None))
    spy = calls(monkeypatch, CASES["ties"][1])
    found = merged(chosen, folder)
    assert not spy.called
    weights = Path(family.a) / "model.safetensors"
    pieces = load_file(weights)
    last = max(name for name in pieces if "experts" in name)
    save_file(pieces | {last: pieces[last] * 3}, weights, metadata={"format": "pt"})
    expected = merged(chosen, None)
    assert_equal(merged(chosen, folder), expected)
    assert any(not torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_vocabulary_that_is_filled_otherwise_has_other_statistics(tmp_path: Path) -> None:
    vocabularies = (TinyVocabulary(), TinyVocabulary(added=("<x>",)), TinyVocabulary(added=("<y>",)))
    folders = [
        save_tiny_model(tmp_path / str(seed), TinyModel(seed=seed, vocabulary=vocabulary, layers=1))
        for seed, vocabulary in enumerate(vocabularies)
    ]
    family = Family(*folders)
    for source in (family.a, "{kind: zero}"):
        more = f"tokenizer: {{source: union, tokens: {{<x>: {{source: {source}, force: true}}}}}}"
        chosen = recipe(family, "ties", "weight: 1, density: 0.4", "weight: 0.5, density: 0.3", more=more)
        assert_equal(merged(chosen, tmp_path / "statistics"), merged(chosen, None))


@pytest.mark.parametrize("change", ["text", "tokenizer", "config"])
def test_calibrations_are_of_a_text_a_tokenizer_and_a_config(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    shutil.copytree(family.a, tmp_path / "a")
    chosen = of_text(Family(family.base, str(tmp_path / "a"), family.b), "regmean", tmp_path)
    merged(chosen, tmp_path / "statistics")
    if change == "text":
        (tmp_path / "text.txt").write_text(TEXT[::-1])
    elif change == "tokenizer":
        file = tmp_path / "a/tokenizer.json"
        content = json.loads(file.read_text())
        vocabulary = content["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
        file.write_text(json.dumps(content))
    else:
        file = tmp_path / "a/config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"rms_norm_eps": 0.1}))
    spy = calls(monkeypatch, CASES["regmean"][1])
    assert_equal(merged(chosen, tmp_path / "statistics"), merged(chosen, None))
    parents_run_again = 2 if change == "text" else 1
    assert spy.call_count == parents_run_again + 2  # which without a folder are run each time


@pytest.mark.parametrize("method", ["fisher", "iso_c"])
def test_what_was_computed_before_there_was_a_folder_is_written_to_it(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    make, computes = CASES[method]
    chosen, folder = make(family, tmp_path), tmp_path / "statistics"
    spy = calls(monkeypatch, computes)
    with ParentSet.open(chosen, MergeOptions(statistics=folder)) as parents:
        Merger(parents).apply(chosen)
        computed = spy.call_count
        assert not folder.exists()
        parents.statistics.write()
    found = merged(chosen, folder)
    assert spy.call_count == computed
    assert_equal(found, merged(chosen, None))
    assert spy.call_count == 2 * computed


def test_what_was_found_last_stays_in_the_folder(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "statistics"
    one, other = (recipe(family, "iso_c", f"weight: {weight}") for weight in (0.7, 0.8))
    expected = merged(other, folder)
    with ParentSet.open(one, MergeOptions(statistics=folder)) as parents:
        merger = Merger(parents)
        merger.apply(one)
        merger.apply(other)
        parents.statistics.write()
    spy = calls(monkeypatch, CASES["iso_c"][1])
    assert_equal(merged(other, folder), expected)
    assert not spy.called


def test_numbers_that_are_searched_leave_nothing_behind(family: Family, tmp_path: Path) -> None:
    folder = tmp_path / "statistics"
    for weight in (0.7, 0.8, 0.7):
        chosen = recipe(family, "iso_c", f"weight: {weight}")
        assert_equal(merged(chosen, folder), merged(chosen, None))
    large = list(folder.glob("iso_c-*"))
    assert large
    assert all(not load_file(file) for file in large)


@pytest.mark.parametrize("method", ["task_arithmetic", "dare_ties", "nuslerp"])
def test_a_search_whose_statistics_cost_less_than_to_hash_the_parents_hashes_nothing(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    spy = calls(monkeypatch, "merging.statistics.digests.file_digest")
    merged(recipe(family, method, "weight: 0.4", "weight: 0.6"), tmp_path / "statistics")
    assert not spy.called
    assert not (tmp_path / "statistics").exists()


def test_an_export_reads_statistics_and_writes_none(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, computes = CASES["tsv_m"]
    chosen, folder = make(family, tmp_path), tmp_path / "statistics"
    export_model(chosen, tmp_path / "plain", MergeOptions(statistics=folder))
    assert not folder.exists()
    merged(chosen, folder)
    spy = calls(monkeypatch, computes)
    export_model(chosen, tmp_path / "again", MergeOptions(statistics=folder))
    assert not spy.called
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "again")]
    assert weights[0] == weights[1]


def test_what_is_large_is_mapped(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merging.statistics.statistics._LARGE", 0)
    chosen, folder = CASES["della"][0](family, tmp_path), tmp_path / "statistics"
    for _ in range(2):  # also what was only just computed
        with ParentSet.open(chosen, MergeOptions(statistics=folder)) as parents:
            parents.statistics.write()
            Merger(parents).apply(chosen)
            maps = Path("/proc/self/maps").read_text()
            ranks = list(folder.glob("ranks-*"))
            assert ranks
            assert all(str(file) in maps for file in ranks)


def test_what_is_mapped_leaves_the_rest_where_it_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merging.statistics.statistics._LARGE", 0)
    large, small = torch.arange(1 << 18), torch.arange(8)

    def place(made: Tensor, _: Tensor | None) -> Tensor:
        return made.to("meta") if len(made) == len(small) else made  # the device has room for the small one

    kept = Kept("both", forms.tensors(version=1), lambda _: "nothing", place)
    statistics = Statistics(tmp_path)
    statistics.write()
    found = statistics.once("both", lambda: (large, small), kept)
    assert [each.device.type for each in found] == ["cpu", "meta"]
    assert torch.equal(found[0], large)
    assert str(tmp_path) in Path("/proc/self/maps").read_text()


# --- the disk -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [small_disk, small_files])
def test_a_full_disk_costs_time_alone_and_is_said_once(
    family: Family, tmp_path: Path, caplog: pytest.LogCaptureFixture, limit: Limit
) -> None:
    chosen = CASES["tsv_m"][0](family, tmp_path)
    disk = tmp_path / "disk"
    disk.mkdir()
    with limit(disk):
        assert_equal(merged(chosen, disk / "statistics"), merged(chosen, None))
        (told,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert told.startswith(f"{disk}/statistics: cannot be written (")
        assert not list(disk.rglob("*.part"))
        assert_equal(merged(chosen, disk / "statistics"), merged(chosen, None))


def test_the_last_gigabyte_is_left_to_the_results(
    family: Family, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("merging.statistics.folder._LEFT_FREE", shutil.disk_usage(tmp_path).total)
    merged(CASES["ties"][0](family, tmp_path), tmp_path / "statistics")
    assert not list((tmp_path / "statistics").glob("[!d]*"))
    assert "the disk is nearly full" in caplog.text


def _write_for_ever(path: Path) -> None:
    folder = StatisticsFolder(path)
    folder.writes = True
    while True:
        for number in range(8):
            _put(folder, number)
        folder.save()


def _put(folder: StatisticsFolder, number: int) -> None:
    folder.write(identity_of(folder, f"large {number}"), {"x": torch.full((50_000,), number, dtype=torch.int32)})
    folder.write(identity_of(folder, f"few {number}"), {"x": torch.tensor([number])})


@contextlib.contextmanager
def writer(path: Path) -> Iterator[multiprocessing.process.BaseProcess]:
    process = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(path,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: that other threads may hold locks
        process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def test_whoever_writes_and_is_killed_what_is_read_is_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "statistics"
    found = 0
    with writer(path), writer(path):
        deadline = time.monotonic() + 60
        while found < 200 and time.monotonic() < deadline:
            found += _read_all(path)
    # Both were killed at whatever they were at.
    found = _read_all(path)
    assert found >= 8
    assert not caplog.records


def _read_all(path: Path) -> int:
    found = 0
    folder = StatisticsFolder(path)
    for number in range(8):
        for name in (f"large {number}", f"few {number}"):
            if tensors := folder.read(identity_of(folder, name)):
                assert torch.equal(tensors["x"], torch.full_like(tensors["x"], number))
                found += 1
    return found


def test_what_a_killed_writer_left_goes(tmp_path: Path) -> None:
    (tmp_path / ".old.safetensors.1-1.part").write_bytes(b"half")
    StatisticsFolder(tmp_path).clean()
    assert not list(tmp_path.iterdir())


# --- digests --------------------------------------------------------------------------------------------------------


def test_a_file_of_the_hub_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = sha256(b"what it holds").hexdigest()
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / name).write_bytes(b"what is not looked at")
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blobs" / name)
    spy = calls(monkeypatch, "merging.statistics.digests.file_digest")
    found = FileDigests()
    assert found.known(tmp_path / "model.safetensors")
    assert found.of(tmp_path / "model.safetensors") == name
    assert not spy.called


def test_a_file_is_hashed_once_for_as_long_as_it_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_TICK_NS", 0)
    memory = digests_in(monkeypatch, tmp_path / "digests")
    file = tmp_path / "model.safetensors"
    spy = calls(monkeypatch, "merging.statistics.digests.file_digest")

    def digest(known: bool) -> str:
        time.sleep(0.02)  # beyond a tick of the clock that files are stamped by
        found = FileDigests()
        assert found.known(file) == known
        return found.of(file)

    for content in (b"one", b"two"):
        file.write_bytes(content)
        assert digest(known=False) == digest(known=True) == sha256(content).hexdigest()
    assert spy.call_count == 2
    for damaged in (b"[", b"[]", b"{}", b'[3, 1, 1, 1, "two"]'):
        (note,) = memory.iterdir()
        note.write_bytes(damaged)
        assert digest(known=False) == sha256(b"two").hexdigest()


def test_a_file_that_was_written_only_just_now_is_hashed_again_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_TICK_NS", 600 * 10**9)
    memory = digests_in(monkeypatch, tmp_path / "digests")
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"one")
    time.sleep(0.02)
    assert FileDigests().of(file) == sha256(b"one").hexdigest()
    assert not list(memory.iterdir())


def test_files_are_hashed_beside_other_work(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name.encode())
    time.sleep(0.02)
    one, gone, two = FileDigests().begin([tmp_path / "one", tmp_path / "gone", tmp_path / "two"])
    assert [one.result(), two.result()] == [sha256(name).hexdigest() for name in (b"one", b"two")]
    with pytest.raises(FileChanged):
        gone.result()


@pytest.mark.parametrize("memory", ["nowhere", "gone"])
def test_a_home_that_cannot_be_written_costs_time_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: str
) -> None:
    monkeypatch.setattr(digests, "_TICK_NS", 0)
    monkeypatch.setattr(digests, "cache_folder", lambda _: None if memory == "nowhere" else tmp_path / memory)
    (tmp_path / "file").write_bytes(b"one")
    for _ in range(2):
        time.sleep(0.02)
        assert FileDigests().of(tmp_path / "file") == sha256(b"one").hexdigest()


def test_what_changed_after_it_was_opened_has_no_digest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "model.safetensors"
    found = FileDigests()
    time.sleep(0.02)
    file.write_bytes(b"one")
    for each in (file, tmp_path / "gone"):
        with pytest.raises(FileChanged):
            found.of(each)
    assert "has changed since it was opened" in caplog.text
    assert "is gone; what is computed from it" in caplog.text


def test_a_file_that_changed_after_it_was_hashed_is_noticed_whatever_its_times_say(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"one")
    found = FileDigests()
    before = file.stat()
    assert found.of(file) == sha256(b"one").hexdigest()
    assert found.is_unchanged(file)
    time.sleep(0.02)
    os.utime(file)
    assert found.is_unchanged(file)
    assert found.of(file) == sha256(b"one").hexdigest()
    time.sleep(0.02)
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not found.is_unchanged(file)
    with pytest.raises(FileChanged):
        found.of(file)
    file.unlink()
    assert found.is_unchanged(file)


def test_a_parent_that_is_exchanged_while_it_is_merged_poisons_nothing(family: Family, tmp_path: Path) -> None:
    shutil.copytree(family.a, tmp_path / "a")
    chosen = CASES["ties"][0](Family(family.base, str(tmp_path / "a"), family.b), tmp_path)
    with ParentSet.open(chosen, MergeOptions(statistics=tmp_path / "statistics")) as parents:
        parents.statistics.write()
        parents.load()
        time.sleep(0.02)
        shutil.copyfile(Path(family.b) / "model.safetensors", tmp_path / "a/model.safetensors")
        Merger(parents).apply(chosen)
    assert_equal(merged(chosen, tmp_path / "statistics"), merged(chosen, None))


# --- forms ----------------------------------------------------------------------------------------------------------

CPU = torch.device("cpu")
numbers = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False), lambda each: st.lists(each, max_size=4).map(tuple)
)


@given(numbers)
def test_numbers_are_read_as_they_were_written(value: object) -> None:
    form: forms.Form[object] = forms.plain(version=1)
    again = form.value(form.tensors(value))
    assert again == value
    assert repr(again) == repr(value)


@given(st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=1, max_size=60), st.integers(1, 9))
def test_a_table_is_read_as_it_was_written(values: list[float], run: int) -> None:
    table = magnitude_table(torch.tensor(values, dtype=torch.float16).split(run))
    again = TABLE.value(TABLE.tensors(table))
    places = [table.place_of(k) for k in range(1, len(values) + 1)]
    assert [again.place_of(k) for k in range(1, len(values) + 1)] == places
    assert [again.run_of(place) for place in places] == [table.run_of(place) for place in places]


@pytest.mark.parametrize(
    "value", [None, torch.ones(3, 2), torch.empty(0, 4), torch.tensor(float("nan"), dtype=torch.bfloat16)]
)
def test_a_tensor_is_read_as_it_was_written(tmp_path: Path, value: Tensor | None) -> None:
    form, folder = forms.optional_tensor(version=1), StatisticsFolder(tmp_path)
    folder.writes = True
    for numbers in (None, (0.5,)):  # the small ones in one file, and a file each
        identity = identity_of(folder, "x", numbers)
        folder.write(identity, form.tensors(value))
        folder.save()
        found = StatisticsFolder(tmp_path).read(identity)
        assert found is not None
        again = form.value(found)
        if value is None:
            assert again is None
        else:
            assert again is not None
            assert again.dtype == value.dtype
            assert again.shape == value.shape
            assert torch.equal(again, value) or bool(value.isnan() & again.isnan())
