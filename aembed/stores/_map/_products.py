"""Products of int8 vectors, exact: by simsimd where it is installed and proves right here, else by numpy."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import numpy as np

from aembed.stores._map._codes import Codes, Dots

Product: TypeAlias = Callable[[Codes, Codes], Dots]
# Computed: 1,024 products of at most 127 x 127 add up to less than 2^24, up to where float32 holds all integers. In
# whatever order they are added, nothing is rounded.
_EXACT_COLUMNS = 1024
# Computed: 256 rows of 1,536 float32 are 1.5 MB, which stays in a core's cache.
_ROWS_AT_ONCE = 256


def dots(rows: Codes, vectors: Codes) -> Dots:
    """Of shape (n, m), for rows of shape (n, dimensions) and vectors of (m, dimensions), none of which holds -128."""
    return _product(rows.shape[1])(rows, vectors)


def is_by_library(dimensions: int) -> bool:
    return _product(dimensions) is not _by_numpy


@cache
def _product(dimensions: int) -> Product:
    try:
        from simsimd import cdist
    except ImportError:
        return _by_numpy

    def by_library(rows: Codes, vectors: Codes) -> Dots:
        return np.asarray(cdist(rows, vectors, "dot"))

    return by_library if _is_right(by_library, dimensions) else _by_numpy


def _is_right(product: Product, dimensions: int) -> bool:
    """With the largest numbers of either sign, which overflow what is narrower than 32 bits, and with some others."""
    signs = np.array([[1, 1], [-1, -1], [1, -1], [-1, 1]], np.int8) * np.int8(127)
    extremes = np.resize(signs, (4, 2 * dimensions))[:, :dimensions]
    others = np.random.default_rng(dimensions).integers(-127, 128, (29, dimensions), np.int8)
    rows = np.concatenate([extremes, others])
    expected = rows.astype(np.int64) @ rows.astype(np.int64).T
    try:
        return np.array_equal(product(rows, rows), expected)
    except Exception:
        return False


def _by_numpy(rows: Codes, vectors: Codes) -> Dots:
    columns = [slice(i, i + _EXACT_COLUMNS) for i in range(0, rows.shape[1], _EXACT_COLUMNS)]
    wide = np.ascontiguousarray(vectors.T, dtype=np.float32)
    products = np.zeros((len(rows), len(vectors)))
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE].astype(np.float32)
        for each in columns:
            products[start : start + _ROWS_AT_ONCE] += some[:, each] @ wide[each]
    return products
