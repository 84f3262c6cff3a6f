"""Proof that rows were written: they are read again in the transaction that wrote them.

`RETURNING` and row counts are none: a trigger that comes after them changes what they told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

import asyncpg

from aembed.errors import StoreError
from aembed.stores._postgresql._database import AT_ONCE, Connection, taken_back
from aembed.stores._postgresql._errors import explain_error, is_of_row
from aembed.stores._postgresql._hooks import hooks_of
from aembed.stores._postgresql._parts import DroppedError

# Computed: rounding a vector of length 1 to float16 moves it by a cosine distance of less than 1e-6. Chosen: 0.001
# leaves room for other rounding, and vectors of other texts are much further away. Equality is asked first, since the
# cosine of very short vectors is NaN.
SAME = """CASE WHEN {there} IS NULL OR {v}.vector_dims({there}::{v}.vector) <> {v}.vector_dims({sent}::{v}.vector)
    THEN false ELSE {there}::{v}.vector OPERATOR({v}.=) {sent}::{v}.vector
        OR ({there}::{v}.vector OPERATOR({v}.<=>) {sent}::{v}.vector) < 0.001 END"""
"""A vector of the same direction is the same one: a trigger may make its length 1, or round it."""


def write_with_proof(
    meant: str,
    kept: str,
    write: Callable[[], Awaitable[int]],
    place: str,
    table: str,
    connection: Connection,
    refused: Collection[int] = (),
) -> Callable[[], Awaitable[int]]:
    """The work of a write whose rows are looked at before and after; it raises DroppedError for those that are gone.

    `meant` selects the positions of the staged rows that the statement is going to write, and locks what it can of
    them; `kept` those that are there as they were sent. `refused` are those that `write` could not write.
    """

    async def proven() -> int:
        awaited = {position for (position,) in await connection.fetch(meant)}
        await write()
        await connection.execute(AT_ONCE)
        there = {position for (position,) in await connection.fetch(kept)}
        if lost := awaited - there - set(refused):
            raise DroppedError(frozenset(lost), place, await hooks_of(table, connection))
        return len(awaited & there)

    return proven


async def try_write(
    write: Callable[[], Awaitable[object]], place: str, connection: Connection, *, advice: str = ""
) -> StoreError | None:
    """Why the row that `write` writes is not kept; it is taken back. `advice`: for SQL that a trigger cannot run."""
    async with taken_back(connection):
        try:
            await write()
            await connection.execute(AT_ONCE)
            return None
        except DroppedError as error:
            return error
        except asyncpg.PostgresError as error:
            if not is_of_row(error):
                raise
            refusal = explain_error(error, place, of_rows=True)
            if advice and isinstance(error, asyncpg.SyntaxOrAccessError):
                raise StoreError(f"{refusal}; {advice}") from None
            return refusal
