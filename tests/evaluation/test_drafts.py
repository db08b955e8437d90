"""Drafts give guesses that continue a completion; the store of them is bounded and can be rebuilt from a file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

from hypothesis import assume, given
from hypothesis import strategies as st

from evaluation import Draft, DraftStore
from evaluation.generation.drafting.draft_store import prompt_key
from evaluation.generation.drafting.drafter import Drafter, Trust, distinct

TOKENS = st.lists(st.integers(0, 5), max_size=30)
COMPLETIONS = st.lists(TOKENS, max_size=6)


def greedy(truth: Sequence[int], drafts: Drafter, certainty: float) -> tuple[list[int], int]:
    """Write a text as a generator does that verifies guesses; return it and the number of passes."""
    written: list[int] = []
    passes = 0
    while len(written) < len(truth):
        guesses = drafts.propose(written, len(truth) - len(written) - 1, certainty)
        held = 0
        while held < len(guesses) and guesses[held] == truth[len(written) + held]:
            held += 1
        drafts.learn(held)
        written += truth[len(written) : len(written) + held + 1]
        passes += 1
    return written, passes


@given(TOKENS, COMPLETIONS, TOKENS, st.floats(0, 1))
def test_any_text_is_reached_whatever_the_drafts(
    prompt: list[int], known: list[list[int]], truth: list[int], certainty: float
) -> None:
    written, passes = greedy(truth, Drafter(prompt, known, Trust()), certainty)
    assert written == truth
    assert passes <= len(truth)


@given(TOKENS, COMPLETIONS, st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_a_known_completion_takes_one_pass(prompt: list[int], known: list[list[int]], truth: list[int]) -> None:
    agreeing = [completion for completion in known if completion[: len(truth)] == truth[: len(completion)]]
    _, passes = greedy(truth, Drafter(prompt, [truth, *agreeing], Trust()), certainty=0.0)
    assert passes == 1


@given(TOKENS, COMPLETIONS, TOKENS, st.integers(0, 40), st.floats(0, 1))
def test_guesses_are_no_more_than_asked_for_and_what_stands_somewhere(
    prompt: list[int], known: list[list[int]], written: list[int], most: int, certainty: float
) -> None:
    guesses = Drafter(prompt, known, Trust()).propose(written, most, certainty)
    assert len(guesses) <= most
    assert set(guesses) <= set(prompt) | set(written) | {token for completion in known for token in completion}
    if certainty == 1:
        assert not guesses


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), TOKENS, TOKENS, st.integers(0, 40))
def test_a_path_follows_the_completions_that_agree(
    shared: list[int], one: list[int], other: list[int], most: int
) -> None:
    known = [[*shared, *one], [*shared, *other], [*shared, *other]]
    guesses = list(Drafter([], known, Trust()).propose(shared, most, 0.0))
    if one or other:
        assert guesses == ((other or one)[:most] if one[:1] != other[:1] or one == other else guesses)
        assert guesses in ([*one][: len(guesses)], [*other][: len(guesses)])


def test_after_a_difference_the_text_goes_on_where_it_stands_elsewhere() -> None:
    known = [[1, 2, 3, 50, 51, 52, 53, 54, 55]]
    drafts = Drafter([9], known, Trust())
    assert list(drafts.propose([], 9, 0.0)) == known[0]
    drafts.learn(1)
    # 7 instead of 2: nothing known goes on from here, until two tokens do.
    assert list(drafts.propose([1, 7, 50], 9, 0.0)) == []
    assert list(drafts.propose([1, 7, 50, 51], 9, 0.0)) == [52, 53, 54, 55]


def test_a_text_that_repeats_itself_is_guessed_without_drafts() -> None:
    drafts = Drafter([1, 2, 3, 4, 1, 2], [], Trust())
    assert list(drafts.propose([3], 3, 0.0)) == [4, 1, 2]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(1, 60))
def test_a_text_that_has_begun_to_repeat_itself_is_guessed_to_go_on(period: list[int], most: int) -> None:
    drafts = Drafter([9], [], Trust())
    # Twice the longest match, after which the guess is as long as may be.
    written = period * 16
    drafts.propose(written, most, 0.0)
    drafts.learn(100)
    endless = [period[index % len(period)] for index in range(most)]
    assert list(drafts.propose(written, most, 0.0)) == endless


def test_a_source_that_fails_is_trusted_less() -> None:
    trust = Trust()
    before = trust[3]
    trust.learn([3, 3, 3], held=0)
    assert trust[3] < before
    failed_once = trust[3]
    trust.learn([3, 3, 3], held=3)
    assert trust[3] > failed_once


def test_unlikely_guesses_are_not_made() -> None:
    known = [[1, 2, 3, 4, 5, 6, 7, 8]]
    lengths = [len(Drafter([], known, Trust()).propose([], 8, certainty)) for certainty in (0.0, 0.9, 0.95, 0.999)]
    assert lengths == [8, 3, 1, 0]


@given(COMPLETIONS, st.integers(1, 6))
def test_what_another_completion_begins_with_is_left_out(completions: list[list[int]], most: int) -> None:
    kept = distinct(completions, most)
    assert len(kept) <= most
    assert not any(a != b and b[: len(a)] == a for a in kept for b in map(tuple, completions))
    if len(kept) < most:
        assert all(any(k[: len(c)] == tuple(c) for k in kept) for c in completions if c)


def added(store: DraftStore, entry: Draft) -> bool:
    """Add a completion; return whether it was new."""
    is_new = store.is_new(entry)
    store.add(entry)
    return is_new


def test_the_store_keeps_the_parents_and_the_most_recent() -> None:
    store = DraftStore()
    assert all(added(store, Draft("p", (parent, 0), parent=True)) for parent in range(3))
    assert all(added(store, Draft("p", (trial, 1))) for trial in range(100))
    known = store.drafts("p")
    assert known[0] == (99, 1)
    assert known[-3:] == [(0, 0), (1, 0), (2, 0)]
    assert len(known) < 20
    assert store.drafts("another") == []


def test_what_is_generated_again_is_the_most_recent_and_nothing_new() -> None:
    store = DraftStore()
    for tokens in ((1,), (2,), (3,)):
        assert added(store, Draft("p", tokens))
    assert not added(store, Draft("p", (1,)))
    assert store.drafts("p") == [(1,), (3,), (2,)]


def test_the_reference_is_the_first_that_a_parent_passed_with() -> None:
    store = DraftStore()
    store.add(Draft("p", (1,), parent=True, passed=False))
    store.add(Draft("p", (2,), parent=False, passed=True))
    assert store.reference("p") == ()
    assert store.solution("p") == (2,)
    assert added(store, Draft("p", (1,), parent=True, passed=True))
    store.add(Draft("p", (3,), parent=True, passed=True))
    assert store.reference("p") == store.solution("p") == (1,)


def test_a_known_completion_that_is_the_first_to_pass_is_new() -> None:
    store = DraftStore()
    store.add(Draft("p", (1,)))
    assert added(store, Draft("p", (1,), passed=True))
    assert store.solution("p") == (1,)


ENTRIES = st.lists(
    st.builds(
        Draft,
        st.sampled_from("ab"),
        st.lists(st.integers(0, 3), min_size=1, max_size=2).map(tuple),
        st.booleans(),
        st.booleans(),
    ),
    max_size=60,
)


@given(ENTRIES)
def test_a_store_rebuilt_from_what_was_new_has_the_same_references_and_solutions(entries: list[Draft]) -> None:
    whole, rebuilt = DraftStore(), DraftStore()
    for entry in entries:
        if added(whole, entry):
            rebuilt.add(entry)
    for prompt in "ab":
        passed = [entry for entry in entries if entry.prompt == prompt and entry.passed]
        reference = next((entry.tokens for entry in passed if entry.parent), ())
        solution = reference or next((entry.tokens for entry in passed), ())
        for store in (whole, rebuilt):
            assert (store.reference(prompt), store.solution(prompt)) == (reference, solution)


def test_the_key_of_a_prompt_tells_tokenizers_apart() -> None:
    assert prompt_key("a b", [1, 2]) == prompt_key("a b", (1, 2))
    assert len({prompt_key("a b", [1, 2]), prompt_key("a b", [1, 3]), prompt_key("a c", [1, 2])}) == 3


def after_the_longest_match(own: list[int], texts: list[list[int]], most: int) -> list[int]:
    """Return what follows the last place of the longest match, tried length by length and place by place."""
    for length in range(min(16, len(own)), 1, -1):
        for text, searched in ((own, own[:-1]), *((each, each) for each in texts)):
            ends = [end for end in range(length, len(searched) + 1) if searched[end - length : end] == own[-length:]]
            if ends and ends[-1] < len(text):
                following = text[ends[-1] :][:most]
                return list(islice(cycle(following), most)) if text is own else following
    return []


@given(TOKENS, COMPLETIONS, TOKENS)
def test_without_a_completion_that_agrees_a_guess_follows_the_longest_match(
    prompt: list[int], known: list[list[int]], written: list[int]
) -> None:
    assume(not any(each[: len(written)] == written and len(each) > len(written) for each in known))
    guesses = Drafter(prompt, known, Trust()).propose(written, 5, 0)
    assert list(guesses) == after_the_longest_match([*prompt, *written], known, 5)
