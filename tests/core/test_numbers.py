"""Vectors as JSON numbers: simdjson and msgspec read the same, and refuse the same."""

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.core import numbers
from aembed.core.numbers import read_numbers
from aembed.core.vectors import DimensionError, ShapeError, from_floats

pytest.importorskip("simdjson", reason="simdjson has no wheel for this Python")

SCALARS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-1, 1, width=32),
    st.integers(-(10**25), 10**25),
)
VALUES = st.recursive(
    st.one_of(SCALARS, st.none(), st.booleans(), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=2)),
    max_leaves=4,
)
LAYOUTS = st.sampled_from([(",", ":"), (" , ", " : "), (",\n\t", ": ")])


def read(vector: bytes) -> list[float] | str:
    try:
        return list(read_numbers([msgspec.Raw(vector)])[0])
    except msgspec.ValidationError as error:
        return str(error)


def read_by_msgspec(vector: bytes) -> list[float] | str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numbers, "_simdjson", lambda: None)
        return read(vector)


@given(st.lists(SCALARS, max_size=40), LAYOUTS)
def test_any_numbers_are_read_as_msgspec_reads_them(values: list[float], layout: tuple[str, str]) -> None:
    vector = json.dumps(values, separators=layout).encode()
    found = read(vector)
    assert found == read_by_msgspec(vector) == [float(value) for value in values]


@given(VALUES, LAYOUTS)
def test_anything_else_is_refused_in_msgspecs_words(value: object, layout: tuple[str, str]) -> None:
    vector = json.dumps(value, separators=layout).encode()
    assert read(vector) == read_by_msgspec(vector)


def test_a_matrix_of_them_is_float32_and_one_list_that_is_read_already_may_stand_among_them() -> None:
    matrix = from_floats([msgspec.Raw(b"[0.1, 2]"), [3.5, -4e-3]])
    assert matrix.dtype == np.float32
    assert matrix.tolist() == np.array([[0.1, 2], [3.5, -4e-3]], np.float32).tolist()


@pytest.mark.parametrize("second", [b"[1]", b"[]", b"[1, 2, 3]"])
def test_vectors_of_two_lengths_are_refused(second: bytes) -> None:
    with pytest.raises(DimensionError, match="differ in length"):
        from_floats([msgspec.Raw(b"[1, 2]"), msgspec.Raw(second)])


@pytest.mark.parametrize(
    ("vector", "empty"), [(b"null", True), (b"[[1, 2]]", False), (b"{}", False), (b"[true]", False)]
)
def test_what_is_no_list_of_numbers_is_no_vector(vector: bytes, empty: bool) -> None:
    with pytest.raises(ShapeError, match="a vector is no list of numbers") as caught:
        from_floats([msgspec.Raw(vector)])
    assert caught.value.empty is empty


def test_p20_numbers_that_all_stand_in_quotation_marks_are_read_and_one_alone_is_broken() -> None:
    assert from_floats([msgspec.Raw(b'["0.5", "-2"]')]).tolist() == [[0.5, -2.0]]
    for broken in (b'["0.5", -2]', b'["0.5", "x"]', b'["", "1"]'):
        with pytest.raises(ShapeError):
            from_floats([msgspec.Raw(broken)])


def test_p16_vectors_that_each_stand_in_a_list_of_their_own_are_read() -> None:
    assert from_floats([msgspec.Raw(b"[[0.5, 1]]"), msgspec.Raw(b" [ [2, 3]]")]).tolist() == [[0.5, 1.0], [2.0, 3.0]]
    for broken in (b"[1, 2]", b"[[1, 2], [3, 4]]", b"[[]]"):
        with pytest.raises((ShapeError, DimensionError)):
            from_floats([msgspec.Raw(b"[[0.5, 1]]"), msgspec.Raw(broken)])
