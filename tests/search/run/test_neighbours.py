"""Workers on one machine share its cores, and are told when they share a card."""

from __future__ import annotations

import re
from collections.abc import Mapping

from search.run.neighbours import notes_on_cards, on_machine, share_of
from search.study.store import Workplace

CARDS = {"cuda:0": "", "cuda:1": "", "cuda:2": ""}
FIRST = Workplace("here", {"cuda:0": ""})


def notes(own: Workplace, *others: Workplace, here: Mapping[str, str] = CARDS) -> list[str]:
    return list(notes_on_cards(own, {f"{number}f03f00ff00f": other for number, other in enumerate(others)}, here))


def test_cores_are_divided_by_the_workers() -> None:
    assert [share_of(8, others) for others in range(10)] == [8, 4, 2, 2, 1, 1, 1, 1, 1, 1]
    assert share_of(1, 1) == 1


def test_only_workers_of_the_same_machine_count() -> None:
    workers = {"a": FIRST, "b": Workplace("here", {"cpu": ""}), "c": Workplace("there", {"cpu": ""})}
    assert (on_machine("here", workers), on_machine("elsewhere", workers)) == (2, 0)


def test_a_card_that_another_worker_is_on_is_told_with_one_that_is_free() -> None:
    second = Workplace("here", {"cuda:1": ""})
    [note] = notes(FIRST, FIRST, second)
    assert note == (
        "worker 0f03f00f is already on cuda:0 of this machine; both share its memory; take another card: "
        "--device cuda:2"
    )
    assert notes(FIRST, second) == []


def test_where_every_card_is_taken_that_is_told() -> None:
    [note] = notes(FIRST, FIRST, here={"cuda:0": ""})
    assert note.endswith("both share its memory; this machine has no other that is free")


def test_a_spread_model_is_told_of_each_of_its_cards() -> None:
    spread = Workplace("here", {"cuda:0": "", "cuda:1": ""})
    assert [re.findall(r"cuda:\d", note) for note in notes(spread, spread)] == [
        ["cuda:0", "cuda:2"], ["cuda:1", "cuda:2"]
    ]  # fmt: skip


def test_workers_on_a_cpu_or_on_another_machine_are_no_news() -> None:
    on_cpu = Workplace("here", {"cpu": ""})
    assert notes(on_cpu, on_cpu, here={}) == []
    assert notes(FIRST, Workplace("there", {"cuda:0": ""})) == []


def test_a_card_is_known_by_its_identity_where_the_driver_gives_one() -> None:
    here = {"cuda:0": "a", "cuda:1": "b"}
    own = Workplace("here", {"cuda:0": "a"})
    assert notes(own, Workplace("here", {"cuda:0": "b"}), here=here) == []  # another CUDA_VISIBLE_DEVICES
    [note] = notes(own, Workplace("container", {"cuda:1": "a"}), here=here)
    assert note.endswith("--device cuda:1")
