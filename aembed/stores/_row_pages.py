"""The methods of `ReadsRows`, over pages of rows that each kind of store reads in its own way."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread
import numpy as np
from msgspec.structs import replace

from aembed.core.filters import Filter, parse_filter
from aembed.errors import ConfigError
from aembed.stores import _arrow as arrow
from aembed.stores._matrix import MatrixFile, MatrixInMemory
from aembed.stores._rules import decode, is_unicode
from aembed.types import Embedded, Matrix, Metadata, Space

# Chosen: 200 rows of 1,536 floats are 1.2 MB. Larger, one snapshot is held for longer; smaller, each page is a hop into
# a thread, or a round trip.
ROWS_PER_PAGE = 200
# Chosen: 2,730 rows of 384 floats. Larger, the event loop is held for longer by those that come from a server; smaller,
# hops into the thread, or round trips, take the time.
BULK_BYTES = 4 * 1024 * 1024
"""Of the vectors of a page, where whole pages are used."""
# Chosen: as many as a page that is read by `rows`. Larger, one snapshot is held for longer.
IDS_AT_ONCE = 500


@dataclass(frozen=True, slots=True, eq=False)
class RowPage:
    """Rows in the order of the store. `metadata` is JSON; in a table of the user's own there is none, nor a source."""

    ids: Sequence[str]
    texts: Sequence[str | None]
    metadata: Sequence[str | None]
    sources: Sequence[str | None]
    fingerprints: Sequence[bytes]
    matrix: Matrix
    space: Space | None = None
    model: str = ""

    @classmethod
    def of_table(cls, ids: Sequence[str], texts: Sequence[object], matrix: Matrix) -> RowPage:
        """Of a table of the user's own, whose column of texts may hold something else in SQLite."""
        plain = [text if isinstance(text, str) or text is None else str(text) for text in texts]
        nothing = [None] * len(ids)
        return cls(ids, plain, nothing, nothing, [b""] * len(ids), matrix)

    @classmethod
    def joined(cls, one: RowPage, other: RowPage) -> RowPage:
        """Of one table, both of them."""
        if not (one.ids and other.ids):
            return one if one.ids else other
        matrix = np.concatenate([one.matrix, other.matrix])
        return cls.of_table([*one.ids, *other.ids], [*one.texts, *other.texts], matrix)

    def embedded(self, first: int) -> Iterator[Embedded]:
        """Each row with a vector of its own: a view of one would keep the whole page in memory."""
        columns = zip(self.ids, self.matrix, self.texts, self.metadata, self.sources, self.fingerprints, strict=True)
        for index, (id, vector, text, metadata, source, fingerprint) in enumerate(columns, first):
            held = decode(metadata)
            yield Embedded(id, index, vector.copy(), text, held, source, self.space, self.model, fingerprint)


EMPTY_PAGE = RowPage((), (), (), (), (), np.empty((0, 0), np.float32))


