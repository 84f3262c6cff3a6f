"""Rows that a table refuses are told from those that it takes, by halves, within one transaction.

Each half is a savepoint, and the rows stay staged: to send them anew for each would take many times as long.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import asyncpg

from aembed.errors import RowRefusedError
from aembed.stores._postgresql._database import AT_ONCE, Connection
from aembed.stores._postgresql._errors import explain_error, is_of_row

BEGIN, KEEP = "SAVEPOINT aembed_part", "RELEASE SAVEPOINT aembed_part"
# ROLLBACK TO leaves its savepoint standing: without RELEASE each half that failed would nest the next ones deeper.
UNDO = "ROLLBACK TO SAVEPOINT aembed_part; RELEASE SAVEPOINT aembed_part"
SOME = "aembed_row BETWEEN $1 AND $2"
"""A condition of statements that are run for a part of the staged rows."""

Refused = dict[int, RowRefusedError]
"""Why rows were not taken, by their positions."""


def write_row_by_row(
    positions: Sequence[int], statement: str, refused: Refused, place: str, connection: Connection
) -> Callable[[], Awaitable[int]]:
    """The work of the statement, over those staged rows at `positions`, in order, that the table takes.

    It returns how many it touched, and fills `refused`.
    """

    async def done() -> int:
        refused.clear()
        touched, parts = 0, [positions]
        while parts:
            part = parts.pop()
            await connection.execute(BEGIN)
            try:
                tag: str = await connection.execute(statement, part[0], part[-1])
                # A deferred constraint would speak at the COMMIT only, where nobody can tell which half it means.
                await connection.execute(AT_ONCE)
            except asyncpg.PostgresError as error:
                if not is_of_row(error):
                    raise
                await connection.execute(UNDO)
                half = len(part) // 2
                if half:
                    # The last one is taken first, so that rows are still written, and locked, in the order of their
                    # keys.
                    parts += [part[half:], part[:half]]
                else:
                    told = explain_error(error, place, of_rows=True)
                    refused[part[0]] = told if isinstance(told, RowRefusedError) else RowRefusedError(str(told))
            else:
                await connection.execute(KEEP)
                touched += int(tag.rpartition(" ")[2])
        return touched

    return done
