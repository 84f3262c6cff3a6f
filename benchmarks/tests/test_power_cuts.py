from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from benchmarks.promises.power_cuts import run, weakened
from tests.stage.power import Inode, library, recorded

CUTS = 100


@pytest.fixture(autouse=True)
def watched() -> None:
    try:
        library()
    except (LookupError, OSError) as error:
        pytest.skip(str(error))


def test_s18_after_a_hundred_power_cuts_every_acknowledged_row_is_there() -> None:
    tally = run(CUTS)
    assert tally.problems == []
    assert (tally.cuts, tally.lost) == (CUTS, 0)
    assert tally.acknowledged > 50 * CUTS


@pytest.mark.parametrize("synchronous", ["normal", "off"])
def test_the_same_power_cuts_lose_rows_where_writes_are_not_synced(synchronous: str) -> None:
    with weakened(synchronous):
        tally = run(50)
    assert tally.with_loss >= 5
    assert tally.lost > tally.acknowledged / 50


def test_what_was_synced_stays_and_what_was_not_may_go() -> None:
    inode = Inode()
    inode.write(0, b"a" * 1_000)
    inode.sync()
    inode.write(500, b"b" * 1_000)
    inode.write(1_400, b"c" * 10)
    assert inode.after_cut(1.0, Random(0)) == b"a" * 500 + b"b" * 900 + b"c" * 10 + b"b" * 90
    seen = {inode.after_cut(0.5, Random(seed)) for seed in range(200)}
    assert {len(content) for content in seen} == {1_000, 1_500}
    assert all(content[:500] == b"a" * 500 for content in seen)
    # Sectors are whole: what was not synced is there from their start on, or from nowhere.
    assert {content[500:1_000] for content in seen} == {
        former + latter for former in (b"a" * 12, b"b" * 12) for latter in (b"a" * 488, b"b" * 488)
    }


def test_a_deleted_file_may_come_back_until_its_folder_is_synced(tmp_path: Path) -> None:
    with recorded(tmp_path) as disk, closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE a (b)")
        disk.note("created")
        connection.close()
    kinds = [kind for kind, *_ in disk.operations]
    assert {"open", "write", "sync", "folder", "note", "delete"} <= set(kinds)
    assert "folder" in kinds[: kinds.index("note")]
    last = len(kinds)
    names = {frozenset(cut.files) for seed in range(20) for cut in disk.cuts([last], Random(seed))}
    assert names == {frozenset({"a.db"}), frozenset({"a.db", "a.db-wal"})}


def test_the_connections_of_others_are_the_usual_ones_again(tmp_path: Path) -> None:
    with recorded(tmp_path) as disk:
        pass
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute("CREATE TABLE a (b)")
    assert disk.operations == []
