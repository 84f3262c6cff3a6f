"""Rows into the table of a store that has a map: the triggers that note them cost little here, and much elsewhere.

SQLite: a statement that fires triggers and could be aborted half way keeps a copy of each page that it changes, which
doubles what a row costs. With OR FAIL, and without a function in the statement, it cannot be aborted but by RAISE.
ON CONFLICT DO UPDATE can, so that new rows and those that are there go different ways.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from sqlite3 import Connection

from aembed.stores._sqlite._database import select_in
from aembed.stores._sqlite._filling import Row

IDS = "SELECT id FROM aembed_rows WHERE id IN ({})"
INSERT = """INSERT OR FAIL INTO aembed_rows (embedding, id, text, metadata, source, fingerprint, digest, updated_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"""
UPDATE = """UPDATE OR FAIL aembed_rows SET embedding = ?1, text = ?3, metadata = ?4, source = ?5, fingerprint = ?6,
    digest = ?7, updated_at = ?8 WHERE id = ?2"""


def upsert_noted(rows: Iterable[Row], connection: Connection) -> None:
    """Rows are the parameters of UPSERT (_rows). After an error the transaction is to be rolled back."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    given = [(*row, now) for row in rows]
    there = {id for (id,) in select_in(connection, IDS, [row[1] for row in given])}
    new: list[Row] = []
    again: list[Row] = []
    for row in given:
        (again if row[1] in there else new).append(row)
        there.add(row[1])
    connection.executemany(INSERT, new)
    connection.executemany(UPDATE, again)
