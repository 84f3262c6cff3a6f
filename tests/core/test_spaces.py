from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.core.spaces import is_same_model, merge_spaces
from aembed.types import Space

spaces = st.builds(
    Space,
    st.sampled_from(["openai", "ollama"]),
    st.sampled_from(["small", "large"]),
    st.sampled_from([None, 512, 1_536]),
    st.sampled_from(["", "http://gpu:11434"]),
)


@given(spaces, spaces)
def test_spaces_agree_exactly_if_nothing_that_both_know_differs(held: Space, asked: Space) -> None:
    named = replace(held, dimensions=None) == replace(asked, dimensions=None)
    widths = {held.dimensions, asked.dimensions} - {None}
    space = merge_spaces(held, asked)
    assert (space is not None) == (named and len(widths) <= 1)
    if space:
        assert space == replace(asked, dimensions=widths.pop() if widths else None)


@pytest.mark.parametrize(("held", "asked"), [(512, None), (None, 512), (512, 512)])
def test_dimensions_that_either_knows_are_agreed_on(held: int | None, asked: int | None) -> None:
    space = merge_spaces(Space("openai", "small", held), Space("openai", "small", asked))
    assert space == Space("openai", "small", 512)


@given(spaces)
def test_an_empty_store_takes_what_it_is_asked_for(asked: Space) -> None:
    assert merge_spaces(None, asked) == asked
    assert merge_spaces(asked, asked) == asked


@pytest.mark.parametrize(
    ("space", "line"),
    [
        (Space("openai", "small", 512), "openai:small, 512 dimensions"),
        (Space("tei", "bge", None, "http://gpu:8080"), "tei:bge at http://gpu:8080"),
    ],
)
def test_a_space_is_shown_as_users_type_it(space: Space, line: str) -> None:
    assert str(space) == line


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://127.0.0.1:11434/v1", "http://localhost:11434/v1", True),
        ("http://[::1]:11434/v1", "http://api.localhost:11434/v1", True),
        ("http://127.0.0.1:11434/v1", "http://127.0.0.1:8080/v1", False),
        ("http://127.0.0.1:11434/v1", "http://127.0.0.1:11434", False),
        ("http://127.0.0.1:11434/v1", "https://127.0.0.1:11434/v1", False),
        ("http://127.0.0.1:11434/v1", "http://gpu:11434/v1", False),
        ("https://gpu/v1", "https://gpu2/v1", False),
        ("", "http://127.0.0.1:11434/v1", True),
        ("", "http://127.0.0.1:8080/v1", False),
    ],
)
def test_a11_the_names_of_this_machine_are_one_place(one: str, other: str, same: bool) -> None:
    for held, asked in ((one, other), (other, one)):
        space = Space("ollama", "nomic-embed-text", 768, asked)
        assert merge_spaces(replace(space, endpoint=held), space) == (space if same else None)


def test_a9_names_of_one_model_differ_in_case_and_vendor_and_no_more() -> None:
    assert is_same_model("openai/Text-Embedding-3-Small", "text-embedding-3-small")
    assert not is_same_model("text-embedding-3-small", "text-embedding-3-large")
    assert not is_same_model("bge-small-en-v1.5", "bge-small-en")
    assert is_same_model("BAAI/bge-m3", "baai/bge-m3")
    assert not is_same_model("one/embed-v1", "another/embed-v1")
