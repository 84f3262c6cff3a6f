"""Rows into the table of a store, by id: those that are new and those that are there go different ways.

SQLite: a statement that fires triggers and could be aborted half way keeps a copy of each page that it changes, which
doubles what a row costs; a store with a map has such triggers. With OR FAIL, and without a function in the statement,
it cannot be aborted but by RAISE. ON CONFLICT DO UPDATE can, and is for tables alone whose owner's triggers may do
anything.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import compress, repeat
from operator import itemgetter
from sqlite3 import Connection
from typing import Any

from aembed.stores._rules import encode
from aembed.stores._sqlite._database import blobs
from aembed.stores._sqlite._editions import top
from aembed.stores._sqlite._filling import FillTarget, Row, fill, hooks_of, is_of_row
from aembed.stores._sqlite._keys import Keys
from aembed.types import Rows

INSERT = """INSERT OR FAIL INTO aembed_rows
        (embedding, id, text, metadata, source, fingerprint, digest, rowid, updated_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
UPDATE = """UPDATE OR FAIL aembed_rows SET embedding = ?, text = ?, metadata = ?, source = ?, fingerprint = ?,
    digest = ?, updated_at = ? WHERE rowid = ?"""
OF_INSERT, OF_UPDATE = itemgetter(*range(9)), itemgetter(0, 2, 3, 4, 5, 6, 8, 7)
"""Their parameters out of a row of `_numbered`: Python 3.14 takes no numbered ones with a sequence."""


class Upsert:
    """Of some rows, in one transaction, which begins with it."""

    def __init__(self, rows: Rows, keys: Keys, connection: Connection) -> None:
        self._rows, self._keys, self._connection = rows, keys, connection
        self._numbers: list[int] = []
        self._held: dict[str, bytes] = {}
        """By id the fingerprints of the rows that were there."""
        self._given: list[list[Any]] = []

    def run(self, target: FillTarget) -> dict[int, str]:
        """Returns by position why rows were not taken: all others were."""
        refused: dict[int, str] = {}
        self._number()
        if hooks_of(target.table, self._connection) or not self._is_written():
            self._given = [[*row] for row in self._numbered()]
            _, refused = fill(self._given, replace(target, begin=self._begin_again), self._connection)
        self._note(refused)
        return refused

    def _note(self, refused: Collection[int]) -> None:
        ids, fingerprints, numbers, held = self._rows.ids, self._rows.fingerprints, self._numbers, self._held
        new: Sequence[int]
        changed: Sequence[int]
        new = changed = [i for i in range(len(ids)) if i not in refused] if refused else range(len(ids))
        if held:
            new = [i for i in new if ids[i] not in held]
            changed = [i for i in changed if held.get(ids[i]) != fingerprints[i]]
        self._keys.note(
            ([ids[i] for i in new], [numbers[i] for i in new]),
            ([fingerprints[i] for i in changed], [numbers[i] for i in changed]),
            self._connection,
        )

    def _number(self) -> None:
        """Each row gets the number of the row that has its id, or the next one that is free."""
        self._keys.begin(self._connection)
        ids = self._rows.ids
        found = list(self._keys.by_ids(ids, "fingerprint", self._connection))
        self._held = {id: fingerprint for _, id, fingerprint in found}
        numbers = {id: number for number, id, _ in found}
        free = top(self._connection) + 1
        for id in ids:
            if id not in numbers:
                numbers[id], free = free, free + 1
        self._numbers = [numbers[id] for id in ids]
        for row, number in zip(self._given, self._numbers, strict=False):
            row[-1] = number

    def _is_written(self) -> bool:
        """All of them, or none."""
        now, there = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"), set(self._held)
        again: list[bool] = []
        for id in self._rows.ids:
            again.append(id in there)
            there.add(id)
        try:
            for sql, parameters, wanted in ((INSERT, OF_INSERT, False), (UPDATE, OF_UPDATE, True)):
                if wanted in again:
                    rows = compress(self._numbered(repeat(now, len(again))), (each is wanted for each in again))
                    self._connection.executemany(sql, map(parameters, rows))
        except sqlite3.Error as error:
            if not is_of_row(error):
                raise
            self._connection.execute("ROLLBACK")
            self._begin_again(self._connection)
            return False
        return True

    def _numbered(self, *more: Iterable[Any]) -> Iterator[Row]:
        rows = self._rows
        metadata = map(encode, rows.metadata)
        columns = (rows.ids, rows.texts, metadata, rows.sources, rows.fingerprints, rows.digests, self._numbers)
        return zip(blobs(rows.matrix), *columns, *more, strict=True)

    def _begin_again(self, connection: Connection) -> None:
        """Somebody else may have written in between."""
        connection.execute("BEGIN IMMEDIATE")
        self._number()
