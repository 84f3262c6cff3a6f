"""The sorted runs of a store in its file: made together with the rows, merged a piece at a time, removed.

All of it happens in transactions of whoever writes rows. A merge that was begun stands in the file with all that it has
done, so that any process goes on with it, and none has anything to tidy up after one that was killed. Nobody reads a
run that is being made; the transaction that completes it retires those that went into it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import randbelow
from sqlite3 import Connection

import numpy as np

from aembed.stores._sqlite._runs import CHUNK_ENTRIES, END, Entries, chunked, merged, packed, unpacked

TABLES = (
    """CREATE TABLE IF NOT EXISTS aembed_runs (number INTEGER PRIMARY KEY, token INTEGER NOT NULL, kind TEXT NOT NULL,
        edition INTEGER NOT NULL, state TEXT NOT NULL, size INTEGER NOT NULL, last INTEGER NOT NULL, goes_into INTEGER,
        fences BLOB NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS aembed_run_chunks (number INTEGER PRIMARY KEY, entries BLOB NOT NULL)",
)
RUNS = """SELECT number, token, state, size, goes_into, fences FROM aembed_runs
    WHERE kind = ? AND edition = ? AND state <> 'gone' ORDER BY number"""
HIGHEST = "SELECT coalesce(max(number), 0) FROM aembed_runs"
COVERED = "SELECT coalesce(max(last), 0) FROM aembed_runs WHERE edition = ?"
LOWER = "UPDATE aembed_runs SET last = min(last, ?)"
MAKE = """INSERT INTO aembed_runs (number, token, kind, edition, state, size, last, goes_into, fences)
    VALUES (?, ?, ?, ?, ?, ?, ?, NULL, ?)"""
LAST_OF = "SELECT max(last) FROM aembed_runs WHERE number IN ({})"
TAKE = "UPDATE aembed_runs SET goes_into = ? WHERE number = ?"
GROW = "UPDATE aembed_runs SET size = ?, fences = ?, state = ? WHERE number = ?"
RETIRE = "UPDATE aembed_runs SET state = 'gone', last = 0 WHERE goes_into = ?"
RETIRE_EDITION = "UPDATE aembed_runs SET state = 'gone', last = 0 WHERE edition = ?"
GONE = "SELECT number, length(fences) / 8 - 1 FROM aembed_runs WHERE state = 'gone' ORDER BY number"
FORGET = "DELETE FROM aembed_runs WHERE number = ?"
SHORTEN = "UPDATE aembed_runs SET fences = substr(fences, 1, ? * 8 + 8) WHERE number = ?"
ADD_CHUNK = "INSERT INTO aembed_run_chunks (number, entries) VALUES (?, ?)"
CHUNKS = "SELECT entries FROM aembed_run_chunks WHERE number >= ? AND number < ? ORDER BY number"
SOME_CHUNKS = "SELECT entries FROM aembed_run_chunks WHERE number IN ({}) ORDER BY number"
REMOVE_CHUNKS = "DELETE FROM aembed_run_chunks WHERE number >= ? AND number < ?"

LIVE, MAKING = "live", "making"
TOKENS = 2**63
"""From so many that of a run is drawn."""
MOST_CHUNKS = 2**20
"""Of a run: chunk i of run n has the number n * MOST_CHUNKS + i."""
# Computed: with 8, up to seven runs of a size would be asked in a lookup and not three; with 2, a key would be written
# twice as often.
FAN_OUT = 4
"""So many runs of a size are merged into one."""
# Chosen: 64 chunks are 2 MB. Larger, a write would wait longer; smaller, a file would be larger than need be for a
# longer time.
REMOVED_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Run:
    number: int
    token: int
    """Drawn by chance: the number may be that of another run once, and a transaction that made a run be undone."""
    state: str
    size: int
    goes_into: int | None
    fences: Entries
    """The first entry of each chunk; and what all entries of the run lie before."""

    @property
    def level(self) -> int:
        """Runs of a level are merged; the first takes those of up to one chunk."""
        level, most = 0, CHUNK_ENTRIES
        while self.size > most:
            level, most = level + 1, most * FAN_OUT
        return level

    @property
    def chunks(self) -> int:
        return len(self.fences) - 1


def create(connection: Connection) -> None:
    for sql in TABLES:
        connection.execute(sql)


def runs_of(kind: str, edition: int, connection: Connection) -> list[Run]:
    found = connection.execute(RUNS, (kind, edition))
    return [
        Run(number, token, state, size, into, unpacked(fences)) for number, token, state, size, into, fences in found
    ]


def covered(edition: int, connection: Connection) -> int:
    """All rows with numbers up to this one are in the runs of that edition."""
    last: int = connection.execute(COVERED, (edition,)).fetchone()[0]
    return last


def lower(last: int, connection: Connection) -> None:
    """Rows beyond that one are not in the runs."""
    connection.execute(LOWER, (last,))


def entries_in(run: Run, first: int, last: int, connection: Connection) -> Entries:
    """Those of the chunks from `first` to `last`, which is one of them."""
    base = run.number * MOST_CHUNKS
    found = connection.execute(CHUNKS, (base + first, base + last + 1))
    return unpacked(b"".join(data for (data,) in found))


def entries_of_chunks(run: Run, picked: Sequence[int], connection: Connection) -> Entries:
    """Those of these chunks, which are in order; not many at once."""
    numbers = ",".join(str(run.number * MOST_CHUNKS + each) for each in picked)
    return unpacked(b"".join(data for (data,) in connection.execute(SOME_CHUNKS.format(numbers))))


