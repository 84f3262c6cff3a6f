"""The filled rows of a user's own table that hold exact names of a question."""

from __future__ import annotations

from json import dumps

from aembed.core.words import names_in
from aembed.stores._postgresql._columns import ColumnLayout, native
from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._filters import Condition
from aembed.stores._postgresql._wire import vector_of
from aembed.stores._postgresql._words import rare_rows
from aembed.stores._search import NamedRow, rank_named
from aembed.types import Match, Vector

# Keys come as JSON, an array of texts each: there may be several columns of them.
NAMED = """SELECT {id}, ({text})::text, {v}.vector_send(t.{vector}::{v}.vector)
    FROM pg_catalog.jsonb_array_elements($1::text::jsonb) AS asked (keys) JOIN {table} AS t ON {is_key}
    WHERE t.{vector} IS NOT NULL AND {is_current}{condition}{filters} LIMIT $2"""


async def find_named(
    question: str, k: int, query: Vector, filters: Condition, table: ColumnLayout, connection: Connection
) -> list[Match]:
    """The k best of them; with fingerprints none whose vector is of another text than its own."""
    weights = await rare_rows(table.word_target, table.id, names_in(question), connection)
    statement = NAMED.format(
        id=table.id,
        text=table.text,
        v=table.vectors,
        vector=table.vector,
        table=table.table,
        is_key=" AND ".join(
            f"t.{key} = (asked.keys OPERATOR(pg_catalog.->>) {i})::{type}"
            for i, (key, type) in enumerate(zip(table.keys, table.key_types, strict=True))
        ),
        is_current=table.is_current,
        condition=table.condition,
        filters=f" AND {filters[0]}" if filters[0] else "",
    )
    keys = dumps([native(id) for id, _ in weights])
    found = await connection.fetch(statement, keys, len(weights), *filters[1])
    rows = [
        NamedRow(weights[id, text], Match(id, text, None, 0.0), vector_of(sent))
        for id, text, sent in found
        if (id, text) in weights
    ]
    return rank_named(query, rows, k)
