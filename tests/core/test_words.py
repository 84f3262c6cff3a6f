from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.core.words import (
    COUNTED_ROWS,
    MOST_LOOKED_AT,
    MOST_PHRASES,
    MOST_ROWS,
    MOST_ROWS_TOGETHER,
    holds,
    may_hold,
    most_rows,
    names_in,
    wanted,
    weigh_rows,
)


def written(question: str) -> set[str]:
    return {name.written for name in names_in(question)}


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is the option --batch-size for?", {"--batch-size"}),
        (
            "Why does it raise asyncpg.exceptions.TooManyConnectionsError?",
            {"asyncpg.exceptions.TooManyConnectionsError"},
        ),
        ("How large is max_tokens_per_batch, by default?", {"max_tokens_per_batch"}),
        ("The server said HTTP 429 to me", {"HTTP", "HTTP 429"}),
        ("Why is it --batch-size=32?", {"--batch-size", "32"}),
        ("It ends with `E2BIG` here", {"E2BIG"}),
        ('What is a "shrinkwrap" good for?', {"shrinkwrap"}),
        ("What is a \u201cshrinkwrap\u201d good for?", {"shrinkwrap"}),
        ("How do I call os.path.join(a, b)?", {"os.path.join"}),
        ("How do I sort the rows of a table, and why isn't it Alice's?", set()),
        ("Which of the two, e.g. this one, i.e. that?", set()),
        ("Is there a clean-up that I can run-in by myself?", set()),
        ("Which header is X-Request-Id and what does -x do, or 'pre-commit'?", {"X-Request-Id", "pre-commit"}),
        ("HOW DO I SORT THE ROWS?", set()),
        ("I have 3 files of 20 lines", {"have 3", "of 20"}),
        ("shrinkwrap", {"shrinkwrap"}),
        ("npm shrinkwrap", {"npm", "shrinkwrap"}),
        ("what is shrinkwrap", set()),
        ("", set()),
        (" \n ... !!! ", set()),
    ],
)
def test_a_name_is_what_is_written_as_one(question: str, expected: set[str]) -> None:
    assert written(question) == expected


def test_the_parts_of_a_name_are_looked_up_where_no_row_holds_the_whole() -> None:
    names = names_in("is it a.bc.de_fg here")
    assert wanted(names, {}) == [("a", "bc", "de", "fg")]
    assert wanted(names, {("a", "bc", "de", "fg"): {"1": "a.bc.de_fg"}}) == []
    found = {("a", "bc", "de", "fg"): dict[str, str]()}
    assert wanted(names, found) == [("bc",), ("de", "fg")]
    assert wanted(names, found | {("bc",): {}, ("de", "fg"): {}}) == []


def weights(question: str, found: dict[tuple[str, ...], list[str]], rows: int = 1_000) -> dict[str, float]:
    """The text of a row is its key."""
    given = {phrase: dict(zip(keys, keys, strict=True)) for phrase, keys in found.items()}
    return weigh_rows(names_in(question), given, rows)


def test_the_rarer_name_weighs_more() -> None:
    held = weights("is x1 or y2 it", {("x1",): ["x1", "x1 y2"], ("y2",): ["x1 y2"]})
    assert held["x1 y2"] > held["x1"] > 0
    assert weights("is x1 or y2 it", {("x1",): [f"x1 {i}" for i in range(6)]}) == {}


def test_a_name_as_it_is_written_comes_before_its_words() -> None:
    rows = [f"all {i}" for i in range(100)]
    assert weights("is it --all", {("all",): [*rows, "the --all", "the --all-files", "x--all"]}).keys() == {"the --all"}
    assert weights("is it --all", {("all",): ["all", "the all"]}).keys() == {"all", "the all"}
    assert weights("is it --all", {("all",): rows}) == {}
    assert weights("is it --all", {("all",): ["--all", *map(str, range(MOST_LOOKED_AT))]}) == {}


def test_what_is_rare_depends_on_the_store_and_has_a_bound() -> None:
    assert [most_rows(n) for n in (0, 1, 19, 20, 40, 600, 800, 2_000)] == [1, 1, 1, 2, 3, 3, 4, 10]
    assert most_rows(COUNTED_ROWS) == most_rows(10**9) == MOST_ROWS


def test_rows_whose_vectors_are_read_have_a_bound() -> None:
    found = {(f"n{i}",): [f"n{i} {j}" for j in range(250)] for i in range(8)}
    held = weights(" ".join(f"n{i}" for i in range(8)), found, 10**6)
    assert len(held) == MOST_ROWS_TOGETHER


def test_of_a_page_that_is_pasted_the_longest_names_are_looked_up() -> None:
    names = names_in(" ".join(f"name_{'x' * i}" for i in range(1, 200)))
    assert len(names) == MOST_PHRASES
    assert min(len(name.written) for name in names) == len("name_") + 199 - MOST_PHRASES + 1


@given(st.text())
def test_a_text_holds_each_name_that_is_found_in_it(text: str) -> None:
    for name in names_in(text):
        assert may_hold(text, name.phrase)
        if text.lower() == text:
            assert holds(text, name.phrase)


@given(st.text(alphabet="ab1_-./ \"'\\(){}%*:\0\u00e4\U0001f600"))
def test_the_words_of_a_name_are_letters_and_digits(text: str) -> None:
    for name in names_in(text):
        for phrase in name.phrases():
            assert all(word.isalnum() for word in phrase)
