"""Searches that wait for the one thread that searches: all of them are answered together, on one snapshot."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from sqlite3 import Connection
from threading import Lock
from typing import TypeAlias

from aembed.core.filters import Filter
from aembed.errors import AembedError, ConfigError, OverloadedError, StoreError, copy_error
from aembed.stores._search import NearestQuery, SearchChunk, check_query, find_nearest_of_each
from aembed.stores._sqlite._thread import SQLiteThread, await_outcome
from aembed.types import Match, Vector

MOST_WAITING = 1_000
"""Searches that wait; one more is refused. One of 256 MB of vectors takes some 30 ms, together they take less."""
# Computed: the scores of 64 searches over 16 MB of vectors (2,730 of 1,536 floats) are 0.7 MB. Larger, who came first
# waits for the answers of all the others.
MOST_AT_ONCE = 64


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    vector: Vector
    k: int
    where: Filter
    answer: Future[list[Match]] = field(default_factory=Future)


SearchAnswer: TypeAlias = "list[tuple[str, float]] | AembedError"
"""Ids and scores, or what is wrong with the query."""
Answer: TypeAlias = "list[Match] | Exception"
Answerer: TypeAlias = Callable[[Sequence[Search], Connection], Sequence[Answer]]


ByMap: TypeAlias = Callable[[Filter, Sequence[NearestQuery]], Sequence["list[tuple[str, float]] | None"]]
"""Answers queries of one filter by a map; None for those that it cannot answer."""


@dataclass(eq=False, repr=False)
class Searches:
    _worker: SQLiteThread
    _waiting: deque[Search] = field(default_factory=deque[Search])
    _lock: Lock = field(default_factory=Lock)

    async def ask(self, search: Search, answerer: Answerer, absent: StoreError | None = None) -> list[Match]:
        """`absent` is raised where there is no file. One whose caller has left is not searched for.

        Raises OverloadedError where too many wait.
        """
        with self._lock:
            if len(self._waiting) >= MOST_WAITING:
                raise OverloadedError(f"{len(self._waiting):,} searches of {self._worker.name} wait; try again shortly")
            # Both under the lock: a round that began between the two lines would find nothing, and no other would come.
            self._worker.submit(lambda: self._run_round(answerer, absent))
            self._waiting.append(search)
        try:
            return await await_outcome(search.answer)
        finally:
            search.answer.cancel()

    def _run_round(self, answerer: Answerer, absent: StoreError | None) -> None:
        """Each search hands in a round; the first of those rounds answers all that wait."""
        with self._lock:
            taken = [self._waiting.popleft() for _ in range(min(MOST_AT_ONCE, len(self._waiting)))]
        asked = [search for search in taken if search.answer.set_running_or_notify_cancel()]
        if not asked:
            return
        try:
            nothing: Sequence[Answer] = [absent or [] for _ in asked]
            work = partial(answerer, asked)
            answers = self._worker.explain_errors(lambda: self._worker.run_transaction("BEGIN", work, nothing))
        except Exception as error:
            answers = [error] * len(asked)
        for search, answer in zip(asked, answers, strict=True):
            if isinstance(answer, Exception):
                search.answer.set_exception(copy_error(answer) if isinstance(answer, AembedError) else answer)
            else:
                search.answer.set_result(answer)


def search_rows(
    asked: Sequence[Search],
    dimensions: int,
    place: str,
    chunks: Callable[[Filter], Iterable[SearchChunk]],
    by_map: ByMap | None = None,
) -> list[SearchAnswer]:
    """For all searches that have the same filter at once: by the map where it can answer, else in one pass over the
    rows; `chunks` gives the rows of a filter."""
    found: dict[int, SearchAnswer] = {}
    best: Sequence[SearchAnswer]
    groups: dict[Filter, list[tuple[int, NearestQuery]]] = {}
    for position, search in enumerate(asked):
        try:
            query = NearestQuery(check_query(search.vector, dimensions, place), search.k)
        except AembedError as error:
            found[position] = error
        else:
            groups.setdefault(search.where, []).append((position, query))
    for where, group in groups.items():
        positions, queries = [position for position, _ in group], [query for _, query in group]
        try:
            found_by_map = by_map(where, queries) if by_map else [None] * len(queries)
            rest = [query for query, answer in zip(queries, found_by_map, strict=True) if answer is None]
            answers = iter(find_nearest_of_each(rest, chunks(where)) if rest else [])
            best = [next(answers) if answer is None else answer for answer in found_by_map]
        except ConfigError as error:
            best = [error] * len(positions)
        found.update(zip(positions, best, strict=True))
    return [found[position] for position in range(len(asked))]
