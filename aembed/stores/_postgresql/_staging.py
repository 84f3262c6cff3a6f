"""A table of one transaction's own, from which rows go where COPY cannot: COPY knows no conflict and no condition."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._errors import while_making
from aembed.stores._postgresql._wire import Column, Storage, Values, copy_pieces, literal
from aembed.types import Matrix

VECTOR = "aembed_vector"
# PLAIN, or EXTERNAL where PLAIN does not fit: vectors hardly compress, and both spare the server the try for each.
CREATE = """CREATE TEMP TABLE aembed_staged ({columns}, aembed_vector {v}.{storage}) ON COMMIT DROP;
    ALTER TABLE pg_temp.aembed_staged ALTER COLUMN aembed_vector SET STORAGE {stored}"""
# The server knows no statistics of a new table, or of an array, and would read the whole of the other one for every
# piece.
BY_KEY = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"
INSERT = "INSERT INTO pg_temp.aembed_staged VALUES ({})"
# TRUNCATE gives the pages back; after a DELETE the next piece would be read past the dead rows of all pieces before it.
EMPTY = "TRUNCATE pg_temp.aembed_staged"

POSITION = "aembed_row"
"""A column by which rows are found again."""
ROWS = 512
"""A piece fits into the 8 MB of temp_buffers, so that nothing of it is written to disk twice."""
CASTS = {"jsonb": "text::jsonb"}
READ: Mapping[str, Callable[[bytes], Any]] = {
    "text": bytes.decode,
    # The first byte of jsonb's binary form is its version.
    "jsonb": lambda value: value[1:].decode(),
    "bytea": bytes,
    "integer": lambda value: int.from_bytes(value, "big"),
}
"""Values in COPY's form, as parameters of a statement."""
# PLAIN values have to fit into a page with their row: larger, the COPY would end with "row is too big".
MOST_PLAIN_BYTES = 7_000
"""A vector of this many bytes fits beside the other columns into a page of 8 kB."""


async def stage_rows(
    columns: Mapping[str, tuple[str, Column]],
    matrix: Matrix,
    picked: Sequence[int],
    storage: Storage,
    vectors: str,
    work: Callable[[], Awaitable[int]],
    connection: Connection,
    *,
    copies: bool,
    rows: int = ROWS,
) -> int:
    """Does the work over pieces of the rows, in `pg_temp.aembed_staged`; returns the sum of what it returns.

    `columns` gives each name its type and its values; the vectors, which are the `picked` rows of the matrix, are the
    column `aembed_vector`. `copies`: whether the server knows COPY.
    """
    row_bytes = matrix.shape[1] * (4 if storage == "vector" else 2)
    create = CREATE.format(
        columns=", ".join(f"{name} {type}" for name, (type, _) in columns.items()),
        v=vectors,
        storage=storage,
        stored="PLAIN" if row_bytes <= MOST_PLAIN_BYTES else "EXTERNAL",
    )
    with while_making("temporary table"):
        await connection.execute(f"{create}; {BY_KEY}")
    touched = 0
    for start in range(0, len(picked), rows):
        if start:
            await connection.execute(EMPTY)
        piece = slice(start, start + rows)
        values = [values[piece] for _, values in columns.values()]
        if copies:
            source = copy_pieces(values, matrix, storage, picked[piece])
            await connection.copy_to_table(
                "aembed_staged", schema_name="pg_temp", columns=[*columns, VECTOR], source=source, format="binary"
            )
        else:
            types = [type for type, _ in columns.values()]
            await _insert(types, values, matrix[list(picked[piece])], f"{vectors}.{storage}", connection)
        touched += await work()
    return touched


async def _insert(
    types: Sequence[str], columns: Sequence[Values], matrix: Matrix, vector: str, connection: Connection
) -> None:
    """Row by row, for a server that does not know COPY."""
    casts = [*(CASTS.get(type, type) for type in types), f"text::{vector}"]
    parameters = ", ".join(f"${i}::{cast}" for i, cast in enumerate(casts, 1))
    read = [READ[type] for type in types]
    rows = [
        (*(None if value is None else of(bytes(value)) for of, value in zip(read, row, strict=True)), literal(vector))
        for *row, vector in zip(*columns, matrix, strict=True)
    ]
    await connection.executemany(INSERT.format(parameters), rows)


def statement_work(statement: str, connection: Connection) -> Callable[[], Awaitable[int]]:
    """The work of one statement, which returns how many rows it touched."""

    async def done() -> int:
        return touched_rows(await connection.execute(statement))

    return done


def position_column(positions: Sequence[int]) -> Values:
    """Positions, as COPY's int4."""
    return [position.to_bytes(4, "big") for position in positions]


def touched_rows(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
