"""What jobs have spent of their budgets: one sum for all workers of a job. Users' columns have a table for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from aembed.stores._postgresql import _leases as leases
from aembed.stores._postgresql._columns import ColumnLayout
from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._grants import LOCK, may_create, may_write
from aembed.stores._postgresql._names import quote_name

L = TypeVar("L")
T = TypeVar("T")

TABLE = """CREATE SCHEMA IF NOT EXISTS aembed;
    CREATE TABLE IF NOT EXISTS aembed.accounts (job text PRIMARY KEY, tokens bigint NOT NULL)"""
NAME = "accounts"
SPEND = """INSERT INTO aembed.accounts AS a (job, tokens) VALUES ($1, $2)
    ON CONFLICT (job) DO UPDATE SET tokens = a.tokens + excluded.tokens RETURNING a.tokens"""
CLOSE = "DELETE FROM aembed.accounts WHERE job = $1"
NOBODY_ELSE = """ AND NOT EXISTS (SELECT FROM aembed.workers w WHERE w.expires_at > pg_catalog.clock_timestamp() AND (
    EXISTS (SELECT FROM aembed.leases l WHERE l.token = w.token AND l.target = $2)
    OR NOT EXISTS (SELECT FROM aembed.leases l WHERE l.token = w.token)))"""
"""No worker holds rows of that column, or is about to."""


def spend_once(
    tokens: int, spend: Callable[[int, L, Connection], Awaitable[T]]
) -> Callable[[L, Connection], Awaitable[T]]:
    """A transaction is tried again after a COMMIT whose answer was lost: what is given back is given once only."""
    tries = 0

    async def work(layout: L, connection: Connection) -> T:
        nonlocal tries
        tries += 1
        # What is taken twice stops a job too early; what is given back twice would let it spend more than its budget.
        return await spend(tokens if tries == 1 else max(0, tokens), layout, connection)

    return work


async def spend(column: str, job: str, tokens: int, table: ColumnLayout, connection: Connection) -> int | None:
    """None where the role may not keep it."""
    if not await may_write(connection, NAME):
        if not await may_create(connection, NAME):
            return None
        await connection.execute(LOCK)
        await connection.execute(TABLE)
    spent: int = await connection.fetchval(SPEND, _account_name(column, job, table), tokens)
    return spent


async def close(column: str, job: str, table: ColumnLayout, connection: Connection) -> None:
    """Left open where others work on: the last of them closes it."""
    if not await may_write(connection, NAME):
        return
    account = _account_name(column, job, table)
    if await may_write(connection, *leases.NAMES):
        await connection.execute(CLOSE + NOBODY_ELSE, account, leases.lease_target(column, table))
    else:
        await connection.execute(CLOSE, account)


def _account_name(column: str, job: str, table: ColumnLayout) -> str:
    return f"{table.table}.{quote_name(column)} {job}"
