from __future__ import annotations

import html
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.core.quoting import SHOWN, without_quotes

SECRET = "the quick brown fox jumps over the lazy dog"


def test_z9_a_quote_goes_whole_or_cut_short_however_often() -> None:
    message = f"400: {SECRET!r} is bad, as is {SECRET[:20]}..."
    assert (
        without_quotes(message, ["another text that is long", SECRET])
        == f"400: '{SECRET}' is bad".replace(SECRET, SHOWN) + f", as is {SHOWN}..."
    )


def test_z9_what_is_no_quote_stays() -> None:
    assert without_quotes("400: the input is bad", ["the", "input", "x" * 40]) == "400: the input is bad"


@given(st.text(alphabet="abc ", max_size=40), st.lists(st.text(alphabet="abc ", min_size=12, max_size=40), max_size=4))
def test_z9_no_text_is_left_and_it_ends(message: str, texts: list[str]) -> None:
    shown = without_quotes(message + "".join(texts), texts)
    assert not any(text in shown for text in texts)


def test_z9_every_quote_of_many_goes() -> None:
    assert without_quotes(" and ".join([SECRET] * 5), [SECRET]) == " and ".join([SHOWN] * 5)


def test_z9_what_stands_in_the_place_of_a_quote_is_taken_for_none() -> None:
    text = f"{SHOWN}{SHOWN} is what I wrote"
    assert without_quotes(f"400: {text}{SHOWN}", [text]) == f"400: {SHOWN}{SHOWN}"


ODD = "Müller wrote:\n\t\"it hurts\" & 'burns'   since 5 o'clock"


@pytest.mark.parametrize(
    "spelt",
    [
        json.dumps(ODD),
        json.dumps(ODD, ensure_ascii=False),
        repr(ODD),
        html.escape(ODD),
        " ".join(ODD.split()),
        json.dumps(ODD)[:30],
    ],
)
def test_e10_a_quote_goes_however_the_server_spells_it(spelt: str) -> None:
    shown = without_quotes(f"422: bad input {spelt}!", ["another one", ODD])
    assert SHOWN in shown
    assert not any(word in shown for word in ("ller", "hurts", "burns", "clock"))
