"""Rows in this process, gone when it ends: for tests, notebooks and trying things out."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np

from aembed.core.filters import Filter
from aembed.core.spaces import merge_spaces, settled_space
from aembed.core.words import names_in
from aembed.errors import ConfigError, InputError
from aembed.results import Report
from aembed.stores._row_pages import PagedRows, RowPage
from aembed.stores._rules import (
    check_rows,
    check_search,
    decode,
    encode,
    mismatch_error,
    rejection_error,
    summary,
)
from aembed.stores._search import NamedRow, SearchChunk, check_query, find_nearest, rank_named
from aembed.stores._word_table import WordTable
from aembed.types import Known, Match, Metadata, Record, Refusal, Rows, Space, StoreInfo, Vector

_PLACE = "this memory store"


def open_url(url: str) -> MemoryStore:
    if url.partition(":")[2].strip("/"):
        raise ConfigError("a memory store has no name; write memory:")
    return MemoryStore()


@dataclass(frozen=True, slots=True)
class _Row:
    text: str
    metadata: str | None
    source: str | None
    fingerprint: bytes
    digest: bytes
    vector: Vector


class MemoryStore(PagedRows):
    """A store with no file. It behaves as the others do, and is lost with the process."""

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}
        self._ids: dict[bytes, set[str]] = {}
        self._refusals: dict[str, Refusal] = {}
        self._space: Space | None = None
        self._last_run: Mapping[str, Any] | None = None
        self._spent = Counter[str]()
        self._model = ""
        self._chunk: SearchChunk | None = None
        self._words: WordTable | None = None

    def __repr__(self) -> str:
        return f"<MemoryStore {len(self._rows):,} rows>"

    async def prepare(self, space: Space) -> Space:
        """Keeps the space once its dimensions are known. Raises SpaceMismatchError if rows of another are here."""
        agreement = merge_spaces(self._space, space)
        if agreement is None and self._space and self._rows:
            raise mismatch_error(_PLACE, self._space, space, "Use a new MemoryStore().")
        wanted = agreement or settled_space(space)
        self._space = wanted if wanted.dimensions else None
        return wanted

    def reject(self, record: Record) -> InputError | None:
        """Why this store could not keep that record, as an InputError, or None; asked before it is paid for."""
        return rejection_error(record)

    async def known(self, digests: Mapping[str, bytes], fingerprints: Mapping[str, bytes]) -> Known:
        """What is here of these ids: with the same digest, with another, or refused earlier with that fingerprint."""
        here = frozenset(id for id in digests if id in self._rows)
        unchanged = frozenset(id for id in here if self._rows[id].digest == digests[id])
        refused = (self._refusals[id] for id in fingerprints if id in self._refusals)
        return Known(unchanged, here - unchanged, {r.id: r for r in refused if r.fingerprint == fingerprints[r.id]})

    async def vectors(self, fingerprints: AbstractSet[bytes]) -> Mapping[bytes, Vector]:
        """The vectors, float32 of shape (dimensions,), that were paid for under these fingerprints."""
        found = ((fingerprint, self._ids.get(fingerprint)) for fingerprint in fingerprints)
        return {fingerprint: self._rows[next(iter(ids))].vector.copy() for fingerprint, ids in found if ids}

    async def write(self, rows: Rows, refusals: Sequence[Refusal] = ()) -> None:
        """Inserts or replaces by id, all or none."""
        if len(rows):
            check_rows(_PLACE, self._space, rows)
        # Each vector is copied: a view of one row would keep the matrix of its whole batch in memory.
        vectors = [np.array(vector, dtype=np.float32) for vector in rows.matrix]
        metadata = [encode(each) for each in rows.metadata]
        columns = zip(rows.texts, metadata, rows.sources, rows.fingerprints, rows.digests, vectors, strict=True)
        written = {id: _Row(*row) for id, row in zip(rows.ids, columns, strict=True)}
        for id, row in written.items():
            self._forget(id)
            self._rows[id] = row
            self._ids.setdefault(row.fingerprint, set()).add(id)
        for id in rows.ids:
            self._refusals.pop(id, None)
        self._refusals.update((refusal.id, refusal) for refusal in refusals)
        self._chunk = self._words = None

    async def stale(self, source: str, keep: AbstractSet[str]) -> list[str]:
        """The ids of rows of that source that are not in `keep`."""
        return sorted(id for id, row in self._rows.items() if row.source == source and id not in keep)

    async def delete(self, ids: Sequence[str]) -> int:
        """Removes these rows and refusals; returns how many rows were there."""
        self._chunk = self._words = None
        for id in ids:
            self._refusals.pop(id, None)
        return sum(self._forget(id) for id in ids)

    def _forget(self, id: str) -> bool:
        row = self._rows.pop(id, None)
        if row:
            self._ids[row.fingerprint].discard(id)
        return row is not None

    async def _pages(self, wanted: Filter, after: str | None, size: int) -> AsyncGenerator[RowPage, None]:
        ids = sorted(id for id in self._rows if after is None or id > after)
        for start in range(0, len(ids), size):
            rows = ((id, self._rows.get(id)) for id in ids[start : start + size])
            passing = [id for id, row in rows if row and (not wanted or wanted.matches(decode(row.metadata)))]
            yield await self._read_ids(passing)

    async def _read_ids(self, ids: Sequence[str]) -> RowPage:
        found = {id: self._rows[id] for id in ids if id in self._rows}
        rows = found.values()
        return RowPage(
            list(found),
            [row.text for row in rows],
            [row.metadata for row in rows],
            [row.source for row in rows],
            [row.fingerprint for row in rows],
            np.stack([row.vector for row in rows]) if rows else np.empty((0, 0), np.float32),
            self._space,
            self._model,
        )

    async def _find_ids(self, ids: Sequence[str]) -> AbstractSet[str]:
        return self._rows.keys() & ids

    async def _known_space(self) -> Space | None:
        return self._space

    async def refusals(self) -> list[Refusal]:
        """The texts that were refused and are skipped until they change, by id."""
        return [self._refusals[id] for id in sorted(self._refusals)]

    async def info(self) -> StoreInfo:
        """How many rows and refusals there are, their space and sources, the size, and how the last run ended."""
        sources = Counter(row.source for row in self._rows.values() if row.source is not None)
        size = sum(len(row.text) + len(row.metadata or "") + row.vector.nbytes for row in self._rows.values())
        space = self._space if self._rows else None
        return StoreInfo(len(self._rows), space, size, len(self._refusals), dict(sources), self._last_run)

    async def finish(self, report: Report) -> None:
        """Keeps the report of the last run for `info`, without its failures."""
        self._last_run = summary(report)

    async def spend(self, job: str, tokens: int) -> int:
        """Adds tokens to what that job has spent (less than 0: gives back); returns the sum. See Accounts."""
        self._spent[job] += tokens
        return self._spent[job]

    async def close_account(self, job: str) -> None:
        """Forgets what the job of that name has spent: it has come to its end. See Accounts."""
        self._spent.pop(job, None)

    async def answered_by(self, model: str) -> str:
        """The name that replies gave to the rows' model; this one is kept where there is none. See KeepsModel."""
        self._model = self._model if self._rows and self._model else model
        return self._model

    async def move(self, space: Space) -> None:
        """Keeps that space in the place of its own; no row changes. See Moves."""
        self._space, self._model = space, ""

    async def search(self, vector: Vector, k: int, *, where: Metadata | None = None) -> list[Match]:
        """The k nearest rows, best first. Raises SpaceMismatchError for a vector of another width."""
        wanted = check_search(k, where)
        if not self._rows or not self._space or not self._space.dimensions:
            return []
        query = check_query(vector, self._space.dimensions, _PLACE)
        if wanted:
            chunk = self._stack_rows([id for id, row in self._rows.items() if wanted.matches(decode(row.metadata))])
        else:
            chunk = self._chunk = self._chunk or self._stack_rows(list(self._rows))
        found = find_nearest(query, [chunk], k)
        return [Match(id, self._rows[id].text, decode(self._rows[id].metadata), score) for id, score in found]

    async def prepare_words(self) -> None:
        """Nothing to prepare. See SearchesWords."""

    async def search_words(self, text: str, vector: Vector, k: int, *, where: Metadata | None = None) -> list[Match]:
        """The k best rows that hold rare words of the text, best first. See SearchesWords."""
        wanted = check_search(k, where)
        if not self._rows or not self._space or not self._space.dimensions:
            return []
        query = check_query(vector, self._space.dimensions, _PLACE)
        self._words = self._words or WordTable({id: row.text for id, row in self._rows.items()})
        weights = self._words.rare_rows(names_in(text))
        held = ((weight, id, self._rows[id], decode(self._rows[id].metadata)) for id, weight in weights.items())
        rows = [
            NamedRow(weight, Match(id, row.text, metadata, 0.0), row.vector)
            for weight, id, row, metadata in held
            if wanted.matches(metadata)
        ]
        return rank_named(query, rows, k)

    def _stack_rows(self, ids: list[str]) -> SearchChunk:
        vectors = [self._rows[id].vector for id in ids]
        return SearchChunk.from_rows(ids, np.stack(vectors) if vectors else np.empty((0, 0), np.float32))

    async def aclose(self) -> None:
        """Nothing to close."""
