"""Sizes are read and shown as people write them."""

from __future__ import annotations

import pytest

from merging.sizes import parse_size, shown_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GB", 24 * 10**9),
        ("1.5 gb", 1_500_000_000),
        ("500MB", 500_000_000),
        (7, 7),
        ("0", 0),
        ("40k", 40_000),
        ("5B", 5 * 10**9),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "24 gigabytes", "1e9", True])
def test_what_is_no_size_is_refused_with_examples(text: object) -> None:
    with pytest.raises(ValueError, match="24GB or 500MB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 KB"), (24_500_000_000, "24.5 GB")]
)
def test_a_size_is_shown_in_the_largest_unit_that_it_fills(count: int, text: str) -> None:
    assert shown_size(count) == text
