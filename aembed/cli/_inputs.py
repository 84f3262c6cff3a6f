"""What the PATHs of a command stand for, read as often as wanted."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import anyio.to_thread

from aembed.cli._memory import FileMemory
from aembed.cli._show import is_url
from aembed.pipeline.reading import iterate
from aembed.protocols import Backlog, Store
from aembed.results import Failure
from aembed.sources import READERS, Reading, Source
from aembed.sources._files import File, ending
from aembed.sources._hashes import has_any
from aembed.sources._states import inode_of, state_of
from aembed.types import Embedded, Record, Space, Unread

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

    def files_like(self, path: Path) -> Iterator[Path]:
        """All that is read and may be the file of that name: 50,000 names need not be followed for it."""
        yield from self.store_files
        try:
            inode = inode_of(state_of(path.stat()))
        except (OSError, ValueError):
            return
        for entry in self.source.entries if isinstance(self.source, Source) else ():
            if isinstance(entry, File) and entry.root is not None and entry.may_have(inode):
                yield entry.path

    def may_read(self, path: Path) -> bool:
        """Whether the next run would read a file of this name."""
        place = Path(os.path.realpath(path))
        return ending(path.name) in READERS and any(place.is_relative_to(os.path.realpath(r)) for r in self.roots)


class Pass:
    """One reading. Files are read in a thread, a chunk at a time, so that the event loop goes on.

    `keep_ids`: for a store that cannot tell its own ids, those that were read are all held in memory.
    """

    def __init__(self, inputs: Inputs, memory: FileMemory | None, *, keep_ids: bool) -> None:
        self._source = source = inputs.source
        self._limit = inputs.limit
        self.space = inputs.space
        self._memory = memory
        self._keep_ids = keep_ids
        self._has_all_ids = False
        self._heeded: bytes | None = None
        self.reading = source.records() if isinstance(source, Source) else None
        self.count = 0
        self.ids: set[str] = set()

    def heed(self, kind: bytes) -> None:
        """How texts are embedded: files that have not changed since they were read for it are left out."""
        self._heeded = kind
        if self._memory and isinstance(self._source, Source):
            self.reading = self._source.records(self._memory.unchanged_files(self._source, kind))

    async def __aiter__(self) -> AsyncIterator[Any]:
        items: AsyncGenerator[Record | Failure | Embedded | Unread, None] = (
            self._records(self.reading) if self.reading else self._rows()
        )
        async with aclosing(items):
            async for item in items:
                if isinstance(item, Unread):
                    self.count += item.count
                    yield item
                    continue
                self.count += 1
                if self._keep_ids:
                    self.ids.add(item.id)
                yield item

    async def check_ids(self) -> bool:
        """Whether all has to be read again, because files had to be told apart. Raises ConfigError if two rows of one
        file have one id. A store's ids are different, and so are those of files that were not read, among each other.
        """
        reading, memory = self.reading, self._memory
        if reading is None or not reading.files:
            return False
        unread = set[File]()
        if memory and reading.unchanged:
            await self.add_unread_ids()
            repeated = await anyio.to_thread.run_sync(reading.ids.repeated)
            if len(repeated):
                unread = {file async for file, ids in memory.ids(reading.unchanged) if has_any(ids, repeated)}
        again = await anyio.to_thread.run_sync(reading.check_ids, unread)
        if again and memory:
            memory.distrust(unread)
        return again

    async def add_unread_ids(self) -> None:
        """From now on `reading.ids` has those of the files that were not read, too."""
        if self.reading and self._memory and not self._has_all_ids:
            async for _, ids in self._memory.ids(self.reading.unchanged):
                self.reading.ids.add_all(ids)
        self._has_all_ids = True

    async def keep(self, rows: Mapping[str, int]) -> None:
        """Remembers what was read, once all of it is stored. `rows` is what the store has of each source by now."""
        if self._memory and self._heeded is not None and self.reading and isinstance(self._source, Source):
            await self._memory.keep(self._source, self.reading, self._heeded, rows)

    def note_failure(self, failure: Failure) -> None:
        if self.reading:
            self.reading.note_failure(failure.index)

    def has_all_rows(self, root: str, rows: Mapping[str, int]) -> bool:
        """Whether the rows that the store has of that PATH are those that were read, once all of them are stored.

        As many are the same: each record that was read is a row there, and no two have one id.
        """
        return self.reading is not None and self.reading.count_rows(root) == rows.get(root, 0)

    @property
    def skipped_counts(self) -> Mapping[str, int]:
        """How many files of which kind were left out."""
        return self.reading.skipped if self.reading else {}

    @property
    def whole_roots(self) -> tuple[str, ...]:
        """The PATHs that were read whole."""
        return tuple(root.source for root in self.reading.roots if root.whole) if self.reading else ()

    def _next_size(self) -> int:
        return CHUNK if self._limit is None else min(CHUNK, self._limit - self.count)

    async def _records(self, reading: Reading) -> AsyncGenerator[Record | Failure | Unread, None]:
        while items := await anyio.to_thread.run_sync(list, islice(reading, self._next_size())):
            for item in items:
                yield item

    async def _rows(self) -> AsyncGenerator[Embedded, None]:
        assert isinstance(self._source, Store)
        if self._next_size() < 1:
            return
        async with iterate(self._source.rows()) as rows:
            async for row in rows:
                yield row
                if self._next_size() < 1:
                    return


async def as_stored(count: int) -> AsyncIterator[Any]:
    """The inputs of a pass that has found all of them in the store: a job that has nothing to do but to say so."""
    if count:
        yield Unread(count)


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
