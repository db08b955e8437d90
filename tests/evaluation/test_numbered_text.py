"""A text that counts is guessed to count on."""

from __future__ import annotations

from operator import itemgetter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from evaluation.generation.drafting.drafter import Drafter, Trust
from evaluation.generation.drafting.numbered_text import WINDOW, continued, digits_of

# Each character is a token.
DIGITS = {ord(digit): digit for digit in "0123456789"}


def goes_on(text: str, most: int = 40) -> str:
    return "".join(map(chr, continued([ord(character) for character in text], DIGITS, most)))


WORDS = st.sampled_from(["if n == ", ":\n        return ", ", ", "x", "\n", "    # step "])
PARTS = st.tuples(WORDS, st.integers(0, 2_000), st.integers(-3, 20))


@given(
    st.lists(
        st.tuples(WORDS, st.integers(0, 2_000), st.integers(-3, 20)), min_size=1, max_size=3, unique_by=itemgetter(0)
    ),
    st.integers(3, 5),
    st.integers(1, 40),
    st.integers(0, 30),
)
def test_numbers_go_on_by_their_steps(parts: list[tuple[str, int, int]], rounds: int, most: int, cut: int) -> None:
    assume(any(step for _, _, step in parts))
    assume(all(start + step * 60 >= 0 for _, start, step in parts))
    text = "".join(f"{word}{start + step * number}" for number in range(60) for word, start, step in parts)
    known = len("".join(f"{word}{start + step * number}" for number in range(rounds) for word, start, step in parts))
    known += cut
    found = goes_on(text[:known], most)
    assert found == text[known : known + most]


@pytest.mark.parametrize(
    ("text", "following"),
    [
        ("if n == 8:\n return 8\nif n == 9:\n return 9\n", "if n == 10:\n return 10\nif n =="),
        ("x = [97, 98, 99, 1", "00, 101, 102, 103, 104, 105, 1"),
        ("a07 a08 ", "a09 a10 a11 a12 a13 a14 a15 a1"),
        ("range(2, 4) range(4, 6) ", "range(6, 8) range(8, 10) range"),
        ("3 2 ", "1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 "),
    ],
)
def test_what_models_write(text: str, following: str) -> None:
    assert goes_on(text, 30) == following


@pytest.mark.parametrize("text", ["", "7", "no numbers", "once 1, twice and 2", "the same 1, the same 1, ", "1, 2, 4"])
def test_what_does_not_count_has_no_next(text: str) -> None:
    assert goes_on(text) == ""


@given(st.lists(st.integers(0, 12), max_size=60), st.integers(0, 30))
def test_any_text_has_as_many_guesses_as_asked_for_or_none(text: list[int], most: int) -> None:
    assert len(continued(text, {token: str(token) for token in range(10)}, most)) in (0, most)


@given(
    st.lists(st.sampled_from("0123ab\n"), max_size=60).map("".join)
    | st.lists(PARTS, max_size=3).map(
        lambda parts: "".join(f"{word}{start + step * number}" for number in range(4) for word, start, step in parts)
    )
)
def test_the_drafter_overlooks_no_numbered_text(text: str) -> None:
    tokens = [ord(character) for character in text]
    guesses = continued(tokens[-WINDOW:], DIGITS, 16)
    if guesses:
        assert Drafter(tokens, [], Trust(), DIGITS).propose([], 16, 0.0) == guesses


def test_a_tokenizer_with_a_token_a_digit_is_known(tiny_model: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    digits = digits_of(tiny_model[1])
    assert sorted(digits.values()) == list("0123456789")
    tokens = tiny_model[1].encode(
        "".join(f"    if n == {number}:\n        return {number}\n" for number in range(8, 60))
    )
    drafts = Drafter(tokens[:100], [], Trust(), digits)
    guesses = drafts.propose(tokens[100:150], 64, 0.0)
    assert guesses
    assert list(guesses) == tokens[150 : 150 + len(guesses)]


def test_a_tokenizer_with_longer_numbers_is_left_alone() -> None:
    model = WordLevel({"0123456789": 0, "?": 1}, unk_token="?")
    assert not digits_of(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), unk_token="?"))