class PagedRows:
    """What a store or a column has to give: pages of its rows, rows by their ids, and its space."""

    def _pages(self, wanted: Filter, after: str | None, size: int) -> AsyncGenerator[RowPage, None]:
        """The rows that pass the filter and whose ids come after that one, in order. A page may be empty."""
        raise NotImplementedError

    def _pages_in_any_order(self, wanted: Filter, size: int) -> AsyncGenerator[RowPage, None]:
        """All rows that pass the filter, each once, in the order in which they are read fastest."""
        return self._pages(wanted, None, size)

    async def _read_ids(self, ids: Sequence[str]) -> RowPage:
        """The rows that have these ids, in any order."""
        raise NotImplementedError

    async def _find_ids(self, ids: Sequence[str]) -> AbstractSet[str]:
        """The ids of those rows."""
        return {*(await self._read_ids(ids)).ids}

    async def _known_space(self) -> Space | None:
        raise NotImplementedError

    async def get(self, ids: Sequence[str]) -> list[Embedded | None]:
        """The rows that have these ids, in the order asked, None where there is none; `index` is the place in it."""
        found: dict[str, Embedded] = {}
        for piece in _pieces(ids):
            found |= {row.id: row for row in (await self._read_ids(piece)).embedded(0)}
        rows = [(index, found.get(id)) for index, id in enumerate(ids)]
        return [replace(row, index=index) if row else None for index, row in rows]

    async def has(self, ids: Sequence[str]) -> AbstractSet[str]:
        """Those of these ids that have a row, with its vector."""
        found = set[str]()
        for piece in _pieces(ids):
            # The key of a table may be written in another way than as its id, as 01.
            found |= await self._find_ids(piece) & {*piece}
        return found

    async def rows(self, where: Metadata | None = None, after: str | None = None) -> AsyncIterator[Embedded]:
        """Every row in the order of the ids, as Embedded with its vector, read a page at a time.

        With `where` those that pass the filter. With `after` those behind that id: a reading goes on where it was left.
        """
        index = 0
        async with aclosing(self._pages(parse_filter(where), after, ROWS_PER_PAGE)) as pages:
            async for page in pages:
                for row in page.embedded(index):
                    yield row
                index += len(page.ids)

    async def matrix(
        self, where: Metadata | None = None, path: str | os.PathLike[str] | None = None
    ) -> tuple[list[str], Matrix]:
        """The ids of all rows, or of those that pass the filter, and their vectors, float32 of shape (rows,
        dimensions); row i is that of ids[i]. They are in no certain order.

        With `path` the array is written to that file, in numpy's format (.npy), and what is returned is a map of it.
        Raises ConfigError for more than 1 GB of vectors without a path, and where that file is there already.
        """
        ids: list[str] = []
        with nullcontext(MatrixInMemory()) if path is None else MatrixFile(Path(path)) as made:
            dimensions = _width(await self._known_space())
            async with aclosing(self._large_pages(where, dimensions)) as pages:
                async for page in pages:
                    ids += page.ids
                    await made.append(page.matrix)
            return ids, await made.finish(dimensions)

    async def to_arrow(self, where: Metadata | None = None) -> AsyncGenerator[Any, None]:
        """The rows as pyarrow.RecordBatch, some hundreds or thousands at a time, in no certain order: columns id, text,
        metadata (JSON), source, and vector, a fixed-size list of float32. Without a row there is one empty batch where
        the width is known, else none.

        Raises ConfigError where pyarrow is not installed.
        """
        pa = arrow.import_pyarrow("to_arrow()")
        is_empty, space = True, await self._known_space()
        async with aclosing(self._large_pages(where, _width(space))) as pages:
            async for page in pages:
                if page.ids:
                    is_empty = False
                    columns = page.ids, page.texts, page.metadata, page.sources
                    # In a thread, so that the loop goes on with the next page.
                    yield await anyio.to_thread.run_sync(arrow.make_batch, pa, columns, page.matrix, space)
        if is_empty and (dimensions := _width(space)):
            nothing = np.empty((0, dimensions), np.float32)
            yield arrow.make_batch(pa, ([], [], [], []), nothing, space)

    async def _large_pages(self, where: Metadata | None, dimensions: int) -> AsyncGenerator[RowPage, None]:
        """All rows that pass the filter, in any order; one page is read while the one before it is used."""
        size = max(ROWS_PER_PAGE, BULK_BYTES // (4 * dimensions)) if dimensions else ROWS_PER_PAGE
        async with aclosing(self._pages_in_any_order(parse_filter(where), size)) as pages:
            reading = asyncio.ensure_future(anext(pages, None))
            try:
                while (page := await reading) is not None:
                    reading = asyncio.ensure_future(anext(pages, None))
                    yield page
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)


def _width(space: Space | None) -> int:
    return (space.dimensions if space else None) or 0


def _pieces(ids: Sequence[str]) -> Iterator[list[str]]:
    """Each id once, and those left out that no store can hold. Raises ConfigError for a single text."""
    if isinstance(ids, str | bytes):
        raise ConfigError("this takes a list of ids; for one row give [id]")
    asked = [id for id in dict.fromkeys(ids) if is_unicode(id)]
    return (asked[start : start + IDS_AT_ONCE] for start in range(0, len(asked), IDS_AT_ONCE))
