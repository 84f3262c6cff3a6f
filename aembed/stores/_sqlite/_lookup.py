"""Looks keys up in sorted runs, and keeps in memory what makes that cheap: small runs, and filters of large ones."""

from __future__ import annotations

from dataclasses import dataclass
from sqlite3 import Connection

import numpy as np
from numpy.typing import NDArray

from aembed.stores._sqlite import _run_table as table
from aembed.stores._sqlite._run_table import LIVE, Run
from aembed.stores._sqlite._runs import NO_ROWS, Entries, FilterBits, Hashes, RunFilter, chunks_of, filter_bits, matches

# Chosen: runs of up to 128 KB are eight at a time, of each kind. Larger, they would take more memory than filters do;
# smaller, more of them would be read for each lookup.
KEPT_ENTRIES = 16_384
"""Runs of up to so many entries are kept in memory whole."""
# Measured: with 16 bits one hash of 900 that are not in a run passes its filter, with 12 one of 190.
FILTER_BITS, FILTER_BITS_OF_LARGE = 16, 12
LARGE_ENTRIES = 2**20
# Computed: filters for the ids and fingerprints of ten million rows are 30 MB. Beyond, the runs that come last have
# none, and what is looked up there is read from the file.
FILTERS_BYTES = 32 * 1024 * 1024
# Chosen: 128 chunks are 4 MB. Larger, a lookup takes more memory; smaller, SQLite is asked more often.
CHUNKS_AT_ONCE = 128


@dataclass(slots=True)
class _Kept:
    """Of one run: all entries, or a filter, or how many of its chunks were read until now."""

    entries: Entries | None = None
    filter: RunFilter | None = None
    read: int = 0


class RunLookup:
    """What is kept of a run goes by its token, so that it is good for whatever a connection sees. The threads of a
    store share it: what one forgets while another asks is read again."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[int, _Kept]] = {}

    def rows_of(
        self, kind: str, edition: int, hashes: Hashes, connection: Connection, *, only_last: bool
    ) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """Positions among the hashes, and with each the number of a row that had a key of that hash: all of them, or
        the last one of each run."""
        runs = [run for run in table.runs_of(kind, edition, connection) if run.state == LIVE]
        before = self._kept.get(kind, {})
        self._kept[kind] = kept = {run.token: before.get(run.token) or _Kept() for run in runs}
        # What is searched for in order is found three times as fast.
        order = hashes.argsort()
        asked = hashes[order]
        bits = filter_bits(asked) if any(each.filter for each in kept.values()) else None
        positions: list[NDArray[np.intp]] = []
        rows: list[NDArray[np.int64]] = []
        for run in runs:
            of_run = kept[run.token]
            if run.size <= KEPT_ENTRIES:
                if of_run.entries is None:
                    of_run.entries = table.entries_in(run, 0, run.chunks - 1, connection)
                at, numbers = matches(of_run.entries, asked, only_last)
            else:
                at, numbers = self._rows_in_large(run, of_run, asked, bits, connection, only_last)
            if len(at):
                positions.append(order[at])
                rows.append(numbers)
        return (np.concatenate(positions), np.concatenate(rows)) if rows else (order[:0], NO_ROWS)

    def _rows_in_large(
        self,
        run: Run,
        kept: _Kept,
        hashes: Hashes,
        bits: FilterBits | None,
        connection: Connection,
        only_last: bool,
    ) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        places = kept.filter.may_hold(hashes, bits) if kept.filter and bits else np.arange(len(hashes))
        if not len(places):
            return places, NO_ROWS
        asked = hashes[places]
        positions, rows = [places[:0]], [NO_ROWS]
        chunks = chunks_of(run.fences, asked)
        for start in range(0, len(chunks), CHUNKS_AT_ONCE):
            entries = table.entries_of_chunks(run, chunks[start : start + CHUNKS_AT_ONCE].tolist(), connection)
            at, numbers = matches(entries, asked, only_last)
            positions.append(places[at])
            rows.append(numbers)
        if kept.filter is None:
            # A filter is made once it has cost as much to have none.
            kept.read += len(chunks)
            if kept.read >= run.chunks:
                kept.filter = self._filter_of(run, connection)
        return np.concatenate(positions), np.concatenate(rows)

    def _filter_of(self, run: Run, connection: Connection) -> RunFilter | None:
        made = RunFilter(run.size, FILTER_BITS if run.size < LARGE_ENTRIES else FILTER_BITS_OF_LARGE)
        filters = [kept.filter for of_kind in list(self._kept.values()) for kept in list(of_kind.values())]
        if made.size_bytes + sum(each.size_bytes for each in filters if each) > FILTERS_BYTES:
            return None
        for first in range(0, run.chunks, CHUNKS_AT_ONCE):
            last = min(run.chunks, first + CHUNKS_AT_ONCE) - 1
            made.add(table.entries_in(run, first, last, connection))
        return made
