"""Rows that are read: of a store, and of a user's own table, a page at a time or by their ids."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from json import loads
from typing import Any, TypeAlias

import anyio.to_thread
import asyncpg
import numpy as np

from aembed.core.filters import Filter
from aembed.errors import ConfigError, StoreError
from aembed.stores._postgresql import _filling as filling
from aembed.stores._postgresql._columns import ColumnLayout, native
from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._filters import UNREADABLE, explain_unreadable, on_columns, on_metadata
from aembed.stores._postgresql._rows import ANSWERED_BY, NAMED, SELECT
from aembed.stores._postgresql._tables import StoreLayout
from aembed.stores._row_pages import EMPTY_PAGE, RowPage
from aembed.types import Matrix, Space

FOUND = "SELECT id FROM {rows} WHERE id = ANY ($1::text[])"

# Measured: with 4 MB at once this took fifteen times as long, nearly all of it for memory that is new each time.
PIECE_BYTES = 64 * 1024
FLOAT_BYTES = 4

OF_KEYS = """SELECT {columns} FROM {table} AS t JOIN unnest({given}) AS aembed_new ({names}) ON {is_key}
    WHERE {condition}"""


class NoKeyError(ConfigError):
    """An id that cannot be a key of the table."""

    def __init__(self, id: str) -> None:
        super().__init__(f'{id!r} is no key of this table; ids are JSON, as 17 or ["a", 3]')


@dataclass(frozen=True, slots=True)
class FoundRows:
    """Rows as they came. The first value of each is its id."""

    rows: Sequence[Any]
    _make: Callable[[Sequence[Any]], RowPage]

    @property
    def last(self) -> str:
        return str(self.rows[-1][0])

    def page(self) -> RowPage:
        return self._make(self.rows) if self.rows else EMPTY_PAGE


NOTHING_FOUND = FoundRows((), lambda rows: EMPTY_PAGE)
Read: TypeAlias = Callable[[str | None], Awaitable[FoundRows]]
"""Reads the rows behind an id."""


async def pages(read: Read, after: str | None) -> AsyncGenerator[RowPage, None]:
    while (found := await read(after)).rows:
        yield found.page()
        after = found.last


async def pages_ahead(read: Read) -> AsyncGenerator[RowPage, None]:
    """All of them. While a thread makes a page of rows, the server sends the next ones."""
    reading = asyncio.ensure_future(read(None))
    try:
        while (found := await reading).rows:
            reading = asyncio.ensure_future(read(found.last))
            yield await anyio.to_thread.run_sync(found.page)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


# a store


async def read_page(
    wanted: Filter, after: str | None, size: int, layout: StoreLayout, connection: Connection
) -> FoundRows:
    condition, values = on_metadata(wanted)
    sign, passing = (">=" if after is None else ">"), f" AND {condition}" if condition else ""
    statement = f"{layout.sql(SELECT)}WHERE id {sign} $2{passing} ORDER BY id LIMIT $1"
    return await _found(await connection.fetch(statement, size, after or "", *values), layout, connection)


async def read_ids(ids: Sequence[str], layout: StoreLayout, connection: Connection) -> RowPage:
    found = await _found(await connection.fetch(layout.sql(NAMED), list(ids)), layout, connection)
    return found.page()


async def find_ids(ids: Sequence[str], layout: StoreLayout, connection: Connection) -> set[str]:
    return {id for (id,) in await connection.fetch(layout.sql(FOUND), list(ids))}


async def _found(found: Sequence[Any], layout: StoreLayout, connection: Connection) -> FoundRows:
    held = await connection.fetchval(layout.sql(ANSWERED_BY)) if found else None
    return FoundRows(found, partial(_page, layout.space, str(loads(held)) if held else ""))


def _page(space: Space | None, model: str, found: Sequence[Any]) -> RowPage:
    ids, texts, metadata, sources, fingerprints, sent = zip(*found, strict=True)
    return RowPage(ids, texts, metadata, sources, fingerprints, _matrix(sent), space, model)


def _matrix(sent: Sequence[bytes]) -> Matrix:
    """What `vector_send` returned for each row. Raises StoreError where they differ in width."""
    size = len(sent[0])
    if {*map(len, sent)} != {size}:
        raise StoreError("the rows have vectors of different widths; fill them anew")
    width, rows = size // FLOAT_BYTES, max(1, PIECE_BYTES // size)
    matrix = np.empty((len(sent), width - 1), np.float32)
    for start in range(0, len(sent), rows):
        piece = sent[start : start + rows]
        # The header is as wide as a number.
        matrix[start : start + rows] = np.frombuffer(b"".join(piece), ">f4").reshape(len(piece), width)[:, 1:]
    return matrix


# a user's own table


async def read_filled(
    wanted: Filter, after: str | None, size: int, table: ColumnLayout, connection: Connection
) -> FoundRows:
    """The filled rows that pass the filter, behind that id in the order of the key."""
    if table.vector in table.absent:
        return NOTHING_FOUND
    passing, values = on_columns(wanted, table, first_parameter=2)
    last = None if after is None else _key(after, table)
    condition = f"{_is_filled(table)}{f' AND {passing}' if passing else ''}"
    condition += f"{table.after(last, 2 + len(values))} ORDER BY {table.key_list} LIMIT $1"
    statement = filling.select(filling.row_columns(table), condition, table)
    try:
        with explain_unreadable(wanted, table):
            return FoundRows(await connection.fetch(statement, size, *values, *(last or ())), _filled)
    except asyncpg.DataError as error:
        if after is None or error.sqlstate not in UNREADABLE:
            raise
        raise NoKeyError(after) from None


async def read_filled_ids(ids: Sequence[str], table: ColumnLayout, connection: Connection) -> RowPage:
    """Those of these ids that are filled. Raises NoKeyError, which names any of them, where one cannot be a key."""
    if table.vector in table.absent or not ids:
        return EMPTY_PAGE
    keys = [_key(id, table) for id in ids]
    parts = {"columns": filling.row_columns(table), "table": table.table, "condition": _is_filled(table)}
    statement = OF_KEYS.format(**parts, **table.given_keys(1))
    try:
        return FoundRows(await connection.fetch(statement, *map(list, zip(*keys, strict=True))), _filled).page()
    except asyncpg.DataError as error:
        if error.sqlstate not in UNREADABLE:
            raise
        raise NoKeyError(ids[0]) from None


def _key(id: str, table: ColumnLayout) -> list[str]:
    """Its values as text. Raises NoKeyError."""
    try:
        key = native(id)
    except (ValueError, RecursionError):
        raise NoKeyError(id) from None
    # PostgreSQL has no text with NUL.
    if len(key) != len(table.keys) or any("\0" in value for value in key):
        raise NoKeyError(id)
    return key


def _is_filled(table: ColumnLayout) -> str:
    return f"t.{table.vector} IS NOT NULL AND {table.is_current}{table.condition}"


def _filled(found: Sequence[Any]) -> RowPage:
    ids, texts, sent = zip(*found, strict=True)
    return RowPage.of_table(ids, texts, _matrix(sent))
