"""Sorted runs of a SQLite store in miniature: merges of all sizes happen within a few writes."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from aembed.stores._sqlite import _editions, _keys, _lookup, _run_table, _runs
from aembed.stores._sqlite._editions import FINGERPRINTS, IDS, state_of
from aembed.stores._sqlite._keys import Keys


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (_runs, _run_table):
        monkeypatch.setattr(module, "CHUNK_ENTRIES", 4)
    monkeypatch.setattr(_run_table, "REMOVED_AT_ONCE", 3)
    monkeypatch.setattr(_lookup, "KEPT_ENTRIES", 6)
    monkeypatch.setattr(_lookup, "CHUNKS_AT_ONCE", 2)
    for name, number in {
        "MERGED": 6,
        "MERGED_PER_ROW": 3,
        "TAKEN_OVER": 3,
        "ROWS_AT_ONCE": 5,
    }.items():
        monkeypatch.setattr(_keys, name, number)
    monkeypatch.setattr(_editions, "MOST_STALE", 30)


def shorten_hashes(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    """Many keys have the same one."""
    kept, ids, fingerprints = np.uint64(2**bits - 1), _runs.IdHash.of, _runs.hashes_of_fingerprints
    monkeypatch.setattr(_runs.IdHash, "of", lambda self, given: ids(self, given) & kept)
    monkeypatch.setattr(_keys, "hashes_of_fingerprints", lambda given: fingerprints(given) & kept)


def check_runs(path: Path) -> int:
    """The invariants of the file: ids are unique, and each row is found by its id and by its fingerprint. Returns how
    many rows there are."""
    keys = Keys()
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        state = state_of(connection)
        rows = connection.execute("SELECT rowid, id, fingerprint FROM aembed_rows").fetchall()
        assert [id for id, count in Counter(id for _, id, _ in rows).items() if count > 1] == []
        numbers = {id: number for number, id, _ in rows}
        assert keys.numbers_of(list(numbers), connection) == numbers
        paid = {fingerprint for *_, fingerprint in rows}
        assert {each for _, each, _ in keys.by_fingerprints(paid, "1", connection)} == paid
        assert not list(keys.by_ids(["no such id"], "1", connection))
        runs = [run for kind in (IDS, FINGERPRINTS) for run in _run_table.runs_of(kind, state.served, connection)]
        chunks = "SELECT count(*) FROM aembed_run_chunks"
        held = "SELECT coalesce(sum(length(fences) / 8 - 1), 0) FROM aembed_runs"
        assert connection.execute(chunks).fetchone() == connection.execute(held).fetchone()
        for run in runs:
            entries = _run_table.entries_in(run, 0, run.chunks - 1, connection)
            assert len(entries) == run.size
            assert (entries[1:] > entries[:-1]).all()
    return len(rows)
