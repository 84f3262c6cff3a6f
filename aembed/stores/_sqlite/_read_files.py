"""Which files the rows of a SQLite store were read from. All of it runs on the store's threads.

The tables are made when there is something to remember; a store without them remembers nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from functools import partial
from sqlite3 import Connection

from aembed.stores._sqlite._opened import OpenedStore
from aembed.types import FilePart, KnownFiles

TABLES = (
    """CREATE TABLE IF NOT EXISTS aembed_sources (number INTEGER PRIMARY KEY, source TEXT NOT NULL UNIQUE,
        generation INTEGER NOT NULL, open INTEGER NOT NULL, others INTEGER NOT NULL)""",
    # The hashes are the last column, so that the others are found without their pages.
    """CREATE TABLE IF NOT EXISTS aembed_files (source INTEGER NOT NULL, path TEXT NOT NULL, part INTEGER NOT NULL,
        state BLOB NOT NULL, rows INTEGER NOT NULL, ids BLOB NOT NULL, PRIMARY KEY (source, path, part))
        WITHOUT ROWID""",
)
HAS_TABLES = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'aembed_files'"
SOURCE = "SELECT number, generation, open, others FROM aembed_sources WHERE source = ?"
FILES = "SELECT path, state, rows FROM aembed_files WHERE source = ? AND part = 0"
BEGIN = """INSERT INTO aembed_sources (source, generation, open, others) VALUES (?, ?, 1, 0)
    ON CONFLICT (source) DO UPDATE SET generation = excluded.generation, open = 1"""
END = "UPDATE aembed_sources SET open = 0, others = ? WHERE number = ?"
FORGET_ALL = "DELETE FROM aembed_files WHERE source = ?"
FORGET = "DELETE FROM aembed_files WHERE source = ? AND path = ?"
REMEMBER = "INSERT OR REPLACE INTO aembed_files (source, path, part, state, rows, ids) VALUES (?, ?, ?, ?, ?, ?)"
IDS = """SELECT path, part, ids FROM aembed_files WHERE source = ? AND (path, part) > (?, ?)
    ORDER BY path, part"""
ROWS = "SELECT rowid, id FROM aembed_rows WHERE source = ? AND rowid > ? ORDER BY rowid LIMIT ?"

# Chosen: each page is a hop into the thread and back, and holds a snapshot. Smaller, 50,000 small files take more of
# them; larger, a page takes more memory.
PAGE_BYTES = 2_000_000
PART_BYTES = 200
"""Of a part in memory, without its hashes."""
IDS_PER_PAGE = 10_000


class FileTables(OpenedStore):
    """What a SQLite store remembers of files. See RemembersFiles."""

    async def known_files(self, source: str) -> KnownFiles | None:
        """The files of that source that are remembered."""
        return await self._read_beside(partial(known, source), KnownFiles())

    async def begin_files(self, source: str, generation: int, *, anew: bool) -> int | None:
        """A new generation; None where `generation` is not the present one. `anew`: all is forgotten."""
        return await self._write(partial(begin, source, generation, anew))

    async def remember_files(
        self, source: str, generation: int, parts: Sequence[FilePart], gone: Collection[str] = ()
    ) -> None:
        """Replaces what is remembered of these files, and forgets those that are gone."""
        await self._write(partial(remember, source, generation, parts, gone))

    async def end_files(self, source: str, generation: int, others: int) -> None:
        """All of the source is stored and remembered."""
        await self._write(partial(end, source, generation, others))

    async def file_ids(self, source: str) -> AsyncIterator[tuple[str, bytes]]:
        """The hashes of the ids of each file, a part at a time."""
        after, nothing = ("", -1), list[tuple[str, int, bytes]]()
        while page := await self._read_beside(partial(read_ids, source, after), nothing):
            for path, _, ids in page:
                yield path, ids
            after = page[-1][:2]

    async def ids_of(self, source: str) -> AsyncIterator[Sequence[str]]:
        """The ids of all rows of that source, some at a time."""
        after, nothing = -1, list[tuple[int, str]]()
        while page := await self._read_beside(partial(read_rows, source, after), nothing):
            yield [id for _, id in page]
            after = page[-1][0]


def known(source: str, connection: Connection) -> KnownFiles:
    found = _find(source, connection)
    if found is None:
        return KnownFiles()
    number, generation, is_open, others = found
    files = {path: (state, rows) for path, state, rows in connection.execute(FILES, (number,))}
    return KnownFiles(generation, bool(is_open), others, files)


def begin(source: str, generation: int, anew: bool, connection: Connection) -> int | None:
    for table in TABLES:
        connection.execute(table)
    found = _find(source, connection)
    held = found[1] if found else 0
    connection.execute(BEGIN, (source, held + 1))
    if found and (anew or held != generation):
        connection.execute(FORGET_ALL, (found[0],))
    return held + 1 if held == generation else None


def remember(
    source: str, generation: int, parts: Sequence[FilePart], gone: Collection[str], connection: Connection
) -> None:
    found = _find(source, connection)
    if found is None or found[1] != generation:
        return
    number = found[0]
    replaced = {part.path for part in parts if not part.part}
    connection.executemany(FORGET, [(number, path) for path in {*replaced, *gone}])
    connection.executemany(REMEMBER, [(number, p.path, p.part, p.state, p.rows, p.ids) for p in parts])


def end(source: str, generation: int, others: int, connection: Connection) -> None:
    found = _find(source, connection)
    if found is None:
        return
    if found[1] == generation:
        connection.execute(END, (others, found[0]))
    else:
        connection.execute(BEGIN, (source, found[1] + 1))
        connection.execute(FORGET_ALL, (found[0],))


def read_ids(source: str, after: tuple[str, int], connection: Connection) -> list[tuple[str, int, bytes]]:
    """Path, number and hashes of parts that come after that one."""
    found = _find(source, connection)
    page, size_bytes = list[tuple[str, int, bytes]](), 0
    for part in connection.execute(IDS, (found[0], *after)) if found else ():
        page.append(part)
        size_bytes += len(part[2]) + PART_BYTES
        if size_bytes > PAGE_BYTES:
            break
    return page


def read_rows(source: str, after: int, connection: Connection) -> list[tuple[int, str]]:
    """Number and id of the rows of that source whose number is larger."""
    return connection.execute(ROWS, (source, after, IDS_PER_PAGE)).fetchall()


def _find(source: str, connection: Connection) -> tuple[int, int, int, int] | None:
    if not connection.execute(HAS_TABLES).fetchone():
        return None
    found: tuple[int, int, int, int] | None = connection.execute(SOURCE, (source,)).fetchone()
    return found
