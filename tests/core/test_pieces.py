from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.core.changes import Item
from aembed.core.pieces import combine_pieces
from tests.jobs import item_of


def item(*weights: float) -> Item:
    return item_of(*"abcdefgh"[: len(weights)], weights=weights)


def test_nothing_is_copied_where_no_text_was_split() -> None:
    matrix = np.eye(3, dtype=np.float32)
    assert combine_pieces([item(1.0), item(1.0), item(5.0)], matrix) is matrix


def test_pieces_become_their_mean_weighted_by_tokens_of_length_1() -> None:
    matrix = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], dtype=np.float32)
    rows = combine_pieces([item(1.0), item(3.0, 4.0), item(1.0)], matrix)
    assert rows.dtype == np.float32
    assert rows == pytest.approx(np.array([[1, 0], [0.8, 0.6], [0, 1]]))


def test_pieces_that_cancel_out_give_the_first_of_them() -> None:
    matrix = np.array([[0, 1], [0, -1], [1, 0]], dtype=np.float32)
    assert combine_pieces([item(2.0, 2.0), item(1.0)], matrix).tolist() == [[0, 1], [1, 0]]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=20))
def test_every_item_gets_the_row_of_its_own_pieces(inputs: list[int]) -> None:
    items = [item(*[1.0] * n) for n in inputs]
    matrix = np.eye(len(items), dtype=np.float32).repeat(inputs, axis=0)
    assert combine_pieces(items, matrix) == pytest.approx(np.eye(len(items)))
