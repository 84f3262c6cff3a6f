"""Exact nearest neighbours by cosine similarity, over rows that come in chunks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from aembed.errors import InputError, SpaceMismatchError
from aembed.types import Match, Matrix, Vector

Doubles: TypeAlias = NDArray[np.float64]

# Computed: rounding errors of 16,000 float32 products add up to some 8e-6 (6e-8 times the root of their number), as
# they fall to either side. Larger, more rows would be scored again in each search.
_SLACK = 1e-4
"""More than float32 can be off for 16,000 dimensions: rows this close to the k-th are scored again in float64."""
# Computed: a square of less than 1e-38 is off by up to 7e-46, and 16,000 of them by a billionth of the square of the
# shortest. Sums of squares overflow from 3e38 on.
_SHORTEST, _LONGEST = 1e-16, 1e18
# Chosen: 1,024 rows of 1,536 float64 are 13 MB, of 16,000 they are 131 MB. Larger, many equal rows would take a
# multiple of their own memory.
_RESCORED_AT_ONCE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class SearchChunk:
    """Some rows: ids, their vectors of shape (n, dimensions), and the lengths, NaN where float32 cannot tell."""

    ids: Sequence[str]
    matrix: Matrix
    lengths: Vector

    @classmethod
    def from_rows(cls, ids: Sequence[str], matrix: Matrix) -> SearchChunk:
        with np.errstate(over="ignore"):
            lengths = np.sqrt(np.einsum("ij,ij->i", matrix, matrix))
        lengths[~((lengths > _SHORTEST) & (lengths < _LONGEST))] = np.nan
        return cls(ids, matrix, lengths)


def check_query(vector: Vector, dimensions: int, place: str) -> Vector:
    """The query as float32. Raises SpaceMismatchError for another width, InputError for NaN or infinity."""
    query = np.asarray(vector, dtype=np.float32)
    if query.shape != (dimensions,):
        width = query.shape[-1] if query.ndim else 0
        raise SpaceMismatchError(f"{place} holds vectors of {dimensions} dimensions; the query has {width}")
    if not np.isfinite(query).all():
        raise InputError("the query vector holds NaN or infinity; embed the query again")
    return query


@dataclass(frozen=True, slots=True, eq=False)
class NearestQuery:
    """The k rows nearest to a vector are wanted."""

    vector: Vector
    k: int


class Best:
    """The k best of those that were found already and of rows that come in any order, each of them scored exactly."""

    def __init__(self, query: NearestQuery, found: Iterable[tuple[str, float]]) -> None:
        self._query, self._k = query.vector, query.k
        self._best = [(-score, id) for id, score in found]

    def add(self, ids: Sequence[str], matrix: Matrix, picked: NDArray[np.intp] | None = None) -> None:
        """Rows, or the picked ones of them: their positions."""
        positions = np.arange(len(ids)) if picked is None else picked
        exact = _scores(self._query, matrix, positions)
        self._best = sorted([*self._best, *zip((-exact).tolist(), (ids[i] for i in positions), strict=True)])[: self._k]

    @property
    def floor(self) -> float:
        """The worst of k scores; no row that scores less is among the best. Minus infinity while there are fewer."""
        return -self._best[-1][0] if len(self._best) == self._k else -np.inf

    def found(self) -> list[tuple[str, float]]:
        """As `find_nearest` of the same rows."""
        return [(id, -score) for score, id in self._best]


def find_nearest(query: Vector, chunks: Iterable[SearchChunk], k: int) -> list[tuple[str, float]]:
    """The ids and cosine similarities of the k best rows, best first, equals by id. A zero vector scores 0."""
    return find_nearest_of_each([NearestQuery(query, k)], chunks)[0]


def find_nearest_of_each(
    queries: Sequence[NearestQuery], chunks: Iterable[SearchChunk]
) -> list[list[tuple[str, float]]]:
    """The same of several queries in one pass: the rows are read from memory once for all of them."""
    units = np.stack([normalize(query.vector) for query in queries])
    best = [Best(query, ()) for query in queries]
    for chunk in chunks:
        if len(chunk.ids):
            with np.errstate(all="ignore"):
                # What is not finite, as the length of a zero vector, is scored again by `_scores`.
                scores = (units @ chunk.matrix.T) / chunk.lengths
            for query, each, its_scores in zip(queries, best, scores, strict=True):
                picked = _shortlist(its_scores, query.k, each.floor)
                if len(picked):
                    each.add(chunk.ids, chunk.matrix, picked)
    return [each.found() for each in best]


@dataclass(frozen=True, slots=True, eq=False)
class NamedRow:
    """A row that holds names of a question, and what they weigh."""

    weight: float
    match: Match
    vector: Vector


def rank_named(query: Vector, rows: Sequence[NamedRow], k: int) -> list[Match]:
    """The k best: those whose names weigh more, of equals the nearer ones, then by id. `score` is the similarity."""
    if not rows:
        return []
    by_id = {row.match.id: row for row in rows}
    chunk = SearchChunk.from_rows(list(by_id), np.stack([row.vector for row in by_id.values()]))
    found = find_nearest(query, [chunk], len(by_id))
    # Sorting is stable, so that equals stay as `find_nearest` has ordered them.
    best = sorted(found, key=lambda each: -by_id[each[0]].weight)[:k]
    return [replace(by_id[id].match, score=score) for id, score in best]


def normalize(query: Vector) -> Vector:
    """Of length 1, made in float64; a zero vector stays one."""
    length = np.linalg.norm(query.astype(np.float64)) or 1.0
    unit: Vector = (query / length).astype(np.float32)
    return unit


def _shortlist(scores: Vector, k: int, floor: float) -> NDArray[np.intp]:
    """Positions of every row that can be among the k best: fast in float32, with slack for its rounding.

    `floor` is the score of the worst of k rows that were found before.
    """
    unsure = ~np.isfinite(scores)
    scores[unsure] = -np.inf
    likely = np.flatnonzero(unsure | (scores >= floor - _SLACK))
    if len(likely) <= k:
        return likely
    kth = np.partition(scores, -k)[-k]
    return np.flatnonzero(unsure | (scores >= max(kth, floor) - _SLACK))


def _scores(query: Vector, matrix: Matrix, picked: NDArray[np.intp]) -> Doubles:
    """Cosines in float64, summed row by row, so that equal vectors score the same wherever they stand."""
    wide = query.astype(np.float64)
    parts: list[Doubles] = []
    for start in range(0, len(picked), _RESCORED_AT_ONCE):
        rows = matrix[picked[start : start + _RESCORED_AT_ONCE]].astype(np.float64)
        # numpy: in one product of matrices byte-identical rows can differ in the last bits, by the block of the kernel
        # that they fall into. einsum sums each row by itself.
        dots: Doubles = np.einsum("ij,j->i", rows, wide)
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows) * (wide @ wide))
        cosines: Doubles = np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0)
        parts.append(cosines.clip(-1.0, 1.0))
    return np.concatenate(parts)
