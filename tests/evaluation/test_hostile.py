"""What a completion may try: it never passes, never reaches beyond the sandbox, and never disturbs the next run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from _pytest.mark import ParameterSet

from tests.evaluation.hostile import CASES, HONEST, PROMPT
from tests.evaluation.settings import Sandboxed, Setting, Unavailable, start

ADD = {"task_id": "toy/add", "prompt": PROMPT, "entry_point": "add"}

LAYERS: dict[Setting, tuple[str, ...]] = {
    "root": ("landlock", "seccomp"),
    "nobody": ("bubblewrap", "landlock", "seccomp"),
    "no bubblewrap": ("missing: bubblewrap (there is no bwrap on the PATH)",),
    "no landlock": ("bubblewrap", "missing: landlock (the kernel has none)"),
}


@pytest.fixture(scope="module")
def settings() -> Iterator[Callable[[Setting], Sandboxed]]:
    """Return what gives a pool in a setting; each is started once."""
    started: dict[Setting, Sandboxed] = {}
    with ExitStack() as stack:

        def get(setting: Setting) -> Sandboxed:
            if setting not in started:
                try:
                    started[setting] = stack.enter_context(start(setting))
                except Unavailable as reason:
                    pytest.skip(str(reason))
            return started[setting]

        yield get


@pytest.mark.parametrize("setting", LAYERS)
def test_a_setting_has_the_layers_that_it_is_named_for(
    settings: Callable[[Setting], Sandboxed], setting: Setting
) -> None:
    isolation = settings(setting).isolation
    assert [layer for layer in LAYERS[setting] if layer not in isolation] == []


def in_every_setting() -> list[ParameterSet]:
    """Return every case in every setting: each in one of them in turn, and as slow ones in the others."""
    found = []
    for number, case in enumerate(CASES):
        for index, setting in enumerate(("root", "nobody", "no bubblewrap")):
            marks = [pytest.mark.slow] if number % 3 != index else []
            found.append(pytest.param(setting, case, id=f"{case}-{setting}", marks=marks))
    return found


@pytest.mark.parametrize(("setting", "case"), in_every_setting())
def test_a_hostile_completion_comes_to_nothing(
    settings: Callable[[Setting], Sandboxed], setting: Setting, case: str
) -> None:
    comes_to_nothing(settings(setting), case)


# With only bubblewrap, the folders on the way to the interpreter can be listed; nothing else is in them.
@pytest.mark.parametrize(
    "case", [name for name in CASES if name.startswith("escapes") and "folders listed" not in name]
)
def test_an_escape_is_refused_where_the_kernel_has_no_landlock(
    settings: Callable[[Setting], Sandboxed], case: str
) -> None:
    comes_to_nothing(settings("no landlock"), case)


def comes_to_nothing(sandboxed: Sandboxed, name: str) -> None:
    """Check that a case has one of the statuses that it may have, and that the next run is as good as any."""
    case = CASES[name]
    problem = ADD | {"test": case.test}
    status, detail = sandboxed.run(problem, case.completion.replace("SECRET)", f"{sandboxed.secret!r})"))
    assert status in case.statuses, detail
    assert sandboxed.run(problem, HONEST) == ("passed", "")
