"""Vectors as int8 with a bound on what is lost, so that a cosine is known to lie between two numbers.

A row x is moved by the frame of its map and becomes integers: x / |x| = mean + scale * widths * codes + rest. Models
give vectors with a common direction, whose cosines are all alike; without the mean the codes would spell out that
direction and leave nothing for what tells the rows apart. One dimension that is ten times as wide as the others would
do the same: therefore the widths, which are 1 for most. Where one is 5, rows and queries are divided by 5 there, and
the code stands 25 times in its row.

For a query q of length 1, q = step * widths * digits + left, and

    cosine = q . mean  +  scale * step * (digits . codes)  +  left . (scale * widths * codes)  +  q . rest

The integers' product is exact, the part with `left` is at most |left| times `lengths`, the last at most `errors`. The
finer digits spell out what is left, for the rows for which it matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from aembed.stores._search import Doubles
from aembed.types import Matrix, Vector

Codes: TypeAlias = NDArray[np.int8]
Dots: TypeAlias = NDArray[np.float64] | NDArray[np.float32]
"""Whole numbers, below 2^31."""
MOST_CODE = 127
# Computed: a few float32 operations, each off by at most 6e-8 of numbers that are no larger than twice the product of
# the two lengths.
_ROUNDING = 1e-6
"""How much float32 can be off in a product, for each unit of the two lengths' product."""
_SLACK = 2e-6
"""How much it can be off in sums of numbers up to 2; and what float64 loses here and in the last scoring."""
# Computed: 128 rows of 1,536 float64 are 1.5 MB, which stays in a core's cache. Larger, each step reads memory again.
_ROWS_AT_ONCE = 128
# Chosen: a map becomes at most an eighth larger. Larger, each search reads more; smaller, wide dimensions cost the
# others their codes.
_MOST_LONGER = 1.125
_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """What all rows of a map have in common, each of shape (dimensions,). Any mean and any whole widths from 1 on give
    true bounds; those of the rows give narrow ones."""

    mean: Doubles
    widths: Doubles

    @classmethod
    def of_sample(cls, matrix: Matrix) -> Frame:
        units, is_usable = _units(matrix.astype(np.float64))
        units, widths = units[is_usable], np.ones(matrix.shape[1])
        if not len(units):
            return cls(np.zeros(matrix.shape[1]), widths)
        deviations = units.std(axis=0)
        widest = np.argsort(-deviations)
        usual = np.median(deviations)
        for dimension in widest[: len(widest) // 4]:
            room = np.floor(np.sqrt(1 + len(widths) * _MOST_LONGER - (widths**2).sum()))
            width = min(room, np.ceil(deviations[dimension] / (2 * usual))) if usual > 0 else 1.0
            if width <= 1:
                break
            widths[dimension] = width
        return cls(units.mean(axis=0), widths)

    @property
    def code_count(self) -> int:
        """How many codes a row has."""
        return int((self.widths**2).sum())

    def spelt(self, codes: Doubles) -> Codes:
        """Codes of shape (n, dimensions), each as often as its width wants."""
        if self.code_count == len(self.widths):
            return codes.astype(np.int8)
        return np.repeat(codes.astype(np.int8), (self.widths**2).astype(int), axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class CodedRows:
    """`codes` of shape (n, code_count), the others of (n,). Errors are infinite where nothing is known of a row."""

    codes: Codes
    scales: Vector
    errors: Vector
    lengths: Vector


def encode_rows(matrix: Matrix, frame: Frame) -> CodedRows:
    """Raises ValueError for NaN and infinity, which have no place in an order."""
    if not np.isfinite(matrix).all():
        raise ValueError("a vector holds NaN or infinity")
    rows = CodedRows(
        np.empty((len(matrix), frame.code_count), np.int8),
        np.empty(len(matrix), np.float32),
        np.empty(len(matrix), np.float32),
        np.empty(len(matrix), np.float32),
    )
    for start in range(0, len(matrix), _ROWS_AT_ONCE):
        _encode_some(matrix[start : start + _ROWS_AT_ONCE], frame, rows, slice(start, start + _ROWS_AT_ONCE))
    return rows


def _encode_some(matrix: Matrix, frame: Frame, rows: CodedRows, place: slice) -> None:
    rest, is_usable = _units(matrix.astype(np.float64))
    rest -= frame.mean
    codes = rest / frame.widths
    highest = np.maximum(codes.max(axis=1), -codes.min(axis=1))
    scales = _up(np.maximum(highest / MOST_CODE, _SMALLEST))
    codes /= scales.astype(np.float64)[:, None]
    np.rint(codes, out=codes)
    rows.codes[place] = frame.spelt(codes)
    codes *= frame.widths
    codes *= scales.astype(np.float64)[:, None]
    rest -= codes
    rows.scales[place] = scales
    rows.lengths[place] = _up(np.sqrt(np.einsum("ij,ij->i", codes, codes)))
    rows.errors[place] = np.where(is_usable, _up(np.sqrt(np.einsum("ij,ij->i", rest, rest))), np.inf)


def _units(rows: Doubles) -> tuple[Doubles, NDArray[np.bool_]]:
    """Rows of length 1, in their place; those that are zero, subnormal or too long for float32 are not usable."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    is_usable = (lengths >= _SMALLEST) & (lengths <= _LARGEST)
    rows /= np.where(is_usable, lengths, _LARGEST)[:, None]
    return rows, is_usable


def _up(values: Doubles) -> Vector:
    """As float32, never less than they are."""
    return np.nextafter(values.astype(np.float32), np.float32(np.inf))


@dataclass(frozen=True, slots=True, eq=False)
class CodedQuery:
    """`digits` and the finer digits, of shape (2, code_count), and what one of each is worth."""

    digits: Codes
    steps: Doubles
    errors: tuple[float, float]
    """How far a product can be off for each unit of a row's length: with the digits alone, and with both."""
    centre: float
    """The product of the query with the mean."""

    @classmethod
    def of(cls, query: Vector, frame: Frame) -> CodedQuery:
        """Of a query that is not zero."""
        wide = query.astype(np.float64)
        wide /= _length(wide)
        step, digits = _digits_of(wide / frame.widths)
        left = wide - digits * step * frame.widths
        finer_step, finer_digits = _digits_of(left / frame.widths)
        still_left = left - finer_digits * finer_step * frame.widths
        return cls(
            frame.spelt(np.stack([digits, finer_digits])),
            np.array([step, finer_step]),
            (_length(left) + _ROUNDING, _length(still_left) + _ROUNDING),
            float(wide @ frame.mean),
        )

    def bounds(self, dots: Dots, scales: Vector, errors: Vector, lengths: Vector) -> tuple[Vector, Vector]:
        """The least and the largest cosine that each row can have, given its products with the digits, (n,)."""
        return self._bounds(dots * self.steps[0], self.errors[0], scales, errors, lengths)

    def finer_bounds(self, dots: Dots, scales: Vector, errors: Vector, lengths: Vector) -> tuple[Vector, Vector]:
        """The same, given the products with both digits, (n, 2)."""
        return self._bounds(dots @ self.steps, self.errors[1], scales, errors, lengths)

    def _bounds(
        self, products: Dots, error: float, scales: Vector, errors: Vector, lengths: Vector
    ) -> tuple[Vector, Vector]:
        middle = products.astype(np.float32)
        middle *= scales
        middle += np.float32(self.centre)
        slack = lengths * np.float32(error)
        slack += errors
        slack += np.float32(_SLACK)
        return middle - slack, middle + slack


def _digits_of(values: Doubles) -> tuple[float, Doubles]:
    """A step, which float32 holds exactly, and the whole numbers of steps that come nearest to the values."""
    step = float(_up(np.array([max(np.abs(values).max() / MOST_CODE, _SMALLEST)]))[0])
    return step, np.rint(values / step)


def _length(values: Doubles) -> float:
    return float(np.sqrt(values @ values))
