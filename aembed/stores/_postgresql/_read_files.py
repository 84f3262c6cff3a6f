"""Which files the rows of a PostgreSQL store were read from, in two tables beside the rows.

The tables are made when there is something to remember; where the role may not make them nothing is remembered.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from functools import partial

from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._opened import OpenedStore
from aembed.stores._postgresql._shares import THERE, USABLE
from aembed.stores._postgresql._tables import LOCK, StoreLayout
from aembed.types import FilePart, KnownFiles

TABLES = (
    """CREATE TABLE IF NOT EXISTS {sources} (number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        source text COLLATE "C" NOT NULL UNIQUE, generation bigint NOT NULL, open boolean NOT NULL,
        others bigint NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS {files} (source bigint NOT NULL, path text COLLATE "C" NOT NULL, part int NOT NULL,
        state bytea NOT NULL, rows bigint NOT NULL, ids bytea NOT NULL, PRIMARY KEY (source, path, part))""",
)
SOURCE = "SELECT number, generation, open, others FROM {sources} WHERE source = $1"
FILES = "SELECT path, state, rows FROM {files} WHERE source = $1 AND part = 0"
BEGIN = """INSERT INTO {sources} (source, generation, open, others) VALUES ($1, $2, true, 0)
    ON CONFLICT (source) DO UPDATE SET generation = excluded.generation, open = true"""
END = "UPDATE {sources} SET open = false, others = $2 WHERE number = $1"
FORGET_ALL = "DELETE FROM {files} WHERE source = $1"
FORGET = "DELETE FROM {files} WHERE source = $1 AND path = ANY ($2::text[])"
REMEMBER = """INSERT INTO {files} (source, path, part, state, rows, ids)
    SELECT $1, * FROM unnest($2::text[], $3::int[], $4::bytea[], $5::bigint[], $6::bytea[])"""
IDS = """SELECT path, part, ids FROM (
        SELECT path, part, ids, sum(octet_length(ids) + 200) OVER (ORDER BY path, part) - octet_length(ids) AS before
        FROM (SELECT path, part, ids FROM {files} WHERE source = $1 AND (path, part) > ($2::text, $3::int)
            ORDER BY path, part LIMIT 10000) AS following) AS page
    WHERE before < $4 ORDER BY path, part"""
FIRST_ROWS = "SELECT id, source FROM {rows} ORDER BY id LIMIT $1"
ROWS = "SELECT id, source FROM {rows} WHERE id > $2 ORDER BY id LIMIT $1"

# Chosen: smaller, 50,000 small files take more round trips; larger, a page of a large one takes more memory.
PAGE_BYTES = 2_000_000
IDS_PER_PAGE = 10_000


class FileTables(OpenedStore):
    """What a PostgreSQL store remembers of files. See RemembersFiles."""

    async def known_files(self, source: str) -> KnownFiles | None:
        """The files of that source that are remembered; None where the role may make no tables for them."""
        return await self._read(partial(known, source), KnownFiles())

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
        while page := await self._read(partial(read_ids, source, after), nothing):
            for path, _, ids in page:
                yield path, ids
            after = page[-1][:2]

    async def ids_of(self, source: str) -> AsyncIterator[Sequence[str]]:
        """The ids of all rows of that source, some at a time."""
        last, nothing = None, list[tuple[str, str | None]]()
        while page := await self._read(partial(read_rows, last), nothing):
            yield [id for id, of in page if of == source]
            last = page[-1][0]


async def known(source: str, layout: StoreLayout, connection: Connection) -> KnownFiles | None:
    names = [layout.names.sources, layout.names.files]
    there = await connection.fetchrow(THERE, *names, layout.names.schema)
    if not there["are_there"]:
        return KnownFiles() if there["may_be_made"] else None
    if not await connection.fetchval(USABLE, names):
        return None
    found = await _find(source, layout, connection)
    if found is None:
        return KnownFiles()
    number, generation, is_open, others = found
    rows = await connection.fetch(layout.sql(FILES), number)
    return KnownFiles(generation, is_open, others, {path: (state, count) for path, state, count in rows})


async def begin(source: str, generation: int, anew: bool, layout: StoreLayout, connection: Connection) -> int | None:
    await connection.execute(LOCK, layout.names.rows)
    names = [layout.names.sources, layout.names.files]
    if not (await connection.fetchrow(THERE, *names, layout.names.schema))["are_there"]:
        for table in TABLES:
            await connection.execute(layout.sql(table))
    found = await _find(source, layout, connection)
    held = found[1] if found else 0
    await connection.execute(layout.sql(BEGIN), source, held + 1)
    if found and (anew or held != generation):
        await connection.execute(layout.sql(FORGET_ALL), found[0])
    return held + 1 if held == generation else None


async def remember(
    source: str,
    generation: int,
    parts: Sequence[FilePart],
    gone: Collection[str],
    layout: StoreLayout,
    connection: Connection,
) -> None:
    found = await _find(source, layout, connection, locked=True)
    if found is None or found[1] != generation:
        return
    number = found[0]
    await connection.execute(layout.sql(FORGET), number, [*gone, *(part.path for part in parts if not part.part)])
    columns = ([getattr(part, name) for part in parts] for name in ("path", "part", "state", "rows", "ids"))
    await connection.execute(layout.sql(REMEMBER), number, *columns)


async def end(source: str, generation: int, others: int, layout: StoreLayout, connection: Connection) -> None:
    found = await _find(source, layout, connection, locked=True)
    if found is None:
        return
    if found[1] == generation:
        await connection.execute(layout.sql(END), found[0], others)
    else:
        await connection.execute(layout.sql(BEGIN), source, found[1] + 1)
        await connection.execute(layout.sql(FORGET_ALL), found[0])


async def read_ids(
    source: str, after: tuple[str, int], layout: StoreLayout, connection: Connection
) -> list[tuple[str, int, bytes]]:
    """Path, number and hashes of parts that come after that one."""
    found = await _find(source, layout, connection)
    if found is None:
        return []
    return [tuple(row) for row in await connection.fetch(layout.sql(IDS), found[0], *after, PAGE_BYTES)]


async def read_rows(last: str | None, layout: StoreLayout, connection: Connection) -> list[tuple[str, str | None]]:
    """Ids and sources of rows that come after that id: of all sources, so that each page is read once."""
    after = [] if last is None else [last]
    rows = await connection.fetch(layout.sql(ROWS if after else FIRST_ROWS), IDS_PER_PAGE, *after)
    return [(id, source) for id, source in rows]


async def _find(
    source: str, layout: StoreLayout, connection: Connection, *, locked: bool = False
) -> tuple[int, int, bool, int] | None:
    found = await connection.fetchrow(layout.sql(SOURCE) + (" FOR UPDATE" if locked else ""), source)
    return tuple(found) if found else None
