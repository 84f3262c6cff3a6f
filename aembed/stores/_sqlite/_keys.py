"""Where the rows of a store are that have some ids, or some fingerprints.

A store keeps both in sorted runs (_runs), which are written in the transactions that write the rows. Stores of earlier
builds have indexes of SQLite instead: their ids stay in the index of the primary key, and their fingerprints are taken
into runs a piece at a time, with each write, until all are there; then that index is removed.

What a run names is looked at before it counts, so that rows which are gone or changed do no harm there. What it does
not name would be bought twice, or stand in the store twice: so runs cover all rows up to a number, and rows beyond it,
which somebody else has inserted, are looked at one by one until they are in the runs, too. Two triggers lower that
number where somebody renames rows or removes the last one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from sqlite3 import Connection
from typing import Any

import numpy as np

from aembed.stores._sqlite import _run_table as table
from aembed.stores._sqlite._database import select_in
from aembed.stores._sqlite._editions import (
    FINGERPRINTS,
    IDS,
    INDEXES,
    KeyState,
    is_stale,
    start_anew,
    state_of,
    switch,
    take_over,
    top,
)
from aembed.stores._sqlite._lookup import RunLookup
from aembed.stores._sqlite._runs import Hashes, IdHash, entries_of, hashes_of_fingerprints

AFTER = "SELECT rowid, id, fingerprint FROM aembed_rows WHERE rowid > ? ORDER BY rowid LIMIT ?"
BEYOND = "SELECT rowid, {key}, {columns} FROM aembed_rows WHERE rowid > ? ORDER BY rowid"
SOME = "SELECT rowid, {key}, {columns} FROM aembed_rows WHERE rowid IN ({{}}) ORDER BY rowid"
BY_ID = "SELECT rowid, id, {columns} FROM aembed_rows WHERE id IN ({{}})"
# SQLite takes a column that is not grouped from some row of each group. Any will do: one fingerprint was paid for once.
BY_FINGERPRINT = """SELECT rowid, fingerprint, {columns} FROM aembed_rows WHERE fingerprint IN ({{}})
    GROUP BY fingerprint"""
SAMPLE = "SELECT fingerprint FROM aembed_rows ORDER BY rowid {order} LIMIT ?"
DELETE = "DELETE FROM aembed_rows WHERE rowid = ?"

# Chosen: 4,096 rows of 1,536 floats lie on 820 pages, of which the vectors are not looked at. Larger, others would wait
# longer; smaller, there would be more transactions.
ROWS_AT_ONCE = 4096
# Chosen: with each row that is written two of an earlier build's are taken over, and some with each write, so that this
# ends before the store has grown by half. Larger, each write would take longer; smaller, the old index would cost for
# longer.
TAKEN_OVER, TAKEN_OVER_PER_ROW = 1024, 2
# Computed: a key is merged once on each level, of which ten million rows have seven. Larger, some writes take longer;
# smaller, runs would become more and more.
MERGED, MERGED_PER_ROW = 16_384, 8
# Chosen: so many rows from either end, as for an index of words.
SAMPLED = 20


class Keys:
    """Of one store. Its threads share it."""

    def __init__(self) -> None:
        self._lookup = RunLookup()
        self._hash = "", IdHash("")

    # looking up

    def by_ids(self, ids: Collection[str], columns: str, connection: Connection) -> Iterator[tuple[Any, ...]]:
        """Number, id and these columns of the rows that have these ids."""
        state = state_of(connection)
        if not state.secret:
            return select_in(connection, BY_ID.format(columns=columns), ids)
        found = self._found(IDS, list(ids), columns, state, connection)
        return iter(found.values())

    def by_fingerprints(
        self, fingerprints: Collection[bytes], columns: str, connection: Connection
    ) -> Iterator[tuple[Any, ...]]:
        """The same of one row for each of these fingerprints that some row has."""
        state = state_of(connection)
        if not state.served:
            return select_in(connection, BY_FINGERPRINT.format(columns=columns), fingerprints)
        return iter(self._found(FINGERPRINTS, list(fingerprints), columns, state, connection).values())

    def numbers_of(self, ids: Collection[str], connection: Connection) -> dict[str, int]:
        return {id: number for number, id, _ in self.by_ids(ids, "1", connection)}

    def _found(
        self, kind: str, keys: Sequence[Any], columns: str, state: KeyState, connection: Connection
    ) -> dict[Any, tuple[Any, ...]]:
        """By key a row that has it: of several the last one, where the key is an id."""
        if not keys:
            return {}
        found = self._verified(kind, keys, columns, state, connection)
        covered = table.covered(state.served, connection)
        if covered < top(connection):
            asked = set(keys)
            beyond = connection.execute(BEYOND.format(key=kind, columns=columns), (covered,))
            found |= {row[1]: row for row in beyond if row[1] in asked}
        return found

    def _verified(
        self, kind: str, keys: Sequence[Any], columns: str, state: KeyState, connection: Connection
    ) -> dict[Any, tuple[Any, ...]]:
        found, sql = dict[Any, tuple[Any, ...]](), SOME.format(key=kind, columns=columns)
        hashes = self._hashes(kind, keys, state)
        # Mostly the last row is the one. Thousands may have the same text, and one of them is enough.
        for only_last in (True, False):
            positions, numbers = self._lookup.rows_of(kind, state.served, hashes, connection, only_last=only_last)
            if not len(numbers):
                break
            asked = np.unique(numbers).tolist()
            wanted = {keys[position] for position in np.unique(positions).tolist()}
            found |= {row[1]: row for row in select_in(connection, sql, asked) if row[1] in wanted}
            keys = [key for key in keys if key in wanted and key not in found]
            if not keys:
                break
            hashes = self._hashes(kind, keys, state)
        return found

    # writing

    def begin(self, connection: Connection) -> None:
        """First in each transaction that writes rows: from here on every row is found."""
        state = state_of(connection)
        if state == INDEXES:
            state = take_over(connection)
        while not self._catch_up(state.served, state, connection):
            pass

    def note(
        self,
        ids: tuple[Sequence[str], Sequence[int]],
        fingerprints: tuple[Sequence[bytes], Sequence[int]],
        connection: Connection,
    ) -> None:
        """Last in it: the ids of rows that are new, and the fingerprints that rows have now, each with its number."""
        state, last = state_of(connection), top(connection)
        if state == INDEXES:
            return
        for kind in state.kinds:
            keys, numbers = ids if kind == IDS else fingerprints
            entries = entries_of(self._hashes(kind, keys, state), numbers)
            if not len(entries):
                continue
            if state.served:
                table.append(kind, state.served, entries, last, connection)
            if state.making:
                covered = table.covered(state.making, connection)
                old = entries[(entries & np.uint64(2**32 - 1)) <= np.uint64(covered)]
                if len(old):
                    table.append(kind, state.making, old, 0, connection)
        self._tidy(len(fingerprints[0]), state, connection)

    def catch_up(self, connection: Connection) -> bool:
        """Takes some rows that others have inserted into the runs; whether that was all. For before the first write,
        which would do it all at once."""
        state = state_of(connection)
        return self._catch_up(state.served, state, connection)

    def check(self, connection: Connection) -> None:
        """Looks at some rows of a store that an earlier build has made. A copy that was dumped and read in again
        numbers them anew: then the runs are of other rows, and all are taken in once more."""
        state = state_of(connection)
        if state.secret or not state.served:
            return
        for order in ("ASC", "DESC"):
            held = {key for (key,) in connection.execute(SAMPLE.format(order=order), (SAMPLED,))}
            if len(self._found(FINGERPRINTS, list(held), "1", state, connection)) < len(held):
                table.lower(0, connection)
                return

    def _hashes(self, kind: str, keys: Sequence[Any], state: KeyState) -> Hashes:
        if kind == FINGERPRINTS:
            return hashes_of_fingerprints(keys)
        secret, by_secret = self._hash
        if secret != state.secret:
            self._hash = state.secret, (by_secret := IdHash(state.secret))
        return by_secret.of(keys)

    def _tidy(self, rows: int, state: KeyState, connection: Connection) -> None:
        """What each write does for the runs, in proportion to its rows."""
        if state.making:
            most = TAKEN_OVER + TAKEN_OVER_PER_ROW * rows
            if self._catch_up(state.making, state, connection, most):
                state = switch(state, connection)
        for kind in state.kinds:
            for edition in filter(None, (state.served, state.making)):
                largest = table.merge(kind, edition, MERGED + MERGED_PER_ROW * rows, connection)
                if kind == FINGERPRINTS and not state.making and is_stale(largest, state, connection):
                    state = start_anew(state, connection)
        table.remove_some(connection)

    def _catch_up(self, edition: int, state: KeyState, connection: Connection, most: int = ROWS_AT_ONCE) -> bool:
        """Takes so many of the rows that are not covered into the runs of that edition; whether that was all."""
        if not edition:
            return True
        covered, last = table.covered(edition, connection), top(connection)
        if covered > last:
            table.lower(last, connection)
        if covered >= last:
            return True
        rows = connection.execute(AFTER, (covered, most)).fetchall()
        if state.secret and edition == state.served:
            self._remove_doubles(rows, state, connection)
        numbers = [number for number, _, _ in rows]
        for kind, keys in ((IDS, [str(id) for _, id, _ in rows]), (FINGERPRINTS, [key for _, _, key in rows])):
            if kind in state.kinds:
                hashes = self._hashes(kind, keys, state)
                table.append(kind, edition, entries_of(hashes, numbers), numbers[-1], connection)
                table.merge(kind, edition, MERGED + MERGED_PER_ROW * len(rows), connection)
        return len(rows) < most

    def _remove_doubles(self, rows: Sequence[tuple[int, str, bytes]], state: KeyState, connection: Connection) -> None:
        """There is no primary key that keeps others from inserting an id again: then the last one is meant."""
        last = {id: number for number, id, _ in rows}
        hashes = self._hashes(IDS, list(map(str, last)), state)
        _, numbers = self._lookup.rows_of(IDS, state.served, hashes, connection, only_last=False)
        found = [*select_in(connection, SOME.format(key=IDS, columns="1"), np.unique(numbers).tolist()), *rows]
        connection.executemany(DELETE, [(number,) for number, id, _ in found if number < last.get(id, number)])
