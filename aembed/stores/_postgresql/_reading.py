"""Rows that are read: of a store, and of a user's own table, a page at a time or by their ids."""

from __future__ import annotations

from collections.abc import Sequence
from json import loads
from typing import Any

import asyncpg
import numpy as np

from aembed.core.filters import Filter
from aembed.errors import ConfigError, StoreError
from aembed.stores._postgresql import _filling as filling
from aembed.stores._postgresql._columns import ColumnLayout, native
from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._filters import UNREADABLE, explain_unreadable, on_columns, on_metadata
from aembed.stores._postgresql._rows import ANSWERED_BY, SELECT
from aembed.stores._postgresql._tables import StoreLayout
from aembed.stores._postgresql._wire import HEADER_BYTES
from aembed.stores._row_pages import EMPTY_PAGE, RowPage
from aembed.types import Matrix

PAGE = SELECT + "WHERE id {sign} $2{passing} ORDER BY id LIMIT $1"
BY_IDS = SELECT + "WHERE id = ANY ($1::text[])"
FOUND = "SELECT id FROM {rows} WHERE id = ANY ($1::text[])"

OF_KEYS = """SELECT {columns} FROM {table} AS t JOIN unnest({given}) AS aembed_new ({names}) ON {is_key}
    WHERE {condition}"""


class NoKeyError(ConfigError):
    """Of some ids one cannot be a key of the table."""


# a store


async def read_page(
    wanted: Filter, after: str | None, size: int, layout: StoreLayout, connection: Connection
) -> RowPage:
    condition, values = on_metadata(wanted)
    sign, passing = (">=" if after is None else ">"), f" AND {condition}" if condition else ""
    statement = layout.sql(PAGE.replace("{sign}", sign).replace("{passing}", _escape(passing)))
    return await _page(await connection.fetch(statement, size, after or "", *values), layout, connection)


async def read_ids(ids: Sequence[str], layout: StoreLayout, connection: Connection) -> RowPage:
    return await _page(await connection.fetch(layout.sql(BY_IDS), list(ids)), layout, connection)


async def find_ids(ids: Sequence[str], layout: StoreLayout, connection: Connection) -> set[str]:
    return {id for (id,) in await connection.fetch(layout.sql(FOUND), list(ids))}


async def _page(found: Sequence[Any], layout: StoreLayout, connection: Connection) -> RowPage:
    if not found:
        return EMPTY_PAGE
    held = await connection.fetchval(layout.sql(ANSWERED_BY))
    ids, texts, metadata, sources, fingerprints, sent = zip(*found, strict=True)
    model = str(loads(held)) if held else ""
    return RowPage(ids, texts, metadata, sources, fingerprints, _matrix(sent), layout.space, model)


def _escape(sql: str) -> str:
    """As `layout.sql` gives it back."""
    return sql.replace("{", "{{").replace("}", "}}")


def _matrix(sent: Sequence[bytes]) -> Matrix:
    """What `vector_send` returned for each row. Raises StoreError where they differ in width."""
    size = len(sent[0])
    if any(len(each) != size for each in sent):
        raise StoreError("the rows have vectors of different widths; fill them anew")
    fields = np.frombuffer(b"".join(sent), np.uint8).reshape(len(sent), size)[:, HEADER_BYTES:]
    return np.ascontiguousarray(fields).view(">f4").astype(np.float32)


# a user's own table


async def read_filled(
    wanted: Filter, after: str | None, size: int, table: ColumnLayout, connection: Connection
) -> RowPage:
    """The filled rows that pass the filter, behind that id in the order of the key."""
    if table.vector in table.absent:
        return EMPTY_PAGE
    passing, values = on_columns(wanted, table, first_parameter=2)
    last = None if after is None else native(after)
    condition = f"{_is_filled(table)}{f' AND {passing}' if passing else ''}"
    condition += f"{table.after(last, 2 + len(values))} ORDER BY {table.key_list} LIMIT $1"
    try:
        with explain_unreadable(wanted, table):
            return _filled(await connection.fetch(_select(condition, table), size, *values, *(last or ())))
    except asyncpg.DataError as error:
        if last is None or error.sqlstate not in UNREADABLE:
            raise
        raise ConfigError(f'after={after!r} is no key of this table; ids are JSON, as 17 or ["a", 3]') from None


async def read_filled_ids(ids: Sequence[str], table: ColumnLayout, connection: Connection) -> RowPage:
    """Those of these ids that are filled. Raises NoKeyError where one cannot be a key."""
    if table.vector in table.absent or not ids:
        return EMPTY_PAGE
    try:
        keys = list(map(native, ids))
        if any(len(key) != len(table.keys) for key in keys):
            raise ValueError
        parts = {"columns": _columns(table), "table": table.table, "condition": _is_filled(table)}
        statement = OF_KEYS.format(**parts, **filling.given_keys(table, 1))
        return _filled(await connection.fetch(statement, *map(list, zip(*keys, strict=True))))
    except (ValueError, asyncpg.DataError) as error:
        if isinstance(error, asyncpg.DataError) and error.sqlstate not in UNREADABLE:
            raise
        raise NoKeyError(f"{table.table}: one of these ids is no key of this table") from None


def _is_filled(table: ColumnLayout) -> str:
    return f"t.{table.vector} IS NOT NULL AND {table.is_current}{table.condition}"


def _columns(table: ColumnLayout) -> str:
    return f"{table.id}, ({table.text})::text, {table.vectors}.vector_send(t.{table.vector}::{table.vectors}.vector)"


def _select(condition: str, table: ColumnLayout) -> str:
    return filling.select(_columns(table), condition, table)


def _filled(found: Sequence[Any]) -> RowPage:
    ids, texts, sent = zip(*found, strict=True) if found else ((), (), ())
    return RowPage.of_table(ids, texts, _matrix(sent)) if found else EMPTY_PAGE
