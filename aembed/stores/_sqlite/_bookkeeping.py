"""What is kept of users' columns beside their tables: which vectors they are for, what was refused, what jobs spent."""

from __future__ import annotations

from collections.abc import Sequence
from json import dumps, loads
from sqlite3 import Connection
from typing import TypeAlias

from aembed.core.spaces import space_as_json, space_from_json
from aembed.types import Refusal, Space

ColumnTarget: TypeAlias = tuple[str, str]
"""Table and column."""

COLUMNS, ACCOUNTS, REFUSALS = "aembed_columns", "aembed_accounts", "aembed_column_refusals"
TABLES = {
    COLUMNS: """CREATE TABLE IF NOT EXISTS aembed_columns (table_name TEXT NOT NULL, column_name TEXT NOT NULL,
        space TEXT NOT NULL, PRIMARY KEY (table_name, column_name))""",
    ACCOUNTS: "CREATE TABLE IF NOT EXISTS aembed_accounts (job TEXT PRIMARY KEY NOT NULL, tokens INTEGER NOT NULL)",
    REFUSALS: """CREATE TABLE IF NOT EXISTS aembed_column_refusals (table_name TEXT NOT NULL, column_name TEXT NOT NULL,
        key TEXT NOT NULL, fingerprint BLOB NOT NULL, error TEXT NOT NULL, message TEXT NOT NULL,
        PRIMARY KEY (table_name, column_name, key))""",
}
MADE = f"table {COLUMNS}, which keeps what the column is for; aembed_workers and aembed_leases: who works on which rows"
SHARED = "tables aembed_workers and aembed_leases, which keep who works on which rows"
HAS = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
SPACE = "SELECT space FROM aembed_columns WHERE table_name = ? AND column_name = ?"
SET_SPACE = "INSERT OR REPLACE INTO aembed_columns (table_name, column_name, space) VALUES (?, ?, ?)"
SPEND = """INSERT INTO aembed_accounts (job, tokens) VALUES (?, ?)
    ON CONFLICT (job) DO UPDATE SET tokens = tokens + excluded.tokens"""
SPENT = "SELECT tokens FROM aembed_accounts WHERE job = ?"
CLOSE = "DELETE FROM aembed_accounts WHERE job = ?"
REFUSED = """SELECT key, fingerprint, error, message FROM aembed_column_refusals
    WHERE table_name = ? AND column_name = ? ORDER BY key"""
REFUSE = "INSERT OR REPLACE INTO aembed_column_refusals VALUES (?, ?, ?, ?, ?, ?)"
FORGIVE = "DELETE FROM aembed_column_refusals WHERE table_name = ? AND column_name = ? AND key = ?"


def has(table: str, connection: Connection) -> bool:
    return connection.execute(HAS, (table,)).fetchone() is not None


def space(target: ColumnTarget, connection: Connection) -> Space | None:
    if not has(COLUMNS, connection):
        return None
    row = connection.execute(SPACE, target).fetchone()
    return space_from_json(loads(row[0])) if row else None


def keep_space(space: Space, target: ColumnTarget, connection: Connection) -> None:
    connection.execute(TABLES[COLUMNS])
    connection.execute(SET_SPACE, (*target, dumps(space_as_json(space))))


def refusals(target: ColumnTarget, connection: Connection) -> list[Refusal]:
    if not has(REFUSALS, connection):
        return []
    return [Refusal(*row) for row in connection.execute(REFUSED, target)]


def refuse(refusals: Sequence[Refusal], target: ColumnTarget, connection: Connection) -> None:
    connection.execute(TABLES[REFUSALS])
    rows = [(*target, each.id, each.fingerprint, each.error, each.message) for each in refusals]
    connection.executemany(REFUSE, rows)


def forgive(ids: Sequence[str], target: ColumnTarget, connection: Connection) -> None:
    if has(REFUSALS, connection):
        connection.executemany(FORGIVE, [(*target, id) for id in ids])


def spend(account: str, tokens: int, connection: Connection) -> int:
    connection.execute(TABLES[ACCOUNTS])
    connection.execute(SPEND, (account, tokens))
    spent: int = connection.execute(SPENT, (account,)).fetchone()[0]
    return spent


def close(account: str, connection: Connection) -> None:
    if has(ACCOUNTS, connection):
        connection.execute(CLOSE, (account,))
