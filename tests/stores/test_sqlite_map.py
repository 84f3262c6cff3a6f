"""A SQLite store that is searched by its map: the answers are those of reading all rows, whatever happens to the rows,
to the map and to the processes."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from aembed import SQLiteStore
from aembed.results import Report
from aembed.stores._search import Best, NearestQuery, SearchChunk, find_nearest
from aembed.stores._sqlite import _changes as changes
from aembed.stores._sqlite import _rows as sql
from aembed.stores._sqlite._filling import hooks_of
from aembed.stores._sqlite._making import map_path
from aembed.types import Matrix, Space, Vector
from tests.stores.samples import Unprivileged, rows, vectors
from tests.stores.vector_kinds import KINDS

pytestmark = pytest.mark.usefixtures("small_maps")
D = 24
Answer = list[tuple[str, float]]


def names(n: int) -> list[str]:
    return [f"{i:05}" for i in range(n)]


async def filled(path: Path, matrix: Matrix, metadata: Sequence[dict[str, Any]] | None = None) -> SQLiteStore:
    store = SQLiteStore(path)
    await store.prepare(Space("fake", "letters", matrix.shape[1]))
    await store.write(rows(names(len(matrix)), matrix, metadata=metadata))
    return store


async def making(store: SQLiteStore) -> None:
    """Waits until the map that is being made is there, or is given up."""
    if store._maker._running:
        await asyncio.wrap_future(store._maker._running)


async def mapped(store: SQLiteStore) -> SQLiteStore:
    """Searches until there is a map."""
    dimensions = (await store.info()).space.dimensions  # type: ignore[union-attr]
    query = np.ones(dimensions or 1, np.float32)
    for _ in range(3):
        await store.search(query, 1)
        await making(store)
    assert has_map(store)
    return store


def has_map(store: SQLiteStore) -> bool:
    return store._map._mapped is not None


def maps(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir() if "-map-" in each.name)


def map_of(path: Path) -> Path:
    """The one that the database names."""
    with closing(sqlite3.connect(path)) as connection:
        ((token,),) = connection.execute("SELECT rowid FROM aembed_maps").fetchall()
    return map_path(path, token)


def expected(path: Path, query: Vector, k: int, where: Callable[[str], bool] = lambda id: True) -> Answer:
    """By reading all rows."""
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        found = connection.execute("SELECT id, embedding FROM aembed_rows").fetchall()
    kept = [(id, np.frombuffer(blob, "<f4")) for id, blob in found if where(id)]
    if not kept:
        return []
    ids, matrix = [id for id, _ in kept], np.stack([row for _, row in kept])
    exact = Best(NearestQuery(query, k), [])
    exact.add(ids, matrix)
    assert find_nearest(query, [SearchChunk.from_rows(ids, matrix)], k) == exact.found()
    return exact.found()


async def answer(store: SQLiteStore, query: Vector, k: int, where: dict[str, Any] | None = None) -> Answer:
    return [(match.id, match.score) for match in await store.search(query, k, where=where)]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Has an entry for each search that read all rows."""
    seen: list[object] = []
    whole = SQLiteStore._chunks_to_search

    def noted(self: SQLiteStore, *rest: Any) -> Any:
        seen.append(rest)
        return whole(self, *rest)

    monkeypatch.setattr(SQLiteStore, "_chunks_to_search", noted)
    return seen


