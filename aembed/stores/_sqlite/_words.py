"""An index of the words of a table's texts, by SQLite's FTS5, and the rows that hold rare ones.

Triggers note which rows are changed, so that every writer is seen, and a write is hardly slower. A search reads the
notes, too, and looks into those rows itself; where they are many, they are taken into the index first. It holds rowids
and no texts, and is built a piece at a time beside running writes: rows beyond the last one in it need no note.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection
from typing import Any, TypeAlias

from aembed.core.words import (
    COUNTED_ROWS,
    MOST_LOOKED_AT,
    Name,
    Phrase,
    holds,
    may_hold,
    names_in,
    wanted,
    weigh_rows,
    words_of,
)
from aembed.errors import ConfigError
from aembed.stores._search import NamedRow, rank_named
from aembed.stores._sqlite._database import in_pieces, matrix_of
from aembed.types import Match, Vector

OnBuild: TypeAlias = Callable[[str, int, int], object]
WriteAll: TypeAlias = Callable[[Callable[[Connection], Any]], Awaitable[Any]]

KEPT = "CREATE TABLE IF NOT EXISTS aembed_word_indexes (name TEXT PRIMARY KEY NOT NULL, last INTEGER NOT NULL)"
HAS_INDEXES = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'aembed_word_indexes'"
LAST = "SELECT last FROM aembed_word_indexes WHERE name = ?"
SET_LAST = "INSERT OR REPLACE INTO aembed_word_indexes (name, last) VALUES (?, ?)"
FORGET = "DELETE FROM aembed_word_indexes WHERE name = ?"
# A text of another alphabet keeps its marks: remove_diacritics would find a word that is not there as it was typed.
CREATE = """CREATE VIRTUAL TABLE {index} USING fts5(text, content='', columnsize=0,
    tokenize="unicode61 remove_diacritics 0")"""
CREATE_CHANGES = "CREATE TABLE {index}_changes (number INTEGER PRIMARY KEY, old TEXT)"
"""`old` is the text of which the index knows; NULL where it has none of that row."""
TRIGGERS = {
    "insert": "CREATE TRIGGER {trigger} AFTER INSERT ON {table} WHEN {is_new_held} BEGIN {note_new} END",
    "delete": "CREATE TRIGGER {trigger} AFTER DELETE ON {table} WHEN {is_old_held} BEGIN {note_old} END",
    "update": """CREATE TRIGGER {trigger} AFTER UPDATE ON {table}
        WHEN old.{rowid} <> new.{rowid} OR old.{text} COLLATE BINARY IS NOT new.{text}
        BEGIN {note_old} {note_new} END""",
}
IS_HELD = "{row}.{rowid} <= (SELECT last FROM aembed_word_indexes WHERE name = '{index}')"
# NOT EXISTS, because INSERT OR IGNORE within a trigger becomes INSERT OR REPLACE where the statement outside is one.
NOTE = """INSERT INTO {index}_changes SELECT {row}.{rowid}, {old}
    WHERE {is_held} AND NOT EXISTS (SELECT 1 FROM {index}_changes WHERE number = {row}.{rowid});"""
TRIGGERS_OF = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND name IN ({})"
UP_TO = "SELECT max(n) FROM (SELECT {rowid} AS n FROM {table} WHERE {rowid} > ? ORDER BY {rowid} LIMIT {size})"
FILL = """INSERT INTO {index} (rowid, text) SELECT {rowid}, {text} FROM {table}
    WHERE {rowid} > ? AND {rowid} <= ? AND {text} IS NOT NULL"""
CHANGED = "SELECT number FROM {index}_changes ORDER BY number LIMIT {size}"
# One statement: FTS5 writes what it holds in memory whenever another begins. In it rowids have to ascend.
TAKE_IN = """INSERT INTO {index} ({index}, rowid, text) SELECT what, number, text FROM (
        SELECT 'delete' AS what, number, old AS text FROM {index}_changes WHERE number <= ? AND old IS NOT NULL
        UNION ALL SELECT NULL, c.number, t.{text} FROM {index}_changes AS c JOIN {table} AS t ON t.{rowid} = c.number
            WHERE c.number <= ? AND t.{text} IS NOT NULL)
    ORDER BY number, what IS NULL"""
TAKEN_IN = "DELETE FROM {index}_changes WHERE number <= ?"
HELD = "SELECT rowid FROM {index} WHERE {index} MATCH ? LIMIT ?"
IS_HELD_BY = "SELECT 1 FROM {index} WHERE {index} MATCH ? AND rowid = ?"
TEXTS = "SELECT {rowid}, {text} FROM {table} WHERE {rowid} IN ({marks}) AND {text} IS NOT NULL"
COUNT = "SELECT count(*) FROM (SELECT 1 FROM {table} LIMIT {most})"
COUNT_ALL = "SELECT count(*) FROM {table}"
ENDS = """SELECT {rowid}, {text} FROM {table} WHERE {text} IS NOT NULL
    AND {rowid} NOT IN (SELECT number FROM {index}_changes) ORDER BY {rowid} {order} LIMIT {size}"""

BEFORE_ALL, ALL = -(2**63), 2**63 - 1
"""SQLite's smallest and largest rowid."""
# Chosen: a piece of 2,000 texts of 1,000 characters takes a tenth of a second, for which other writers wait.
PIECE_ROWS = 2_000
# Chosen: a search looks into so many texts in a millisecond. Larger, it would be slower; smaller, more searches would
# write.
MOST_CHANGES = 500
# Chosen: so many rows from either end of the table are looked up by so many of their words, to see whether the index is
# that of these rows.
ENDS_ROWS, ENDS_WORDS = 20, 20


