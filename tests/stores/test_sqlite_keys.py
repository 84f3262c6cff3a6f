"""Ids and fingerprints of a SQLite store, found by sorted runs: whoever writes, whatever ends a merge."""

from __future__ import annotations

import gzip
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from aembed import Space, SQLiteStore
from aembed.core.filters import Filter
from aembed.stores._sqlite._editions import state_of
from aembed.stores._sqlite._keys import Keys
from aembed.types import Known
from tests.stage.power import Cut, recorded
from tests.stores.samples import SPACE, digest, digests, fingerprint, fingerprints, query, rows, vectors
from tests.stores.small_runs import check_runs, shorten_hashes, shrink

ROOT = Path(__file__).parent.parent.parent
MADE_BEFORE = ROOT / "tests" / "made_before" / "2026_11_26"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notes.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(path)
    await store.prepare(SPACE)
    yield store
    await store.aclose()


def run(path: Path, statement: str, *parameters: object) -> None:
    """As the sqlite3 shell."""
    with closing(sqlite3.connect(path, timeout=30)) as connection, connection:
        connection.execute(statement, parameters)


COPY = """INSERT INTO aembed_rows (id, fingerprint, digest, updated_at, text, embedding)
    SELECT id, ?, digest, updated_at, text, embedding FROM aembed_rows WHERE id = ?"""


async def check(store: SQLiteStore, held: dict[str, str]) -> None:
    """`held` has the edition of each id."""
    ids = [*held, "nobody"]
    asked = {id: digest(id, held.get(id, "1")) for id in ids}
    assert await store.known(asked, fingerprints(ids)) == Known(frozenset(held), frozenset(), {})
    paid = await store.vectors({fingerprint(id, edition) for id, edition in held.items()} | {b"nobody"})
    assert paid.keys() == {fingerprint(id, edition) for id, edition in held.items()}
    assert [(row.id, row.index) async for row in store.rows()] == [(id, i) for i, id in enumerate(sorted(held))]