@pytest.mark.parametrize("d", [2, 24, 200])
@pytest.mark.parametrize("kind", KINDS)
async def test_t24_answers_are_those_of_reading_all_rows(
    kind: str, d: int, tmp_path: Path, reads: list[object]
) -> None:
    random = np.random.default_rng(d)
    matrix = KINDS[kind](random, 1200, d)
    store = await mapped(await filled(tmp_path / "notes.db", matrix, [{"n": i % 3} for i in range(1200)]))
    reads.clear()
    asked = np.concatenate([KINDS[kind](random, 15, d), KINDS["plain"](random, 5, d), matrix[:3]])
    for query in asked:
        for k in (1, 7):
            assert await answer(store, query, k) == expected(tmp_path / "notes.db", query, k)
        among = await answer(store, query, 4, {"n": 1})
        assert among == expected(tmp_path / "notes.db", query, 4, lambda id: int(id) % 3 == 1)
        among = await answer(store, query, 4, {"n": [0, 2]})
        assert among == expected(tmp_path / "notes.db", query, 4, lambda id: int(id) % 3 != 1)
    assert len(reads) <= 4 * (~asked.any(axis=1)).sum(), "all but queries of length 0 are answered by the map"
    query = asked[-1]
    assert await answer(store, query, 5000) == expected(tmp_path / "notes.db", query, 5000)
    await store.aclose()


async def test_t24_many_searches_at_once(tmp_path: Path, reads: list[object]) -> None:
    path, random = tmp_path / "notes.db", np.random.default_rng(1)
    store = await mapped(await filled(path, KINDS["of_one_direction"](random, 900, D), [{"n": i} for i in range(900)]))
    reads.clear()
    asked = KINDS["of_one_direction"](random, 90, D)
    found = await asyncio.gather(*(answer(store, query, 1 + i % 9) for i, query in enumerate(asked)))
    assert found == [expected(path, query, 1 + i % 9) for i, query in enumerate(asked)]
    assert not reads
    # Where one row of 900 passes, all rows are read.
    assert await answer(store, asked[0], 2, {"n": 17}) == expected(path, asked[0], 2, lambda id: id == "00017")
    await store.aclose()


INSERT = """INSERT INTO aembed_rows (id, fingerprint, digest, updated_at, text, embedding)
    VALUES (?, ?, ?, ?, ?, ?)"""


def change(connection: sqlite3.Connection, random: Random, step: int) -> None:
    """What the sqlite3 shell may do to a store. A vector comes with another fingerprint: rows that are kept in memory,
    where there is no map, are told apart by it."""
    a, b = (f"{random.randrange(90):02}" for _ in range(2))
    blob = vectors(1, D, seed=step)[0].tobytes()
    (held,) = connection.execute("SELECT coalesce(max(rowid), 0) FROM aembed_rows").fetchone()
    number = random.randrange(1, held + 3)
    values = (a, blob, b"x", "2026", "text", blob)
    statements: list[tuple[str, tuple[object, ...]]] = [
        ("UPDATE OR IGNORE aembed_rows SET id = id || 'x' WHERE id = ?", (a,)),
        ("UPDATE aembed_rows SET embedding = ?, fingerprint = ? WHERE id = ?", (blob, blob, a)),
        ("UPDATE OR REPLACE aembed_rows SET id = ?, embedding = ?, fingerprint = ? WHERE id = ?", (a, blob, blob, b)),
        ("UPDATE OR FAIL aembed_rows SET embedding = ?, fingerprint = ? WHERE id >= ?", (blob, blob, a)),
        ("UPDATE OR ROLLBACK aembed_rows SET embedding = ?, fingerprint = ? WHERE id IN (?, ?)", (blob, blob, a, b)),
        ("UPDATE OR IGNORE aembed_rows SET rowid = ? WHERE id = ?", (number, a)),
        ("UPDATE OR REPLACE aembed_rows SET rowid = ? WHERE id = ?", (number, a)),
        ("UPDATE aembed_rows SET rowid = rowid + 7 WHERE rowid = ?", (held,)),
        (INSERT.replace("INSERT", "INSERT OR REPLACE"), values),
        (INSERT.replace("INSERT", "INSERT OR IGNORE"), values),
        ("INSERT OR REPLACE INTO aembed_rows (rowid, id, fingerprint, digest, updated_at, text, embedding) "
         "VALUES (?, ?, ?, ?, ?, ?, ?)", (number, *values)),
        ("DELETE FROM aembed_rows WHERE id IN (?, ?)", (a, b)),
        ("DELETE FROM aembed_rows WHERE rowid = ?", (held,)),
        ("UPDATE aembed_rows SET metadata = '{}' WHERE id > ?", (a,)),
        ("VACUUM", ()),
    ]  # fmt: skip
    statement, parameters = random.choice(statements)
    connection.execute(statement, parameters)