@dataclass(frozen=True, slots=True)
class WordIndex:
    """The index `name`, of plain letters, digits and underscores; `table` and `text` are quoted."""

    name: str
    table: str
    text: str
    rowid: str = "rowid"

    # what is there

    def is_complete(self, connection: Connection) -> bool:
        """Whether every row is in it, or noted, and every writer of the table is seen."""
        return self._last(connection) == ALL and self._has_triggers(connection)

    def is_ready(self, connection: Connection) -> bool:
        """And few are only noted."""
        return self.is_complete(connection) and len(self._changed(MOST_CHANGES + 1, connection)) <= MOST_CHANGES

    # building

    async def build(self, write: WriteAll, on_progress: OnBuild | None) -> None:
        """`write` runs each piece in a transaction of its own."""
        await write(self.forget_misfit)
        total, done = await write(self._count), 0
        while not await write(self.build_piece):
            done += PIECE_ROWS
            if on_progress:
                on_progress("words", min(done, total), total)

    def forget_misfit(self, connection: Connection) -> bool:
        """Looks at some rows, and throws away an index that is not of these; whether it did.

        A copy that was dumped and read in again, and VACUUM, may number rows anew.
        """
        if not self.is_complete(connection) or self._fits(connection):
            return False
        connection.execute(FORGET, (self.name,))
        return True

    def build_piece(self, connection: Connection) -> bool:
        """Takes more rows in, in the transaction of the caller; whether that was all. Several may build it at once."""
        last = self._last(connection)
        if last is None or not self._has_triggers(connection):
            for trigger in self._triggers:
                connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
            with _asking_for_fts5():
                for table in (f"{self.name}_changes", self.name):
                    connection.execute(f"DROP TABLE IF EXISTS {table}")
                connection.execute(self._sql(CREATE))
            for sql in (KEPT, self._sql(CREATE_CHANGES), *self._triggers.values()):
                connection.execute(sql)
            connection.execute(SET_LAST, (self.name, BEFORE_ALL))
            last = BEFORE_ALL
        if last < ALL:
            (upto,) = connection.execute(self._sql(UP_TO, size=PIECE_ROWS), (last,)).fetchone()
            if upto is not None:
                connection.execute(self._sql(FILL), (last, upto))
            connection.execute(SET_LAST, (self.name, ALL if upto is None else upto))
            return False
        if changed := self._changed(PIECE_ROWS, connection):
            connection.execute(self._sql(TAKE_IN), (changed[-1], changed[-1]))
            connection.execute(self._sql(TAKEN_IN), (changed[-1],))
        return len(changed) < PIECE_ROWS

    # searching

    def rare_rows(self, names: Sequence[Name], connection: Connection) -> tuple[dict[int, float], bool]:
        """By rowid what rare names say of the rows that hold them (weigh_rows); and whether the index named a row that
        is not there, or holds none of its words."""
        (rows,) = connection.execute(self._sql(COUNT, most=COUNTED_ROWS)).fetchone()
        # Mostly they are few (is_ready), but others may write on since that was asked.
        changed = set(self._changed(-1, connection))
        changed_texts = self._texts(sorted(changed), connection)
        found, is_odd = dict[Phrase, dict[int, str]](), False
        while phrases := wanted(names, found):
            for phrase in phrases:
                held, odd = self._held(phrase, changed, connection)
                found[phrase] = held | {
                    row: text for row, text in changed_texts.items() if may_hold(text, phrase) and holds(text, phrase)
                }
                is_odd = is_odd or odd
        return weigh_rows(names, found, rows), is_odd

    def _held(self, phrase: Phrase, changed: AbstractSet[int], connection: Connection) -> tuple[dict[int, str], bool]:
        # Words are letters and digits alone, so that nothing in the quotation marks has a meaning to FTS5.
        query = f'"{" ".join(phrase)}"'
        hits = connection.execute(self._sql(HELD), (query, MOST_LOOKED_AT + len(changed) + 1))
        held = [row for (row,) in hits if row not in changed]
        if len(held) > MOST_LOOKED_AT:
            return dict.fromkeys(held, ""), False
        texts = {row: text for row, text in self._texts(held, connection).items() if may_hold(text, phrase)}
        return texts, len(texts) < len(held)

    # its parts

    def _last(self, connection: Connection) -> int | None:
        if connection.execute(HAS_INDEXES).fetchone() is None:
            return None
        row = connection.execute(LAST, (self.name,)).fetchone()
        return row[0] if row else None

    def _changed(self, most: int, connection: Connection) -> list[int]:
        return [row for (row,) in connection.execute(self._sql(CHANGED, size=most))]

    def _count(self, connection: Connection) -> int:
        rows: int = connection.execute(self._sql(COUNT_ALL)).fetchone()[0]
        return rows

    def _texts(self, rows: Sequence[int], connection: Connection) -> dict[int, str]:
        pieces = in_pieces(connection, rows)
        found = (connection.execute(self._sql(TEXTS, marks=marks), piece) for piece, marks in pieces)
        return {row: str(text) for each in found for row, text in each}

    @property
    def _triggers(self) -> dict[str, str]:
        held = {row: self._sql(IS_HELD, row=row) for row in ("old", "new")}
        parts = {
            "is_old_held": held["old"],
            "is_new_held": held["new"],
            "note_old": self._sql(NOTE, row="old", old=self._sql("old.{text}"), is_held=held["old"]),
            "note_new": self._sql(NOTE, row="new", old="NULL", is_held=held["new"]),
        }
        names = {event: f"{self.name}_{event}" for event in TRIGGERS}
        return {names[event]: self._sql(sql, trigger=names[event], **parts) for event, sql in TRIGGERS.items()}

    def _has_triggers(self, connection: Connection) -> bool:
        wanted = self._triggers
        found = connection.execute(TRIGGERS_OF.format(",".join("?" * len(wanted))), list(wanted)).fetchall()
        return dict(found) == wanted

    def _fits(self, connection: Connection) -> bool:
        for order in ("ASC", "DESC"):
            for row, text in connection.execute(self._sql(ENDS, order=order, size=ENDS_ROWS)).fetchall():
                # FTS5 and Python may know other letters, but those of ASCII.
                words = sorted(set(words_of(str(text))), key=len)[-ENDS_WORDS:] if str(text).isascii() else []
                asked = (" ".join(f'"{word}"' for word in words), row)
                if words and connection.execute(self._sql(IS_HELD_BY), asked).fetchone() is None:
                    return False
        return True

    def _sql(self, statement: str, **parts: object) -> str:
        return statement.format(index=self.name, table=self.table, text=self.text, rowid=self.rowid, **parts)


@contextmanager
def _asking_for_fts5() -> Iterator[None]:
    """Raises ConfigError where SQLite was built without it."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "no such module" not in str(error):
            raise
        raise ConfigError(
            "this Python's SQLite has no FTS5, which hybrid search needs; leave hybrid out, or use a Python whose "
            "sqlite3 has it, as those of python.org"
        ) from None


NumberedRows: TypeAlias = Iterator[tuple[int, Match, bytes]]
"""Rowid, the row without its score, and its vector."""


def find_named(
    index: WordIndex,
    question: str,
    query: Vector,
    k: int,
    read_rows: Callable[[Sequence[int]], NumberedRows],
    name: Path,
    connection: Connection,
) -> tuple[list[Match], bool]:
    """The k best rows that hold rare names of the question; and whether the index named one that holds none of them.

    `read_rows` gives those of these rowids that are searched.
    """
    with _asking_for_fts5():
        weights, is_odd = index.rare_rows(names_in(question), connection)
    rows = [
        NamedRow(weights[row], match, matrix_of([blob], len(query), name)[0])
        for row, match, blob in read_rows(list(weights))
    ]
    return rank_named(query, rows, k), is_odd