@pytest.mark.parametrize("bits", [32, 2])
@pytest.mark.parametrize("seed", range(4))
async def test_t27_runs_say_what_a_dictionary_says(
    path: Path, store: SQLiteStore, seed: int, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two stores write to the file, rows are replaced and removed, files opened anew; and others write, too."""
    shrink(monkeypatch)
    shorten_hashes(monkeypatch, bits)
    random, held, other = Random(seed), dict[str, str](), SQLiteStore(path)
    await other.prepare(SPACE)
    for step in range(100):
        ids = random.sample([f"{n:02}" for n in range(70)], random.choice([1, 1, 3, 25]))
        writer = random.choice([store, other])
        match random.randrange(12):
            case 0 | 1:
                there = [id for id in ids if id in held]
                assert await writer.delete(ids) == len(there)
                for id in there:
                    del held[id]
            case 2:
                run(path, "DELETE FROM aembed_rows WHERE id >= ?", ids[0])
                held = {id: edition for id, edition in held.items() if id < ids[0]}
            case 3 if ids[0] in held and "new" not in held:
                run(path, "UPDATE aembed_rows SET id = 'new' WHERE id = ?", ids[0])
                await writer.delete(["new"])
                del held[ids[0]]
            case 4 if held:
                run(path, "UPDATE aembed_rows SET rowid = rowid + 7 WHERE rowid = (SELECT max(rowid) FROM aembed_rows)")
            case 5 if ids[0] in held:
                # Without a primary key nobody is told of a double; the last one is meant.
                run(path, COPY, f"{step}".encode(), ids[0])
                await writer.write(rows(ids[:1], edition=str(step)))
                held[ids[0]] = str(step)
            case 6:
                await other.aclose()
                other = SQLiteStore(path)
            case _:
                edition = random.choice(["1", str(step)])
                await writer.write(rows(ids, vectors(len(ids), seed=step), edition=edition))
                held |= dict.fromkeys(ids, edition)
        await check(random.choice([store, other]), held)
        assert check_runs(path) == len(held)
    runs = query(path, "SELECT max(size), count(*) FROM aembed_runs WHERE state = 'live'")
    assert runs[0][0] > 16, "large ones were merged"
    await other.aclose()


async def test_t27_an_id_that_is_given_twice_stands_once(store: SQLiteStore, path: Path) -> None:
    twice = rows(["a", "b", "a"])
    await store.write(replace(twice, texts=["first", "b", "last"]))
    assert query(path, "SELECT id, text FROM aembed_rows ORDER BY id") == [("a", "last"), ("b", "b")]
    assert check_runs(path) == 2


async def test_t27_thousands_of_equal_texts(path: Path, store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    for start in range(0, 600, 100):
        given = rows([f"{number:04}" for number in range(start, start + 100)])
        await store.write(replace(given, fingerprints=[b"the same"] * 100))
    await store.delete([f"{number:04}" for number in range(600) if number != 77])
    assert (await store.vectors({b"the same"})).keys() == {b"the same"}, "whichever is left"
    assert check_runs(path) == 1


async def test_t27_what_is_gone_does_not_pile_up(
    path: Path, store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink(monkeypatch)
    for edition in range(60):
        await store.write(rows([f"{number:02}" for number in range(20)], edition=str(edition)))
        if edition % 3 == 0:
            await store.delete([f"{number:02}" for number in range(10)])
        assert check_runs(path) in (10, 20)
    size = query(path, "SELECT sum(size) FROM aembed_runs WHERE state = 'live' AND kind = 'fingerprint'")
    assert size[0][0] < 500, "of 1,200 that were written"
    with closing(sqlite3.connect(path)) as connection:
        assert state_of(connection).served > 1


async def test_t27_a_filter_saves_reading(path: Path, store: SQLiteStore) -> None:
    for start in range(0, 40_000, 10_000):
        await store.write(rows([f"{number:06}" for number in range(start, start + 10_000)]))
    asked = [f"new {number}" for number in range(2_000)]
    keys, reads = Keys(), list[str]()
    with closing(sqlite3.connect(path)) as connection:
        for _ in range(3):
            reads.clear()
            connection.set_trace_callback(lambda sql: reads.append(sql) if "run_chunks" in sql else None)
            assert not keys.numbers_of(asked, connection)
        assert len(reads) <= 1
        assert len(keys.numbers_of([f"{number:06}" for number in range(40_000)], connection)) == 40_000


# takeover


def made_before(path: Path, records: int, edition: str = "1") -> None:
    """A store as earlier builds made it, with more rows."""
    path.write_bytes(gzip.decompress((MADE_BEFORE / "store.db.gz").read_bytes()))
    given = rows([f"{number:04}" for number in range(records)], edition=edition)
    columns = zip(given.ids, given.texts, given.fingerprints, given.digests, vectors(records, 8), strict=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM aembed_rows")
        connection.executemany(
            "INSERT INTO aembed_rows (id, text, fingerprint, digest, embedding, updated_at) "
            "VALUES (?, ?, ?, ?, ?, '2026')",
            [(*row, vector.tobytes()) for *row, vector in columns],
        )


def indexes(path: Path) -> list[object]:
    found = query(
        path, "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'aembed_rows' ORDER BY name"
    )
    return [name for (name,) in found]


async def check_old(store: SQLiteStore, held: dict[str, str]) -> None:
    asked = {id: digest(id, edition) for id, edition in held.items()}
    assert (await store.known(asked, {})).unchanged == held.keys()
    paid = {fingerprint(id, edition) for id, edition in held.items()}
    assert (await store.vectors(paid | {b"nobody"})).keys() == paid
    assert [row.id async for row in store.rows()] == sorted(held)


async def test_t27_a_store_made_before_is_taken_over_beside_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    made_before(path, 100)
    assert "aembed_rows_fingerprint" in indexes(path)
    held, store, pieces = {f"{number:04}": "1" for number in range(100)}, SQLiteStore(path), 0
    await check_old(store, held)
    assert query(path, "SELECT value FROM aembed_meta WHERE key = 'schema_version'") == [("1",)], (
        "reading changes nothing"
    )
    random = Random(1)
    while "aembed_rows_fingerprint" in indexes(path):
        ids = [f"{number:04}" for number in random.sample(range(130), 2)]
        await store.write(rows(ids, vectors(2, 8), edition=f"{pieces}"))
        held |= dict.fromkeys(ids, f"{pieces}")
        if pieces % 4 == 0:
            await store.delete(ids[:1])
            del held[ids[0]]
        pieces += 1
        await check_old(store, held)
    assert pieces > 8
    assert query(path, "SELECT value FROM aembed_meta WHERE key = 'schema_version'") == [("3",)], "earlier builds stop"
    assert indexes(path) == ["aembed_rows_source", "sqlite_autoindex_aembed_rows_1"]
    for step in range(30):
        ids = [f"{number:04}" for number in random.sample(range(150), 5)]
        await store.write(rows(ids, vectors(5, 8), edition=f"late {step}"))
        held |= dict.fromkeys(ids, f"late {step}")
        await check_old(store, held)
        assert check_runs(path) == len(held)
    await store.aclose()


async def test_t27_a_dump_of_such_a_store_is_read_in_again(path: Path, tmp_path: Path) -> None:
    """It numbers the rows anew, and what was in the runs is of others."""
    made_before(path, 60)
    store = SQLiteStore(path)
    await store.delete([f"{number:04}" for number in range(40) if number % 3])
    await store.write(rows(["new"], vectors(1, 8)))
    assert "aembed_rows_fingerprint" not in indexes(path)
    await store.aclose()
    with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(tmp_path / "again.db")) as again:
        again.executescript("\n".join(old.iterdump()))
    held = {id: "1" for (id,) in query(tmp_path / "again.db", "SELECT id FROM aembed_rows")}
    store = SQLiteStore(tmp_path / "again.db")
    await store.prepare(Space("fake", "fake", 8))
    await check_old(store, held)
    assert check_runs(tmp_path / "again.db") == len(held) == 35
    await store.aclose()


@pytest.mark.parametrize("number", [0, -5, 2**32 - 1, 2**40])
async def test_t27_a_store_whose_numbers_have_no_place_keeps_its_index(path: Path, number: int) -> None:
    made_before(path, 5)
    run(path, "UPDATE aembed_rows SET rowid = ? WHERE id = '0003'", number)
    store = SQLiteStore(path)
    await store.write(rows(["new"], vectors(1, 8)))
    await check_old(store, {"new": "1", **{f"{number:04}": "1" for number in range(5)}})
    assert "aembed_rows_fingerprint" in indexes(path)
    await store.aclose()


async def test_t27_a_new_store_has_no_index_over_random_keys(path: Path, store: SQLiteStore) -> None:
    await store.write(rows(["a"]))
    assert indexes(path) == ["aembed_rows_source"]


# others


async def test_t27_rows_that_others_insert_are_known(path: Path, store: SQLiteStore, tmp_path: Path) -> None:
    await store.write(rows(["a", "b"]))
    beside = SQLiteStore(tmp_path / "beside.db")
    await beside.prepare(SPACE)
    await beside.write(rows(["b", "c", "d"], edition="2"))
    await beside.aclose()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("ATTACH ? AS beside", (str(tmp_path / "beside.db"),))
        connection.execute(
            "INSERT INTO aembed_rows (id, source, fingerprint, digest, updated_at, text, metadata, embedding) "
            "SELECT id, source, fingerprint, digest, updated_at, text, metadata, embedding FROM beside.aembed_rows"
        )
    assert (await store.known(digests(["b", "c"], "2"), {})).unchanged == {"b", "c"}
    assert (await store.vectors({fingerprint("d", "2")})).keys() == {fingerprint("d", "2")}
    await store.write(rows(["e"]))
    assert [row.id async for row in store.rows()] == ["a", "b", "c", "d", "e"]
    assert check_runs(path) == 5


async def test_t27_a_row_put_between_others_is_found_by_searches(path: Path, store: SQLiteStore) -> None:
    await store.write(rows(["a", "b", "c"], vectors(3)))
    run(path, "DELETE FROM aembed_rows WHERE id = 'b'")
    run(
        path,
        "INSERT INTO aembed_rows (number, id, fingerprint, digest, updated_at, text, embedding) "
        "SELECT 2, 'other', x'00', x'00', '2026', 'text', embedding FROM aembed_rows WHERE id = 'a'",
    )
    assert {match.id for match in await store.search(vectors(3)[0], 3)} == {"a", "c", "other"}


async def test_t27_rows_come_once_and_in_order_while_they_change(
    path: Path, store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aembed.stores._sqlite._in_order.IDS_AT_ONCE", 10)
    monkeypatch.setattr("aembed.stores._row_pages.ROWS_PER_PAGE", 7)
    ids = [f"{number:03}" for number in Random(1).sample(range(100), 100)]
    await store.write(rows(ids))
    seen: list[str] = []
    async for row in store.rows():
        assert row.index <= len(seen)
        seen.append(row.id)
        if len(seen) % 5 == 0:
            await store.delete([f"{99 - len(seen) // 5:03}"])
            await store.write(rows([f"{98 - len(seen) // 5:03}"], edition="2"))
            gone = f"{50 + len(seen) // 5:03}"
            await store.delete([gone])
            await store.write(rows([gone]))
    assert seen == sorted(set(seen))
    assert {f"{number:03}" for number in range(80)} <= set(seen)


async def test_t27_rows_that_go_and_come_again_elsewhere_are_read_once(store: SQLiteStore) -> None:
    """In the order of the file, to which such rows are added at its end."""
    ids = [f"{number:03}" for number in range(100)]
    await store.write(rows(ids))
    seen: list[str] = []
    async for page in store._pages_in_any_order(Filter(), 10):
        seen += page.ids
        again = [seen[0], seen[-1], f"{99 - len(seen) // 10:03}"] if len(seen) <= 80 else []
        await store.delete(again)
        await store.write(rows([*again, f"new {len(seen)}"]))
    assert len(seen) == len(set(seen))
    assert set(ids) <= set(seen), "also those that went before they were read"
    assert len(seen) < 130, "what comes all the while has an end"


# kills, power cuts, two processes

WRITER = """
import asyncio, os, signal, sqlite3, sys
from pathlib import Path
import pytest
from aembed import SQLiteStore
from tests.stores.samples import SPACE, rows, vectors
from tests.stores.small_runs import shrink
path, first, last, die_at, every = sys.argv[1], *map(int, sys.argv[2:])
shrink(pytest.MonkeyPatch())
async def main():
    store, left = SQLiteStore(path), die_at
    await store.prepare(SPACE)
    def statement(sql):
        nonlocal left
        if "aembed_run" in sql or sql == "COMMIT":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    await store._database.read(lambda connection: connection.set_trace_callback(statement), None)
    for step in range(first, last, every):
        ids = [f"{number:04}" for number in range(step, step + every)]
        await store.write(rows(ids, vectors(every, seed=step)))
        print(*ids, flush=True)
    await store.aclose()
asyncio.run(main())
"""


def process(path: Path, *numbers: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), *map(str, numbers)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


async def test_t27_a_merge_whose_process_is_killed_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process dies at another statement of a merge, and the next one goes on with what it has left."""
    shrink(monkeypatch)
    random, acknowledged, first = Random(1), set[str](), 0
    for _ in range(14):
        victim = process(path, first, first + 400, random.randrange(1, 600), random.choice([1, 3, 10]))
        out, _ = victim.communicate()
        assert victim.returncode in (0, -signal.SIGKILL)
        acknowledged |= set(out.split())
        assert acknowledged <= {id for (id,) in query(path, "SELECT id FROM aembed_rows")}
        check_runs(path)
        first = max(map(int, acknowledged), default=0) - 5
    store = SQLiteStore(path)
    assert (await store.known(digests(sorted(acknowledged)), {})).unchanged == acknowledged
    await store.aclose()
    assert len(acknowledged) > 100


def test_t27_two_processes_write_the_same_ids(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    writers = [process(path, first, first + 150, 0, every) for first, every in ((0, 3), (50, 1), (60, 5))]
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert check_runs(path) == 210


async def test_t27_power_cuts_while_runs_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    random, start, acknowledged = Random(2), Cut({}, []), set[str]()
    for _ in range(4):
        folder = tmp_path / f"{random.random()}"
        folder.mkdir()
        start.write(folder)
        with recorded(folder) as disk:
            store = SQLiteStore(folder / "notes.db")
            await store.prepare(SPACE)
            for _ in range(40):
                ids = random.sample([f"{number:04}" for number in range(400)], random.choice([1, 4, 10]))
                await store.write(rows(ids, vectors(len(ids))))
                disk.note(ids)
                if random.random() < 0.2:
                    run(folder / "notes.db", "PRAGMA wal_checkpoint")
            await store.aclose()
        points = sorted(random.randrange(1, len(disk.operations) + 1) for _ in range(8))
        for cut in disk.cuts(points, random):
            there = tmp_path / f"{random.random()}"
            there.mkdir()
            cut.write(there)
            due = acknowledged | {id for (ids,) in cut.notes for id in ids}
            if due:
                assert query(there / "notes.db", "PRAGMA integrity_check") == [("ok",)]
                assert due <= {id for (id,) in query(there / "notes.db", "SELECT id FROM aembed_rows")}
                check_runs(there / "notes.db")
        start, acknowledged = cut, due
    assert len(acknowledged) > 100