def append(kind: str, edition: int, entries: Entries, last: int, connection: Connection) -> None:
    """A new run; with it all rows up to `last` are in the runs of that kind."""
    number, chunks = _next_number(connection), chunked(entries)
    _add_chunks(number, 0, chunks, connection)
    given = (number, randbelow(TOKENS), kind, edition, LIVE, len(entries), last, packed(_fences([], chunks, END)))
    connection.execute(MAKE, given)


def merge(kind: str, edition: int, most: int, connection: Connection) -> int:
    """Merges about so many entries, in runs of which there are enough, small ones first. Returns the size of the
    largest run that is whole now."""
    largest = 0
    while most > 0:
        runs = runs_of(kind, edition, connection)
        _begin(kind, edition, runs, connection)
        runs = runs_of(kind, edition, connection)
        merges = {run.number: run for run in runs if run.state == MAKING}
        sources = defaultdict(list)
        for run in runs:
            if run.state == LIVE and run.goes_into in merges:
                sources[run.goes_into].append(run)
        if not merges:
            break
        number = min(merges, key=lambda number: (sum(run.size for run in sources[number]), number))
        read, made = _merge_piece(merges[number], sources[number], most, connection)
        most, largest = most - read, max(largest, made)
    return largest


def remove_some(connection: Connection) -> None:
    """Removes some chunks of the runs that are gone."""
    room = REMOVED_AT_ONCE
    for number, chunks in connection.execute(GONE).fetchall():
        first, base = max(0, chunks - room), number * MOST_CHUNKS
        with not_overwriting(connection):
            connection.execute(REMOVE_CHUNKS, (base + first, base + chunks))
        if first:
            connection.execute(SHORTEN, (first, number))
            break
        connection.execute(FORGET, (number,))
        room -= chunks


@contextmanager
def not_overwriting(connection: Connection) -> Iterator[None]:
    """What is removed here are hashes. Where SQLite overwrites what it removes with zeros, as Debian builds it, the
    pages that become free would be written once more."""
    (before,) = connection.execute("PRAGMA secure_delete").fetchone()
    connection.execute("PRAGMA secure_delete = FAST")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA secure_delete = {['OFF', 'ON', 'FAST'][before]}")


def _begin(kind: str, edition: int, runs: Sequence[Run], connection: Connection) -> None:
    levels = defaultdict(list)
    for run in runs:
        if run.state == LIVE and run.goes_into is None:
            levels[run.level].append(run.number)
    for numbers in levels.values():
        if len(numbers) >= FAN_OUT:
            number = _next_number(connection)
            marks = ",".join("?" * len(numbers))
            (last,) = connection.execute(LAST_OF.format(marks), numbers).fetchone()
            fences = packed(_fences([], [], np.uint64(0)))
            connection.execute(MAKE, (number, randbelow(TOKENS), kind, edition, MAKING, 0, last, fences))
            connection.executemany(TAKE, [(number, each) for each in numbers])


def _merge_piece(making: Run, sources: Sequence[Run], most: int, connection: Connection) -> tuple[int, int]:
    """Takes in what follows the entries that it has already. Returns how many were read, and how large the run is if it
    is whole now, else 0."""
    start, room = making.fences[-1], max(FAN_OUT, most // CHUNK_ENTRIES)
    later = np.sort(np.concatenate([run.fences[:-1][run.fences[:-1] > start] for run in sources]))
    end = later[room] if len(later) > room else END
    parts = [_between(start, end, run, connection) for run in sources]
    entries = merged(parts)
    is_last = bool(end == END)
    if not is_last and (full := len(entries) // CHUNK_ENTRIES * CHUNK_ENTRIES) and full < len(entries):
        # What does not fill a chunk is read again with what comes next.
        entries, end = entries[:full], entries[full]
    chunks = chunked(entries)
    _add_chunks(making.number, making.chunks, chunks, connection)
    fences = packed(_fences(making.fences[:-1], chunks, end))
    state = LIVE if is_last else MAKING
    connection.execute(GROW, (making.size + len(entries), fences, state, making.number))
    if is_last:
        connection.execute(RETIRE, (making.number,))
    return max(1, sum(map(len, parts))), making.size + len(entries) if is_last else 0


def _between(start: np.uint64, end: np.uint64, run: Run, connection: Connection) -> Entries:
    first = max(0, int(np.searchsorted(run.fences, start, side="right")) - 1)
    last = min(run.chunks, int(np.searchsorted(run.fences, end))) - 1
    if last < first:
        return np.empty(0, np.uint64)
    entries = entries_in(run, first, last, connection)
    return entries[np.searchsorted(entries, start) : np.searchsorted(entries, end)]


def _add_chunks(number: int, first: int, chunks: Sequence[Entries], connection: Connection) -> None:
    base = number * MOST_CHUNKS + first
    connection.executemany(ADD_CHUNK, ((base + i, packed(chunk)) for i, chunk in enumerate(chunks)))


def _fences(before: Sequence[np.uint64] | Entries, chunks: Sequence[Entries], end: np.uint64) -> Entries:
    return np.array([*before, *(chunk[0] for chunk in chunks), end], np.uint64)


def _next_number(connection: Connection) -> int:
    """A run keeps its number until all its chunks are removed."""
    highest: int = connection.execute(HIGHEST).fetchone()[0]
    return highest + 1
