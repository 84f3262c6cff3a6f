"""Whether a server that speaks PostgreSQL knows COPY. Some do not, and end the connection in the middle of it."""

from __future__ import annotations

import logging

import asyncpg
import numpy as np

from aembed.stores._postgresql._database import Connection, PostgresDatabase
from aembed.stores._postgresql._errors import Lost
from aembed.stores._postgresql._wire import copy_pieces

logger = logging.getLogger("aembed")

# The vector is a bytea: COPY itself is tried, and pgvector need not be installed yet.
CREATE = "CREATE TEMP TABLE aembed_copied (text text, vector bytea) ON COMMIT DROP"
VERSION = "SELECT pg_catalog.version()"
DIES_OF_IT = ("PGlite",)
"""Servers that a COPY from the client ends for good (PGlite 0.5 behind pglite-socket 0.2): it is not even tried."""
# Chosen: one loss may be chance, and two one after another are the server's way. More of them would hold up the start
# of every job there.
TRIES = 2
"""A connection may be lost for other reasons."""


async def learn_copy(database: PostgresDatabase) -> None:
    """Tries it once in the life of a Database, before anything is paid for."""
    if database.copies_known:
        return
    for _ in range(TRIES):
        version = await database.run(_version)
        if any(name in version for name in DIES_OF_IT):
            database.copies = False
            break
        try:
            await database.run_once(_try_copy)
        except (asyncpg.FeatureNotSupportedError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, *Lost):
            continue
        except asyncpg.PostgresError:
            break  # A server that is read-only, a right that is missing: told where the table is tried.
        break
    else:
        database.copies = False
    if not database.copies:
        logger.info("%s does not know COPY; rows are written one by one", database.name)
    database.copies_known = True


async def _version(connection: Connection) -> str:
    return str(await connection.fetchval(VERSION))


async def _try_copy(connection: Connection) -> None:
    await connection.execute(CREATE)
    source = copy_pieces([[b"text"]], np.ones((1, 1), np.float32), "vector")
    await connection.copy_to_table("aembed_copied", schema_name="pg_temp", source=source, format="binary")
