"""Editions of a store's runs: which of them answers, and how another one comes to be.

A new store has one from the beginning. A store that an earlier build has made gets one while indexes of SQLite answer,
and when most entries are of rows that are gone or changed another one is made beside it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from json import dumps, loads
from secrets import token_hex
from sqlite3 import Connection

import numpy as np

from aembed.stores._sqlite import _run_table as table
from aembed.stores._sqlite._database import select_in
from aembed.stores._sqlite._runs import MOST_NUMBER

IDS, FINGERPRINTS = "id", "fingerprint"
"""Kinds of runs, and the columns that they are of."""
STATE = "SELECT value FROM aembed_meta WHERE key = 'runs'"
SET_STATE = "INSERT OR REPLACE INTO aembed_meta (key, value) VALUES ('runs', ?)"
SCHEMA_OF_RUNS = 3
"""Of stores with runs: an aembed that knows nothing of them would write rows without."""
SET_SCHEMA = "INSERT OR REPLACE INTO aembed_meta (key, value) VALUES ('schema_version', ?)"
TRIGGERS = (
    """CREATE TRIGGER aembed_rows_renumbered AFTER UPDATE OF id, number, rowid ON aembed_rows
        WHEN old.id IS NOT new.id OR old.number <> new.number
        BEGIN UPDATE aembed_runs SET last = min(old.number, new.number) - 1
            WHERE last >= min(old.number, new.number); END""",
    """CREATE TRIGGER aembed_rows_shortened AFTER DELETE ON aembed_rows
        WHEN NOT EXISTS (SELECT 1 FROM aembed_rows WHERE number > old.number)
        BEGIN UPDATE aembed_runs SET last = old.number - 1 WHERE last >= old.number; END""",
)
TOP = "SELECT coalesce(max(rowid), 0) FROM aembed_rows"
LOWEST = "SELECT coalesce(min(rowid), 1) FROM aembed_rows"
DROP_INDEX = "DROP INDEX IF EXISTS aembed_rows_fingerprint"
THERE = "SELECT rowid FROM aembed_rows WHERE rowid IN ({})"

# Chosen: half of the entries may be of rows that are gone or changed, and so many more. Smaller, runs would be made
# anew more often; larger, they would take more space.
MOST_STALE = 65_536
_PROBES = 64


@dataclass(frozen=True, slots=True)
class KeyState:
    """`served` is the edition of the runs that answer, 0 where indexes of SQLite do; `making` is the one that is going
    to, 0 where there is none. `secret` is what ids are hashed by; "" where there are no runs of ids, but a primary key.
    """

    served: int
    making: int = 0
    secret: str = ""

    @property
    def kinds(self) -> tuple[str, ...]:
        return (IDS, FINGERPRINTS) if self.secret else (FINGERPRINTS,)


INDEXES = KeyState(0)
"""Of a store that no build with runs has written to."""


def create(connection: Connection) -> None:
    """For a store that is new."""
    table.create(connection)
    for sql in TRIGGERS:
        connection.execute(sql)
    _set_state(KeyState(1, secret=token_hex(16)), connection)


def state_of(connection: Connection) -> KeyState:
    row = connection.execute(STATE).fetchone()
    return KeyState(**loads(row[0])) if row else INDEXES


def top(connection: Connection) -> int:
    """The largest number of a row."""
    number: int = connection.execute(TOP).fetchone()[0]
    return number


def take_over(connection: Connection) -> KeyState:
    """A store that an earlier build has made; unless somebody has given its rows numbers that no entry has room for."""
    if connection.execute(LOWEST).fetchone()[0] < 1 or top(connection) > MOST_NUMBER:
        return INDEXES
    table.create(connection)
    state = KeyState(0, 1)
    _set_state(state, connection)
    connection.execute(SET_SCHEMA, (str(SCHEMA_OF_RUNS),))
    return state


def switch(state: KeyState, connection: Connection) -> KeyState:
    """The edition that was made is whole: it answers from now on."""
    if state.served:
        connection.execute(table.RETIRE_EDITION, (state.served,))
    else:
        # Measured: 27 ms for a million rows, and 300 where its pages are overwritten.
        with table.not_overwriting(connection):
            connection.execute(DROP_INDEX)
    state = replace(state, served=state.making, making=0)
    _set_state(state, connection)
    return state


def is_stale(largest: int, state: KeyState, connection: Connection) -> bool:
    """Whether most entries are of rows that are gone or changed; asked when a merge has made the largest run."""
    size = sum(run.size for run in table.runs_of(FINGERPRINTS, state.served, connection) if run.state == table.LIVE)
    if largest < MOST_STALE or 2 * largest < size:
        return False
    last = top(connection)
    probed = np.linspace(1, last, _PROBES).astype(int).tolist()
    there = sum(1 for _ in select_in(connection, THERE, probed))
    return size > 2 * last * there // _PROBES + MOST_STALE


def start_anew(state: KeyState, connection: Connection) -> KeyState:
    """Begins another edition, without what is stale."""
    state = replace(state, making=state.served + 1)
    _set_state(state, connection)
    return state


def _set_state(state: KeyState, connection: Connection) -> None:
    connection.execute(SET_STATE, (dumps(asdict(state)),))
