"""What has happened to the rows of a table since its map was made, kept by triggers, which see every writer.

`aembed_maps` has a row for each table: `last`, the largest number of a row (rowid) that a map may know of, and
`edition`, which grows each time a map is begun. A row with a number up to `last` that is inserted, changed or removed
is noted in `aembed_changes` with the edition of that moment; rows beyond it need no note. So a job that fills a store
which has no map pays for a comparison, and there are never more notes than rows.

The map of an edition is read page by page, while writes go on: what was written meanwhile is noted under that edition,
and what a map says of noted rows is not used. When it is published, the notes of editions before are dropped.

The token that names the map is the number of the table's row in `aembed_maps`, drawn by chance. It is new whenever
notes are dropped; a copy of the file has it together with its own notes, and a dump, which numbers the rows of tables
anew, loses it. Changes that SQLite makes without triggers (writeable blobs, `writable_schema`) are seen by nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from secrets import randbelow
from sqlite3 import Connection

import numpy as np
from numpy.typing import NDArray

from aembed.stores._map._file import MapId
from aembed.stores._sqlite._columns import quote_name

TABLES = (
    """CREATE TABLE IF NOT EXISTS aembed_maps (name TEXT PRIMARY KEY NOT NULL, last INTEGER NOT NULL,
        edition INTEGER NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS aembed_changes (name TEXT NOT NULL, row INTEGER NOT NULL, edition INTEGER,
        PRIMARY KEY (name, row)) WITHOUT ROWID""",
)
# ON CONFLICT DO UPDATE and not INSERT OR REPLACE, for which the OR of the statement that fired the trigger would count.
# Nothing here can fail, and there is no function in it: see _noted.
NOTE = """INSERT INTO aembed_changes (name, row, edition) SELECT name, {row}, edition FROM aembed_maps
    WHERE name = {name} AND {condition}
    ON CONFLICT (name, row) DO UPDATE SET edition = excluded.edition WHERE edition <> excluded.edition;"""
TRIGGER = "CREATE TRIGGER {trigger} AFTER {event} ON {table} BEGIN {notes} END"
EVENTS = {
    "INSERT": {"new.{0}": "new.{0} <= last"},
    "UPDATE": {"old.{0}": "old.{0} <= last", "new.{0}": "new.{0} <= last AND new.{0} <> old.{0}"},
    "DELETE": {"old.{0}": "old.{0} <= last"},
}
"""The rows to be noted, by what is done, and on which condition; `last` is that of the table's map."""
HOOKS = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND name IN (?, ?, ?)"
HAS_TABLES = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('aembed_maps', 'aembed_changes')"
STATE = "SELECT rowid, last, edition FROM aembed_maps WHERE name = ?"
TOKENS = "SELECT rowid FROM aembed_maps"
START = "INSERT INTO aembed_maps (rowid, name, last, edition) VALUES (?, ?, ?, 1)"
BEGIN = "UPDATE aembed_maps SET last = max(last, ?), edition = edition + 1 WHERE name = ?"
RENAME = "UPDATE aembed_maps SET rowid = ?, last = ? WHERE name = ? AND rowid = ? AND edition = ?"
FORGET = "DELETE FROM aembed_maps WHERE name = ?"
DROP_NOTES = "DELETE FROM aembed_changes WHERE name = ? AND edition < ?"
CHANGED = "SELECT row FROM aembed_changes WHERE name = ?"
HIGHEST = "SELECT coalesce(max({rowid}), 0) FROM {table}"
SCHEMA = "PRAGMA schema_version"
COUNT = "SELECT count(*) FROM {table} WHERE {rowid} > ?"
COUNT_NOTES = "SELECT count(*) FROM aembed_changes WHERE name = ?"
SMALLEST, LARGEST = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class NotedTable:
    """A table whose changes are noted. `name` is that of its notes; the others are quoted for SQL."""

    name: str
    table: str
    vector: str
    rowid: str = "rowid"

    def sql(self, statement: str) -> str:
        return statement.format(table=self.table, vector=self.vector, rowid=self.rowid)

    def triggers(self) -> Mapping[str, str]:
        """The statement that makes each, by its name."""
        name = "'" + self.name.replace("'", "''") + "'"
        made = {}
        for event, rows in EVENTS.items():
            trigger = f"aembed_{self.name.removeprefix('aembed_')}_{event.lower()}"
            notes = " ".join(
                NOTE.format(row=row.format(self.rowid), name=name, condition=condition.format(self.rowid))
                for row, condition in rows.items()
            )
            made[trigger] = TRIGGER.format(trigger=quote_name(trigger), event=event, table=self.table, notes=notes)
        return made


@dataclass(frozen=True, slots=True)
class Edition:
    """A map that is being made."""

    token: int
    """Of the map before it."""
    number: int
    schema: int
    last: int


def state(noted: NotedTable, dimensions: int, connection: Connection) -> MapId | None:
    """Which map is good for what the connection sees; None where nothing is noted."""
    if not is_noted(noted, connection):
        return None
    row = connection.execute(STATE, (noted.name,)).fetchone()
    return MapId(row[0], schema(connection), dimensions) if row else None


def is_noted(noted: NotedTable, connection: Connection) -> bool:
    triggers = noted.triggers()
    if dict(connection.execute(HOOKS, tuple(triggers)).fetchall()) != triggers:
        return False
    return bool(connection.execute(HAS_TABLES).fetchone()[0] == len(TABLES))


def tokens(connection: Connection) -> list[int]:
    """Those of the maps of all tables of the file."""
    return [token for (token,) in connection.execute(TOKENS)]


def changed(noted: NotedTable, connection: Connection) -> NDArray[np.int64]:
    """The numbers of the rows that were noted, in no order."""
    rows = [row for (row,) in connection.execute(CHANGED, (noted.name,))]
    return np.array(rows, np.int64)


def highest(noted: NotedTable, connection: Connection) -> int:
    """The largest number of a row: where few were removed, about how many there are."""
    number: int = connection.execute(noted.sql(HIGHEST)).fetchone()[0]
    return number


def counts(noted: NotedTable, connection: Connection) -> tuple[int, int]:
    """About how many rows the map knows, and how many it does not, where there is a map."""
    _, last, _ = connection.execute(STATE, (noted.name,)).fetchone()
    (beyond,) = connection.execute(noted.sql(COUNT), (last,)).fetchone()
    (notes,) = connection.execute(COUNT_NOTES, (noted.name,)).fetchone()
    return last, beyond + notes


def create_triggers(noted: NotedTable, connection: Connection) -> None:
    """Makes what is missing for notes."""
    if is_noted(noted, connection):
        return
    for sql in TABLES:
        connection.execute(sql)
    # Nobody knows what happened while a trigger was away.
    connection.execute(FORGET, (noted.name,))
    connection.execute(DROP_NOTES, (noted.name, LARGEST))
    for trigger, sql in noted.triggers().items():
        quoted = trigger.replace('"', '""')
        connection.execute(f'DROP TRIGGER IF EXISTS "{quoted}"')
        connection.execute(sql)


def begin(noted: NotedTable, connection: Connection) -> Edition:
    """From now on what happens to the rows that are there now is noted."""
    create_triggers(noted, connection)
    last = highest(noted, connection)
    if not connection.execute(BEGIN, (last, noted.name)).rowcount:
        connection.execute(START, (new_token(), noted.name, last))
    token, _, edition = connection.execute(STATE, (noted.name,)).fetchone()
    return Edition(token, edition, schema(connection), last)


def publish(noted: NotedTable, edition: Edition, token: int, connection: Connection) -> bool:
    """The map of that edition, named by the token, is the good one from now on; unless another was begun meanwhile."""
    if not is_noted(noted, connection) or schema(connection) != edition.schema:
        return False
    given = (token, edition.last, noted.name, edition.token, edition.number)
    if not connection.execute(RENAME, given).rowcount:
        return False
    connection.execute(DROP_NOTES, (noted.name, edition.number))
    return True


def new_token() -> int:
    return 1 + randbelow(LARGEST)


def schema(connection: Connection) -> int:
    version: int = connection.execute(SCHEMA).fetchone()[0]
    return version
