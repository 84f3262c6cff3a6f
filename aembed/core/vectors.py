"""Stage 6 makes one float32 matrix of vectors as they were sent, or raises InvalidReplyError.

Law 3: a vector is stored only beside the text that it was made from. So count, order, dimension and values are checked
here, before anything else sees them. Law 10: no Python float is made between the wire and the store, so vectors in
base64 become rows of the matrix directly.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import inf, sqrt
from typing import Any, TypeAlias

import msgspec
import numpy as np
import pybase64
from numpy.typing import NDArray

from aembed.core.numbers import read_numbers
from aembed.errors import InvalidReplyError
from aembed.types import Matrix

Squares: TypeAlias = NDArray[np.float32]
"""Squared lengths of vectors, shape (n,)."""

# Chosen: vectors that were rounded to float16 are off by 6e-4, those that were shortened and not normalised have
# lengths of 0.39 to 0.74 (codestral-embed, gemini-embedding-001, recorded). Smaller, rounding might be refused.
_NORM_TOLERANCE = 0.1
_UNSET = msgspec.UNSET
_NEST = re.compile(rb"\s{0,8}\[\s{0,8}\[")
_ONE_VECTOR = msgspec.json.Decoder(list[list[float]])
_DIGITS = re.compile(r"[0-9]{1,6}")


class DimensionError(InvalidReplyError):
    """The vectors are empty, ragged, or not as long as was asked for: `width` instead of `wanted`."""

    width = wanted = 0

    @property
    def may_be_encoding(self) -> bool:
        """Whether float64, float16 or int8 looks so when it is read as float32; another model's vectors seldom do."""
        # float64 has twice the bytes of float32, float16 half of them, int8 a fourth.
        return not self.wanted or self.width in (2 * self.wanted, self.wanted // 2, self.wanted // 4)


class Base64Error(InvalidReplyError):
    """The vectors are no base64 as everybody writes it: with line ends, without padding, or in another alphabet."""


class ShapeError(InvalidReplyError):
    """There is not one vector for each input: a server may always answer so where there is more than one.

    `empty`: there is no vector at all, or null in the place of one.
    """

    def __init__(self, message: str, *, empty: bool = False) -> None:
        super().__init__(message)
        self.empty = empty


Index: TypeAlias = int | str | msgspec.UnsetType | None


def vectors_in_order(items: Sequence[tuple[Index, Any]], inputs: int) -> list[Any]:
    """The vectors in the order of the inputs: by `index`, or as they stand where no item has an index.

    Writers that leave out what has its default (protobuf's JSON) leave out 0, and null stands for what is missing.
    """
    # Law 3: servers were seen to answer with fewer vectors than texts, and out of order; zip() would not notice.
    if len(items) != inputs:
        raise ShapeError(f"the reply has {len(items)} vectors for {inputs} inputs", empty=not items)
    if not inputs:
        raise InvalidReplyError("the reply is empty")
    indices = [index for index, _ in items]
    if indices == list(range(inputs)):
        return [vector for _, vector in items]
    numbers = [_number(index) for index in indices]
    missing = numbers.count(None)
    if missing == inputs:
        return [vector for _, vector in items]
    if missing == 1:
        numbers[numbers.index(None)] = 0
    by_index = {number: vector for number, (_, vector) in zip(numbers, items, strict=True)}
    if len(by_index) != inputs or not all(position in by_index for position in range(inputs)):
        raise ShapeError(f"`index` does not name each of the {inputs} inputs once")
    return [by_index[position] for position in range(inputs)]


def _number(index: Index) -> int | None:
    """The index as a number: None for one that is missing, -1 for one that is no number."""
    if isinstance(index, str):
        return int(index) if _DIGITS.fullmatch(index) else -1
    return None if index is _UNSET or index is None else index


def from_base64(vectors: Sequence[Any]) -> Matrix:
    """The matrix of vectors that are little-endian float32 in base64, all of one length."""
    if not all(isinstance(vector, str) for vector in vectors):
        raise InvalidReplyError("the reply mixes base64 and numbers")
    width = _width(vectors)
    try:
        row_bytes = len(pybase64.b64decode(vectors[0], validate=True))
        raw = _raw_bytes([vector.encode("ascii") for vector in vectors], row_bytes)
    except ValueError:
        raise Base64Error("a vector is not base64") from None
    if row_bytes % 4 or not row_bytes:
        raise DimensionError(f"{width} characters of base64 are no whole number of float32 values")
    return np.frombuffer(raw, "<f4").reshape(len(vectors), -1).astype(np.float32, copy=False)


def decode_base64(vectors: Sequence[bytes | memoryview], row_bytes: int) -> Matrix:
    """The matrix of vectors in base64 that are known to be of one length. Raises ValueError where they are not."""
    return np.frombuffer(_raw_bytes(vectors, row_bytes), "<f4").reshape(len(vectors), -1)


def _raw_bytes(rows: Sequence[bytes | memoryview], row_bytes: int) -> bytes | bytearray:
    """Decodes the rows, in one pass where none of them ends in padding (`validate=True` is pybase64's fast path)."""
    if len(rows[0]) // 4 * 3 == row_bytes:
        raw = pybase64.b64decode_as_bytearray(b"".join(rows), validate=True)
    else:
        decoded = [pybase64.b64decode(row, validate=True) for row in rows]
        if {len(row) for row in decoded} != {row_bytes}:
            raise ValueError("the rows differ in length")
        raw = bytearray().join(decoded)
    if len(raw) != len(rows) * row_bytes:
        raise ValueError("the rows differ in length")
    return raw


def from_floats(vectors: Sequence[Any]) -> Matrix:
    """The matrix of vectors that are lists of numbers, or the JSON of such lists, all of one length."""
    if any(isinstance(vector, str) for vector in vectors):
        raise InvalidReplyError("the reply mixes base64 and numbers")
    try:
        rows = _read_nests(vectors) or read_numbers(vectors)
    except msgspec.ValidationError as error:
        raise ShapeError(f"a vector is no list of numbers: {error}", empty="got `null`" in str(error)) from None
    matrix = np.empty((len(rows), _width(rows)), np.float32)
    with np.errstate(over="ignore"):
        for row, vector in zip(matrix, rows, strict=True):
            row[:] = vector
    return matrix


def _read_nests(vectors: Sequence[Any]) -> list[list[float]]:
    """The vectors where each of several stands in a list of its own (Snowflake, llama.cpp); else none."""
    if len(vectors) < 2 or not all(isinstance(vector, msgspec.Raw) and _NEST.match(vector) for vector in vectors):
        return []
    nests = [_ONE_VECTOR.decode(vector) for vector in vectors]
    return [nest[0] for nest in nests] if all(len(nest) == 1 for nest in nests) else []


def _width(vectors: Sequence[Any]) -> int:
    widths = {len(vector) for vector in vectors}
    if len(widths) != 1 or 0 in widths:
        raise DimensionError("the vectors are empty" if widths == {0} else "the vectors differ in length")
    return widths.pop()


def check(matrix: Matrix, *, dimensions: int | None, normalised: bool) -> None:
    """Raises InvalidReplyError unless every row is a finite, non-zero vector of that dimension."""
    check_width(matrix, dimensions)
    check_squares(squares(matrix), normalised=normalised)


def check_width(matrix: Matrix, dimensions: int | None) -> None:
    width = matrix.shape[1]
    if dimensions is not None and width != dimensions:
        error = DimensionError(f"the vectors have {width} dimensions instead of {dimensions}")
        error.width, error.wanted = width, dimensions
        raise error


def squares(matrix: Matrix) -> Squares:
    """The squared length of each row; it is not finite where a value of the row is not."""
    lengths: Squares = np.einsum("ij,ij->i", matrix, matrix)
    return lengths


def check_squares(squares: Squares, *, normalised: bool = False) -> None:
    """Raises InvalidReplyError unless all of these lengths are finite and not zero, or 1 where that is asked for.

    A zero vector has no direction: its cosine similarity is NaN in most stores.
    """
    least, most = float(squares.min()), float(squares.max())
    if not (least > 0 and most < inf):  # NaN passes through both.
        finite = np.isfinite(squares)
        if not finite.all():
            raise InvalidReplyError(f"vector {int(np.argmin(finite))} holds NaN or infinity")
        raise InvalidReplyError(f"vector {int(np.argmin(squares))} is zero")
    if normalised and not (1 - _NORM_TOLERANCE) ** 2 <= least <= most <= (1 + _NORM_TOLERANCE) ** 2:
        worst = int(np.argmax(np.abs(squares - 1)))
        length = sqrt(float(squares[worst]))
        raise InvalidReplyError(f"vector {worst} has length {length:.3g}; this model's vectors have length 1")
