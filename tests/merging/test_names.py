"""The names that others build on can be imported in any order."""

from __future__ import annotations

import sys

import pytest

from tests.search.processes import in_a_child


@pytest.mark.parametrize("name", ["Merger", "ParentSet", "export_model", "load_model"])
def test_each_name_can_be_the_first_that_is_imported(name: str) -> None:
    assert in_a_child(import_first, name) == 0


def import_first(name: str) -> None:
    # The process has torch and transformers already, which take seconds.
    for module in [module for module in sys.modules if module.partition(".")[0] in ("merging", "evaluation", "search")]:
        del sys.modules[module]
    exec(f"from merging import {name}")
