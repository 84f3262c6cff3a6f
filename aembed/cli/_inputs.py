"""What the PATHs of a command stand for, read as often as wanted."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import anyio.to_thread

from aembed.cli._show import is_url
from aembed.pipeline.reading import iterate
from aembed.protocols import Backlog, Store
from aembed.results import Failure
from aembed.sources import READERS, Reading, Source
from aembed.sources._files import File, ending
from aembed.types import Embedded, Record, Space

# Chosen: smaller, the hops into the thread cost more than the reading; larger, Ctrl-C and the progress wait for a
# chunk.
CHUNK = 256
# SQLite's file format, section 1.3: the first 16 bytes of every database.
_SQLITE_HEADER = b"SQLite format 3\0"


def is_store(path: str) -> bool:
    """A store's URL, or a SQLite file."""
    if is_url(path):
        return True
    try:
        if not Path(path).is_file():  # opening a pipe would wait for somebody who writes to it
            return False
        with Path(path).open("rb") as file:
            return file.read(len(_SQLITE_HEADER)) == _SQLITE_HEADER
    except (OSError, ValueError):
        return False


@dataclass(frozen=True, slots=True)
class Inputs:
    """Files and folders, or the rows of another store; the first `limit` of them."""

    source: Source | Store
    limit: int | None = None
    store_files: tuple[Path, ...] = ()
    """Where `source` is a store that is kept in files."""
    space: Space | None = None
    """Of the other store."""

    @property
    def roots(self) -> tuple[str, ...]:
        """The PATHs whose rows in the store are removed when they are gone. A store has none."""
        return self.source.roots if isinstance(self.source, Source) else ()

    @property
    def files(self) -> Iterator[Path]:
        """All that is read."""
        yield from self.store_files
        if isinstance(self.source, Source):
            for entry in self.source.entries:
                if isinstance(entry, File) and entry.root is not None:
                    yield entry.path

    def may_read(self, path: Path) -> bool:
        """Whether the next run would read a file of this name."""
        place = Path(os.path.realpath(path))
        return ending(path.name) in READERS and any(place.is_relative_to(os.path.realpath(r)) for r in self.roots)

    def read(self, *, keep_ids: bool) -> Pass:
        return Pass(self.source, self.limit, self.space, keep_ids=keep_ids)


class Pass:
    """One reading. Files are read in a thread, a chunk at a time, so that the event loop goes on."""

    def __init__(
        self, source: Source | Store, limit: int | None, space: Space | None = None, *, keep_ids: bool
    ) -> None:
        self._reading: Reading | Store = source.records() if isinstance(source, Source) else source
        self._limit = limit
        self.space = space
        self._keep_ids = keep_ids
        self.count = 0
        self.ids: set[str] = set()

    async def __aiter__(self) -> AsyncIterator[Record | Failure | Embedded]:
        items: AsyncGenerator[Record | Failure | Embedded, None] = (
            self._rows() if isinstance(self._reading, Store) else self._records(self._reading)
        )
        async with aclosing(items):
            async for item in items:
                self.count += 1
                if self._keep_ids:
                    self.ids.add(item.id)
                yield item

    async def check_ids(self) -> bool:
        """Whether all has to be read again, because files had to be told apart. Raises ConfigError if two rows of one
        file have one id. A store's ids are different.
        """
        return not isinstance(self._reading, Store) and await anyio.to_thread.run_sync(self._reading.check_ids)

    @property
    def skipped_counts(self) -> Mapping[str, int]:
        """How many files of which kind were left out."""
        return {} if isinstance(self._reading, Store) else self._reading.skipped

    @property
    def whole_roots(self) -> tuple[str, ...]:
        """The PATHs that were read whole."""
        if isinstance(self._reading, Store):
            return ()
        return tuple(root.source for root in self._reading.roots if root.whole)

    def _next_size(self) -> int:
        return CHUNK if self._limit is None else min(CHUNK, self._limit - self.count)

    async def _records(self, reading: Reading) -> AsyncGenerator[Record | Failure, None]:
        def next_chunk(size: int) -> list[Record | Failure]:
            return list(islice(reading, size))

        while items := await anyio.to_thread.run_sync(next_chunk, self._next_size()):
            for item in items:
                yield item

    async def _rows(self) -> AsyncGenerator[Embedded, None]:
        assert isinstance(self._reading, Store)
        if self._next_size() < 1:
            return
        async with iterate(self._reading.rows()) as rows:
            async for row in rows:
                yield row
                if self._next_size() < 1:
                    return


class Pending:
    """The rows of a table that have no vector yet."""

    def __init__(self, backlog: Backlog, limit: int | None, space: Space | None = None) -> None:
        self._backlog = backlog
        self.space = space
        self._limit = limit
        self.count = 0

    async def __aiter__(self) -> AsyncIterator[Record]:
        async with iterate(self._backlog.pending(self._limit)) as pending:
            async for record in pending:
                self.count += 1
                yield record
