from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.core.changes import Item
from aembed.core.packing import Cap
from aembed.core.weighing import CLOSE, PATIENCE, Weight
from tests.jobs import item_of

CAP = Cap(2_048, 300_000)


def items(count: int) -> list[Item]:
    return [item_of(str(number)) for number in range(count)]


def sent(weight: Weight, most: int, count: int, sender: object = "one") -> list[int]:
    """The sizes of the requests that take so many texts to a server that bears `most` at a time."""
    left: Sequence[Item] = items(count)
    sizes = []
    while left:
        part = weight.fitting_items(left, sender)
        sizes.append(len(part))
        if len(part) <= most:
            weight.note_accepted(part)
            left = left[len(part) :]
        else:
            weight.fail(part)
        weight.trial = None
    return sizes


@given(st.integers(1, 2_000))
def test_a4_what_is_borne_is_found_and_what_fails_is_little(most: int) -> None:
    weight = Weight()
    weight.fail(items(2_048))
    sizes = sent(weight, most, 2_048)
    assert sum(size for size in sizes if size > most) <= 2_048 + 4 * most
    assert weight.narrow_cap(CAP).inputs <= max(2, CLOSE**2 * most)
    assert weight.passed.inputs >= most / 4


def test_a_server_that_never_failed_has_no_limit() -> None:
    weight = Weight()
    weight.note_accepted(items(10))
    assert weight.narrow_cap(CAP) == CAP
    assert weight.fitting_items(batch := items(2_048), "one") is batch


def test_one_sender_tries_more_and_the_others_stay_below() -> None:
    weight = Weight()
    weight.note_accepted(items(10))
    weight.fail(items(100))
    assert len(weight.fitting_items(items(90), "one")) == 40
    assert len(weight.fitting_items(items(90), "another")) == 10
    weight.trial = None
    assert len(weight.fitting_items(items(90), "another")) == 40


def test_while_little_is_known_the_others_wait_for_the_trial() -> None:
    weight = Weight()
    assert weight.doubt(items(100))
    assert not weight.doubt(items(100))
    assert len(weight.fitting_items(items(100), "one")) == 100
    assert (weight.has_to_wait("one"), weight.has_to_wait("another")) == (False, True)
    assert weight.narrow_cap(CAP) == CAP
    weight.note_accepted(items(100))
    assert not weight.is_limited
    assert not weight.has_to_wait("another")


def test_what_failed_is_tried_again_after_a_while_and_what_was_another_fault_is_forgotten() -> None:
    weight = Weight()
    weight.note_accepted(items(16))
    weight.fail(items(17))
    assert len(weight.fitting_items(items(100), "one")) == 16
    for _ in range(2 * PATIENCE + PATIENCE):
        weight.note_accepted(items(16))
    assert len(weight.fitting_items(items(100), "one")) > 16
    weight.forgive()
    assert weight.narrow_cap(CAP) == CAP


@pytest.mark.parametrize("count", [1, 2])
def test_a_single_text_is_never_too_heavy(count: int) -> None:
    weight = Weight()
    weight.fail(items(2))
    assert weight.is_proven(items(1))
    assert len(weight.fitting_items(items(count), "one")) == 1
