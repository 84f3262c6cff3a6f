"""Rows into a SQLite table: what the table refuses, drops or changes is found row by row, and the others are kept.

A row that is lost leaves no trace: what a trigger made of it is taken back, and so it is still to be filled.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Any, TypeAlias

from aembed.errors import RowRefusedError
from aembed.stores._sqlite._columns import TableLayout

Row: TypeAlias = Sequence[Any]
"""The vector, the key, and what else the statement takes: the parameters of both statements of a FillTarget."""
REFUSALS = (sqlite3.IntegrityError, sqlite3.DataError)
"""A constraint, a STRICT type, RAISE in a trigger; a value that is too large."""
HOOKS = """SELECT type, name, sql FROM sqlite_master
    WHERE (type = 'trigger' AND tbl_name = ? COLLATE NOCASE AND substr(name, 1, 13) <> 'aembed_words_'
        AND instr(sql, 'INSERT INTO aembed_changes') = 0 AND instr(sql, 'UPDATE aembed_runs') = 0)
    OR (type = 'table' AND name = ? COLLATE NOCASE AND upper(sql) LIKE '%ON%CONFLICT%') ORDER BY type, name"""
"""A trigger may change, skip or undo what is written; a constraint may skip it, or remove another row for it. Those of
aembed's own indexes of words, and those that note for a map (_changes) and for runs (_keys) what is written, do none of
it."""
# No pragma tells what a constraint does on a conflict, so the words are looked for in the table's SQL. What is left out
# are comments, strings and quoted names, in all the ways in which SQLite writes them (its documentation: "SQL Comments"
# and "SQLite Keywords").
NO_KEYWORDS = re.compile(r"""--[^\n]*|/\*.*?(?:\*/|\Z)|'[^']*'|"[^"]*"|`[^`]*`|\[[^\]]*\]""", re.DOTALL)
ON_CONFLICT = re.compile(r"\bON\s+CONFLICT\b", re.IGNORECASE)


DROPPED = "after it was written its vector is another"


def begin_immediate(connection: Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")


@dataclass(frozen=True, slots=True)
class FillTarget:
    """`write` puts a row there. `kept` selects whether the row of that key has that vector; nothing where there is no
    such key, or its text is another. `inserts`: it makes rows that are not there. `begin` begins another transaction
    where a trigger has ended the one before."""

    table: str
    write: str
    kept: str
    inserts: bool = False
    begin: Callable[[Connection], None] = begin_immediate

    @classmethod
    def of_column(cls, name: str, table: TableLayout) -> FillTarget:
        """Vectors of rows that are there; `name` is that of the table, as the user wrote it."""
        return cls(name, table.fill(), table.select_vector())


def hooks_of(table: str, connection: Connection) -> list[str]:
    """What a write meets, in words: without any, what SQLite counts is what it keeps."""
    found = connection.execute(HOOKS, (table, table)).fetchall()
    is_skipping = any(type == "table" and ON_CONFLICT.search(NO_KEYWORDS.sub(" ", sql)) for type, _, sql in found)
    constraints = ["a constraint with ON CONFLICT"] if is_skipping else []
    return constraints + [f"the trigger '{name}'" for type, name, _ in found if type == "trigger"]


def fill(rows: Sequence[Row], target: FillTarget, connection: Connection) -> tuple[int, dict[int, str]]:
    """How many rows hold their vector now, and by position why others do not. A row that was edited is neither."""
    hooks, refused = hooks_of(target.table, connection), dict[int, str]()
    meant = set[int]()
    if hooks:
        # Those that the statement is going to write: their text is still the one that was embedded.
        meant = {i for i, row in enumerate(rows) if target.inserts or connection.execute(target.kept, row).fetchone()}
    while True:
        filled = _written(rows, target, refused, connection)
        if not hooks and not refused:
            break
        left = ((number, row) for number, row in enumerate(rows) if number not in refused)
        kept = ((number, connection.execute(target.kept, row).fetchone()) for number, row in left)
        there = {number for number, found in kept if found and found[0]}
        if lost := sorted(meant - there - refused.keys()):
            # What they did to others is taken back with them.
            _take_back(target, connection)
            refused |= dict.fromkeys(lost, f"{DROPPED}; the table has {', '.join(hooks)}")
            continue
        filled = len(there)
        break
    connection.execute("RELEASE aembed_rows")
    return filled, refused


def taken_back(rows: Sequence[Row], target: FillTarget, connection: Connection) -> tuple[int, dict[int, str]]:
    """As `fill`, and undone: nothing but the answer is left of it."""
    connection.execute("SAVEPOINT aembed_probe")
    tried = fill(rows, target, connection)
    try:
        connection.execute("ROLLBACK TO aembed_probe")
    except sqlite3.OperationalError:
        # RAISE(ROLLBACK) of a trigger has ended the transaction and that savepoint; another one was begun.
        connection.execute("ROLLBACK")
        connection.execute("BEGIN IMMEDIATE")
    else:
        connection.execute("RELEASE aembed_probe")
    return tried


def error_of(reason: str, place: str) -> RowRefusedError:
    return RowRefusedError(f"{place} does not take the row: {reason}; change the row or the table, and run this again")


def is_of_row(error: sqlite3.Error) -> bool:
    """Whether it tells of one row, and not of the file: a constraint, or what a trigger or a generated column does."""
    return isinstance(error, REFUSALS) or getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_ERROR


def _written(rows: Sequence[Row], target: FillTarget, refused: dict[int, str], connection: Connection) -> int:
    """Writes those that are not refused, and finds out which of them are. The savepoint stays open."""
    connection.execute("SAVEPOINT aembed_rows")
    left = [row for number, row in enumerate(rows) if number not in refused] if refused else rows
    try:
        # sqlite3 tells -1 where no statement was run.
        return max(0, connection.executemany(target.write, left).rowcount)
    except sqlite3.Error as error:
        if not is_of_row(error):
            raise
    _take_back(target, connection)
    connection.execute("SAVEPOINT aembed_rows")
    _write_one_by_one(rows, target, refused, connection)
    return len(rows) - len(refused)


def _write_one_by_one(rows: Sequence[Row], target: FillTarget, refused: dict[int, str], connection: Connection) -> None:
    """Writes them one by one. RAISE(ROLLBACK) ends the transaction: then they are begun again without that one."""
    number = 0
    while number < len(rows):
        if number not in refused:
            connection.execute("SAVEPOINT aembed_row")
            try:
                connection.execute(target.write, rows[number])
            except sqlite3.Error as error:
                if not is_of_row(error):
                    raise
                # What RAISE says is the table's own word; what a constraint says names columns, and no text.
                refused[number] = str(error) or type(error).__name__
                if not _is_undone(target, connection):
                    number = 0
                    continue
            else:
                connection.execute("RELEASE aembed_row")
        number += 1


def _take_back(target: FillTarget, connection: Connection) -> None:
    """To where the savepoint was set; it is no more."""
    if connection.in_transaction:
        connection.execute("ROLLBACK TO aembed_rows")
        connection.execute("RELEASE aembed_rows")
    else:
        target.begin(connection)


def _is_undone(target: FillTarget, connection: Connection) -> bool:
    """Whether what was written before that row is still there."""
    if connection.in_transaction:
        connection.execute("ROLLBACK TO aembed_row")
        connection.execute("RELEASE aembed_row")
        return True
    target.begin(connection)
    connection.execute("SAVEPOINT aembed_rows")
    return False
