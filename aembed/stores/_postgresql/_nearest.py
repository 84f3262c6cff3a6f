"""The filled rows of a user's own table whose vectors are nearest to a question's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aembed.stores._postgresql._columns import ColumnLayout
from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._filling import row_columns
from aembed.stores._postgresql._filters import Condition
from aembed.stores._postgresql._index import SHORTLIST, find_way
from aembed.stores._postgresql._wire import literal, vector_of
from aembed.stores._search import SearchChunk, find_nearest, normalize
from aembed.types import Match, Vector

NEAREST = "SELECT {columns}, {is_current} FROM "
"""Only of those that come near the vector is written out and the text compared: that of every row would take long."""


async def find_nearest_rows(
    k: int, query: Vector, filters: Condition, table: ColumnLayout, connection: Connection
) -> list[Match]:
    """The k best of them. The server, which compares in float32, gives some more, and those are scored again.

    Where the hash of each text is kept, none whose vector is of another text than its own.
    """
    passing, values = filters
    condition = f"t.{table.vector} IS NOT NULL{table.condition}{f' AND {passing}' if passing else ''}"
    select = NEAREST.format(columns=row_columns(table), is_current=table.is_current)
    most = 2 * k + SHORTLIST
    while True:
        way = await find_way(table.target, most, connection)
        statement = select + table.target.nearest(condition, table.key_list, way)
        found = await connection.fetch(statement, literal(normalize(query)), most, *values)
        current = [(id, text, vector_of(vector)) for id, text, vector, is_current in found if is_current]
        if len(found) < most or len(current) >= k + SHORTLIST // 2:
            break
        # Chosen: vectors of earlier texts are few as a rule. Doubled, the same rows would be read again more often.
        most *= 4
    if not current:
        return []
    matches = {id: Match(id, text, None, 0.0) for id, text, _ in current}
    matrix = np.stack([vector for *_, vector in current])
    best = find_nearest(query, [SearchChunk.from_rows(list(matches), matrix)], k)
    return [replace(matches[id], score=score) for id, score in best]
