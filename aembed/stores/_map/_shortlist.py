"""Which rows of a map can be among the nearest ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aembed.stores._map._codes import CodedQuery, Dots
from aembed.stores._map._file import MapError, RowMap
from aembed.stores._map._products import dots
from aembed.types import Vector

Positions = NDArray[np.intp]
# Measured (100,000 rows of 1,536): 8.8 ms of CPU a search with 8 MB of codes at a time, 9.7 with 4. Larger, products
# with many queries leave the core's cache.
_BLOCK_BYTES = 8 * 1024 * 1024
# Chosen: the finer digits are used for so many rows at once. Larger, more rows are looked at than the best ones of them
# leave over; smaller, numpy is called more often.
_NARROWED_AT_ONCE = 256


@dataclass(frozen=True, slots=True, eq=False)
class Shortlist:
    """Positions in the map, those with the largest cosine that is possible first; `most` are those cosines.

    No row that is not here has a cosine of `rest` or more; it is minus infinity where all rows are here.
    """

    positions: Positions
    most: Vector
    rest: float


def shortlists(
    mapped: RowMap, queries: Sequence[CodedQuery], wanted: Sequence[int], gone: Positions, *, check: bool
) -> list[Shortlist]:
    """For each query the rows that can be among that many nearest ones, `gone` left out, in one pass over the codes.

    With `check` every row's codes are compared with its check. Raises MapError where one differs.
    """
    vectors = np.concatenate([*(query.digits[:1] for query in queries), *([mapped.weights] if check else ())])
    lists = [_Growing(query, count) for query, count in zip(queries, wanted, strict=True)]
    size = max(1, _BLOCK_BYTES // mapped.frame.code_count)
    for start in range(0, len(mapped.rows), size):
        block = slice(start, min(start + size, len(mapped.rows)))
        products = dots(mapped.codes[block], vectors)
        if check and not np.array_equal(products[:, -1], mapped.checks[block]):
            raise MapError("its codes are damaged")
        left_out = gone[slice(*np.searchsorted(gone, (block.start, block.stop)))] - block.start
        for number, each in enumerate(lists):
            each.add(mapped, block, products[:, number], left_out)
    return [each.narrowed(mapped) for each in lists]


class _Growing:
    """What has been found up to some row, for one query."""

    def __init__(self, query: CodedQuery, wanted: int) -> None:
        self._query, self._wanted = query, wanted
        self._floor = -np.inf
        self._leasts = np.empty(0, np.float32)
        self._found: list[tuple[Positions, Vector]] = []

    def add(self, mapped: RowMap, block: slice, products: Dots, left_out: Positions) -> None:
        columns = mapped.scales[block], mapped.errors[block], mapped.lengths[block]
        least, most = self._query.bounds(products, *columns)
        least[left_out] = most[left_out] = -np.inf
        if len(higher := least[least > self._floor]):
            self._raise_floor(higher)
        picked = np.flatnonzero((most >= self._floor) & (most > -np.inf))
        if len(picked):
            self._found.append((picked + block.start, most[picked]))

    def _raise_floor(self, higher: Vector) -> None:
        """That many rows have at least the floor; `higher` are cosines that rows have at least, one for each."""
        self._leasts = np.concatenate([self._leasts, higher])
        if len(self._leasts) >= self._wanted:
            self._leasts = np.partition(self._leasts, -self._wanted)[-self._wanted :]
            self._floor = max(self._floor, float(self._leasts.min()))

    def narrowed(self, mapped: RowMap) -> Shortlist:
        """By the finer digits, the best rows first: these raise the floor over most others."""
        positions = np.concatenate([np.empty(0, np.intp), *(positions for positions, _ in self._found)])
        most = np.concatenate([np.empty(0, np.float32), *(most for _, most in self._found)])
        positions, most = _best_first(positions, most, self._floor)
        self._leasts = np.empty(0, np.float32)
        start = 0
        while start < len(most) and most[start] >= self._floor:
            place = slice(start, start + _NARROWED_AT_ONCE)
            some = positions[place]
            columns = mapped.scales[some], mapped.errors[some], mapped.lengths[some]
            least, most[place] = self._query.finer_bounds(dots(mapped.codes[some], self._query.digits), *columns)
            self._raise_floor(least)
            start += _NARROWED_AT_ONCE
        return Shortlist(*_best_first(positions, most, self._floor), self._floor)


def _best_first(positions: Positions, most: Vector, floor: float) -> tuple[Positions, Vector]:
    kept = np.flatnonzero(most >= floor)
    order = kept[np.argsort(-most[kept], kind="stable")]
    return positions[order], most[order]