@pytest.mark.parametrize("seed", range(12))
async def test_t24_a_map_tells_nothing_that_the_rows_do_not(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are written, renamed, moved and removed here and by others; maps are made and published in between."""
    monkeypatch.setattr("aembed.stores._sqlite._making._MOST_UNKNOWN", 15)
    random, path = Random(seed), tmp_path / "notes.db"
    store, other = await filled(path, vectors(60, D)), SQLiteStore(path)
    answered_by_map = 0
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
        for step in range(60):
            match random.randrange(5):
                case 0:
                    ids = sorted({f"{random.randrange(90):02}" for _ in range(random.choice([1, 3, 20]))})
                    writer = random.choice([store, other])
                    await writer.write(rows(ids, vectors(len(ids), D, seed=step), edition=str(step)))
                case 1:
                    await store.delete([f"{random.randrange(90):02}"])
                case 2 | 3:
                    change(connection, random, step)
                case _:
                    await making(store)
            query = vectors(1, D, seed=1000 + step)[0]
            assert await answer(store, query, 7) == expected(path, query, 7), step
            answered_by_map += has_map(store)
            if random.random() < 0.3:
                await making(store)
    assert answered_by_map > 10
    await other.aclose()
    await store.aclose()


WRITER = """
import sqlite3, sys, time, random
import numpy as np
connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
connection.execute("PRAGMA synchronous = OFF")
chance, until = random.Random(1), time.monotonic() + float(sys.argv[2])
print("began", flush=True)
while time.monotonic() < until:
    number = chance.randrange(700)
    blob = np.random.default_rng(number).standard_normal(24, dtype=np.float32).tobytes()
    connection.execute(chance.choice([
        "UPDATE aembed_rows SET embedding = ?1, fingerprint = ?1 WHERE id = ?2",
        "DELETE FROM aembed_rows WHERE id = ?2 AND length(?1)",
        "INSERT OR REPLACE INTO aembed_rows (number, id, fingerprint, digest, updated_at, text, embedding)"
        " VALUES ((SELECT number FROM aembed_rows WHERE id = ?2), ?2, ?1, x'00', '2026', 'text', ?1)",
    ]), (blob, f"{number:05}"))
    time.sleep(chance.choice([0, 0, 0.001, 0.03]))
"""


@contextmanager
def begun(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that has told that it begins."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        yield process


async def test_t24_answers_while_another_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aembed.stores._sqlite._making._MOST_UNKNOWN", 20)
    path = tmp_path / "notes.db"
    store = await mapped(await filled(path, vectors(500, D)))
    compared = by_map = number = 0
    with begun(WRITER, path, "4") as writer, closing(sqlite3.connect(path, timeout=10)) as connection:
        while writer.poll() is None:
            query, number = vectors(1, D, seed=number)[0], number + 1
            (before,) = connection.execute("PRAGMA data_version").fetchone()
            connection.execute("SELECT 1 FROM aembed_meta").fetchone()
            found, true = await answer(store, query, 5), expected(path, query, 5)
            (after,) = connection.execute("PRAGMA data_version").fetchone()
            if before == after:
                assert found == true
                compared, by_map = compared + 1, by_map + has_map(store)
    await making(store)
    assert await answer(store, query, 5) == expected(path, query, 5)
    await store.aclose()
    assert by_map > 20


async def test_t24_a_map_is_made_by_the_second_search_and_by_the_end_of_a_job(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    store = await filled(path, vectors(300, D))
    await store.search(vectors(1, D)[0], 1)
    await store.aclose()
    assert maps(path) == []
    store = SQLiteStore(path)
    await store.finish(Report(stored=300))
    await store.aclose()
    assert maps(path) == [map_of(path).name]
    assert os.stat(map_of(path)).st_mode & 0o777 == 0o600
    store = SQLiteStore(path)
    await store.search(vectors(1, D)[0], 1)
    assert has_map(store), "another process finds it at its first search"
    # A job that changed little leaves the map as it is; one that changed much makes another.
    before = map_of(path)
    await store.write(rows(["new"], vectors(1, D)))
    await store.finish(Report(stored=1))
    await making(store)
    assert map_of(path) == before
    many = [f"new {i}" for i in range(1100)]
    await store.write(rows(many, vectors(1100, D)))
    await store.finish(Report(stored=1100))
    await store.aclose()
    assert map_of(path) != before
    assert maps(path) == [map_of(path).name], "the one before is removed"


async def test_t24_a_small_store_gets_no_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aembed.stores._sqlite._making.MAPPED_FROM_BYTES", 300 * D * 4 + 1)
    path = tmp_path / "notes.db"
    store = await filled(path, vectors(300, D))
    for _ in range(4):
        await store.search(vectors(1, D)[0], 1)
    await store.finish(Report(stored=300))
    await store.aclose()
    assert maps(path) == []
    with closing(sqlite3.connect(path)) as connection:
        noting = "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND instr(sql, 'aembed_changes')"
        assert connection.execute(noting).fetchall() == [(0,)]


def restored_file(path: Path, backup: Path, connection: sqlite3.Connection) -> None:
    connection.close()
    shutil.copy(backup, path)
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def restored_online(path: Path, backup: Path, connection: sqlite3.Connection) -> None:
    with closing(sqlite3.connect(backup)) as source:
        source.backup(connection)


def restored_dump(path: Path, backup: Path, connection: sqlite3.Connection) -> None:
    """As text, in which no row has a number."""
    connection.close()
    with closing(sqlite3.connect(backup)) as source:
        script = "\n".join(source.iterdump())
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as target:
        target.executescript(script)


@pytest.mark.parametrize("has_newer", [False, True], ids=["the map of the backup", "a newer map"])
@pytest.mark.parametrize("restore", [restored_file, restored_online, restored_dump])
async def test_t24_a_backup_that_is_restored(
    restore: Callable[[Path, Path, sqlite3.Connection], None], has_newer: bool, tmp_path: Path
) -> None:
    path, backup = tmp_path / "notes.db", tmp_path / "backup.db"
    store = await mapped(await filled(path, vectors(300, D)))
    # Numbers with gaps, so that a dump numbers the rows anew.
    await store.delete(names(300)[:100:7])
    await store.write(rows(["written before"], vectors(1, D, seed=9)))
    await store.aclose()
    old = map_of(path)
    kept = old.read_bytes()
    with closing(sqlite3.connect(path)) as connection, closing(sqlite3.connect(backup)) as target:
        connection.backup(target)
    store = SQLiteStore(path)
    await store.write(rows(names(300)[:150], vectors(150, D, seed=5)))
    await store.delete(names(300)[150:200])
    if has_newer:
        await store.write(rows([f"new {i}" for i in range(1200)], vectors(1200, D, seed=6)))
        await store.finish(Report())
    await store.aclose()
    restore(path, backup, sqlite3.connect(path, isolation_level=None))
    old.write_bytes(kept)
    store = SQLiteStore(path)
    for number in range(25):
        query = vectors(1, D, seed=100 + number)[0]
        assert await answer(store, query, 9) == expected(path, query, 9), number
    await mapped(store)
    assert await answer(store, query, 9) == expected(path, query, 9)
    await store.aclose()


def of_another_database(path: Path, there: Path) -> None:
    shutil.copy(map_of(path.with_name("other.db")), there)


def cut(path: Path, there: Path) -> None:
    os.truncate(there, there.stat().st_size - 100)


def emptied(path: Path, there: Path) -> None:
    os.truncate(there, 0)


def flipped_codes(path: Path, there: Path) -> None:
    data = bytearray(there.read_bytes())
    data[4096 + 1000] ^= 4
    there.write_bytes(data)


def flipped_columns(path: Path, there: Path) -> None:
    data = bytearray(there.read_bytes())
    data[-2000] ^= 16
    there.write_bytes(data)


def a_folder(path: Path, there: Path) -> None:
    there.unlink()
    there.mkdir()


def gone(path: Path, there: Path) -> None:
    there.unlink()


@pytest.mark.parametrize(
    "harm",
    [of_another_database, cut, emptied, flipped_codes, flipped_columns, a_folder, gone],
    ids=lambda h: h.__name__,
)
async def test_t24_a_map_that_is_not_as_it_was_written_is_thrown_away(
    harm: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "notes.db"
    for name in ("other.db", "notes.db"):
        store = await mapped(await filled(tmp_path / name, vectors(300, D, seed=len(name))))
        await store.aclose()
    there = map_of(path)
    harm(path, there)
    store = SQLiteStore(path)
    for number in range(6):
        query = vectors(1, D, seed=100 + number)[0]
        assert await answer(store, query, 9) == expected(path, query, 9)
        await making(store)
    if harm is not a_folder:
        assert has_map(store)
        assert map_of(path) != there
        assert not there.exists()
    await store.aclose()


async def test_t24_a_map_that_is_cut_while_it_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    store = await mapped(await filled(path, vectors(300, D)))
    os.truncate(map_of(path), 5000)
    for number in range(4):
        query = vectors(1, D, seed=number)[0]
        assert await answer(store, query, 9) == expected(path, query, 9)
        await making(store)
    assert has_map(store)
    await store.aclose()


MAKER = """
import asyncio, sys
from aembed import SQLiteStore
from aembed.results import Report
from aembed.stores._sqlite import _making
_making.MAPPED_FROM_BYTES, _making._PAGE_BYTES, _making._ABANDONED_AFTER = 1, 4 * 24 * 20, 0
_making.is_stale = lambda unknown, known: True

async def main():
    store = SQLiteStore(sys.argv[1])
    await store.search(__import__("numpy").ones(24, "f4"), 1)
    print("begins", flush=True)
    while True:
        await store.finish(Report())
        await asyncio.wrap_future(store._maker._running)
        store._maker._rests_until = 0

asyncio.run(main())
"""


async def test_t24_a_process_that_is_killed_while_it_makes_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aembed.stores._sqlite._making._ABANDONED_AFTER", 0)
    path, chance = tmp_path / "notes.db", Random(5)
    await (await filled(path, vectors(3000, D))).aclose()
    left = set[str]()
    for number in range(8):
        with begun(MAKER, path) as maker:
            await asyncio.sleep(chance.uniform(0, 0.3))
            maker.send_signal(signal.SIGKILL)
        left |= set(maps(path))
        store = SQLiteStore(path)
        await store.write(rows([f"{number:05}"], vectors(1, D, seed=number)))
        for seed in range(3):
            query = vectors(1, D, seed=100 * number + seed)[0]
            assert await answer(store, query, 9) == expected(path, query, 9)
            await making(store)
        await store.aclose()
    assert len(left) > 1
    assert any(name.endswith(".part") for name in left), "some were killed while they wrote"
    store = SQLiteStore(path)
    await store.write(rows([f"new {i}" for i in range(1200)], vectors(1200, D)))
    await store.finish(Report())
    await store.aclose()
    assert maps(path) == [map_of(path).name], "what the killed ones left is removed"


async def test_t24_two_processes_make_one_map_between_them(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    store = await filled(path, vectors(300, D))
    part = map_path(path, 5).with_name(map_path(path, 5).name + ".part")
    part.write_bytes(b"another process writes it")
    for _ in range(3):
        await store.search(vectors(1, D)[0], 1)
        await making(store)
    assert maps(path) == [part.name]
    os.utime(part, (0, 0))
    await mapped(store)
    assert maps(path) == [map_of(path).name], "that one was killed long ago"
    await store.aclose()


async def test_t24_what_was_begun_later_is_published(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    await (await filled(path, vectors(30, D))).aclose()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        first = changes.begin(sql.NOTED, connection)
        second = changes.begin(sql.NOTED, connection)
        assert not changes.publish(sql.NOTED, first, 17, connection)
        connection.execute("UPDATE aembed_rows SET text = 'other' WHERE id = '00003'")
        assert changes.publish(sql.NOTED, second, 18, connection)
        assert changes.changed(sql.NOTED, connection).tolist() == [4]
        third = changes.begin(sql.NOTED, connection)
        connection.execute("CREATE TABLE another (a)")
        assert not changes.publish(sql.NOTED, third, 19, connection)


async def test_t24_nothing_is_noted_without_a_map_nor_of_rows_beyond_it(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    store = await mapped(await filled(path, vectors(30, D)))
    await store.write(rows([f"new {i}" for i in range(50)], vectors(50, D)))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert changes.changed(sql.NOTED, connection).tolist() == []
        for _ in range(3):
            connection.execute("UPDATE aembed_rows SET text = text || '!'")
        assert len(changes.changed(sql.NOTED, connection)) == 30
        assert hooks_of("aembed_rows", connection) == [], "they are no reason to look at each row that is written"
        triggers = list(sql.NOTED.triggers())
        connection.execute(f"DROP TRIGGER {triggers[1]}")
        connection.execute("UPDATE aembed_rows SET embedding = ? WHERE id = '00003'", (vectors(1, D, 77).tobytes(),))
    query = vectors(1, D, 77)[0]
    assert (await answer(store, query, 1))[0][0] == "00003", "a map without its triggers is not used"
    assert not has_map(store)
    await mapped(store)
    assert (await answer(store, query, 1))[0][0] == "00003"
    await store.aclose()


async def test_t24_a_store_that_may_not_be_written_is_searched_without_a_map(
    public_folder: Path, unprivileged: Unprivileged
) -> None:
    path = public_folder / "notes.db"
    await (await filled(path, vectors(300, D))).aclose()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    os.chmod(path, 0o444)
    os.chmod(public_folder, 0o555)
    with unprivileged():
        store = SQLiteStore(path)
        for number in range(4):
            query = vectors(1, D, seed=number)[0]
            assert await answer(store, query, 5) == expected(path, query, 5)
            await making(store)
        assert not has_map(store)
        await store.aclose()


async def test_t24_a_row_that_holds_nan_is_no_reason_for_a_wrong_order(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    store = await mapped(await filled(path, vectors(30, D)))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE aembed_rows SET embedding = ? WHERE id = '00003'", (b"\xff" * 4 * D,))
    for _ in range(3):
        await store.search(vectors(1, D)[0], 3)
        await making(store)
    assert not has_map(store)
    await store.aclose()


async def test_t24_a_vector_of_another_width_is_told_as_before(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    store = await mapped(await filled(path, vectors(30, D)))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE aembed_rows SET embedding = x'00' WHERE id = '00003'")
    with pytest.raises(Exception, match="not 24 float32"):
        await store.search(vectors(1, D)[0], 3)
    await store.aclose()


async def test_t24_many_equal_rows_are_read_a_few_at_a_time(tmp_path: Path, reads: list[object]) -> None:
    import tracemalloc

    path = tmp_path / "notes.db"
    store = await mapped(await filled(path, np.tile(vectors(1, 128), (30_000, 1))))
    reads.clear()
    tracemalloc.start()
    try:
        assert [id for id, _ in await answer(store, vectors(1, 128, 5)[0], 3)] == names(3)
        (_, peak) = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not reads
    assert peak < 8e6, "15 MB of vectors"
    await store.aclose()
