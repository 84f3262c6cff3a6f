"""Vectors as parameters of a statement, in their binary form.

asyncpg needs a codec for that, and a codec changes what a connection does for everybody: it is set on connections of
our own pools, and on none of the user's. It spares the server a staging table: 48 us of its time a row became 40.
"""

from __future__ import annotations

from collections.abc import Sequence

from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._staging import BY_KEY, ROWS, touched_rows
from aembed.stores._postgresql._tables import EXTENSION
from aembed.stores._postgresql._wire import Storage, vector_fields
from aembed.types import Matrix

# Measured: 128 to 256 rows of 1,536 floats are the fastest; with 1,024 the server takes a third more time.
PIECE_BYTES = 1024 * 1024
"""Of the vectors of one statement."""


async def sends_vectors(storage: Storage, connection: Connection) -> bool:
    """Whether the fields of `vector_fields` may be parameters here."""
    sent: set[Storage] | None = getattr(connection, "vectors_sent", None)
    if sent is None:
        return False
    if storage not in sent:
        schema = await connection.fetchval(EXTENSION)
        await connection.set_type_codec(storage, schema=schema, encoder=memoryview, decoder=bytes, format="binary")
        sent.add(storage)
    return True


async def send_rows(
    statement: str,
    columns: Sequence[Sequence[str | bytes]],
    matrix: Matrix,
    picked: Sequence[int],
    storage: Storage,
    connection: Connection,
) -> int:
    """Runs the statement over pieces of the rows: its parameters are an array of each column, and one of the vectors,
    which are the `picked` rows of the matrix. Returns how many rows it touched."""
    await connection.execute(BY_KEY)
    rows = max(1, min(ROWS, PIECE_BYTES // (4 * matrix.shape[1])))
    touched = 0
    for start in range(0, len(picked), rows):
        piece = slice(start, start + rows)
        vectors = vector_fields(matrix[list(picked[piece])], storage)
        touched += touched_rows(await connection.execute(statement, *(column[piece] for column in columns), vectors))
    return touched
