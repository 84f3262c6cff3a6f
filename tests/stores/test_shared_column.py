"""Jobs that fill one column of a SQLite table at once, in several processes or in one. The provider's ledger judges."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aembed import BadRequestError, Embedder, FakeProvider, SQLiteColumn
from aembed.pipeline import leased_elsewhere, leasing
from aembed.protocols import Shares
from aembed.types import Space
from tests.service.own_process import KEY, MODEL, ROOT, Service, serving
from tests.service.vectors import vector_of

BATCH, CONCURRENCY = 10, 2
ROWS = 300
JOB = f"""
    import asyncio, sys
    from aembed import Embedder, SQLiteColumn
    from aembed.pipeline import leasing
    leasing.LEASE_SECONDS = 3.0
    async def main(path, url):
        async with Embedder({MODEL!r}, api_key={KEY!r}, base_url=url, concurrency={CONCURRENCY},
                            max_batch_size={BATCH}) as embedder:
            print(await embedder.backfill(SQLiteColumn(path, "sections", text="body")), flush=True)
    asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def table(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """300 rows that are empty."""
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None, timeout=30)) as connection:
        connection.execute("CREATE TABLE sections (id INTEGER PRIMARY KEY, body TEXT, embedding BLOB)")
        insert(connection, range(ROWS))
        yield connection


def insert(table: sqlite3.Connection, numbers: range) -> None:
    table.execute("BEGIN")
    rows = [(number, f"text {number}") for number in numbers]
    table.executemany("INSERT INTO sections (id, body) VALUES (?, ?)", rows)
    table.execute("COMMIT")


def column(tmp_path: Path, **options: Any) -> SQLiteColumn:
    return SQLiteColumn(tmp_path / "app.db", "sections", text="body", **options)


def wrong_rows(table: sqlite3.Connection, dimensions: int = 1536) -> list[int]:
    """Rows without the vector of their text."""
    rows = table.execute("SELECT id, body, embedding FROM sections").fetchall()
    return [id for id, body, blob in rows if blob is None or not _is_of(blob, body, dimensions)]


def _is_of(blob: bytes, text: str, dimensions: int) -> bool:
    return np.array_equal(np.frombuffer(blob, "<f4"), vector_of(text, dimensions))


async def begin(tmp_path: Path, service: Service) -> asyncio.subprocess.Process:
    arguments = ["-c", textwrap.dedent(JOB), str(tmp_path / "app.db"), service.url]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, stdout=pipe, stderr=pipe)


async def until_sent(service: Service) -> None:
    for _ in range(1_000):
        if (await service.ledger())["requests"]:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("nothing was sent")


@pytest.mark.parametrize("mode", ["wal", "delete"])
async def test_t8_processes_share_the_rows_of_a_column_and_those_of_the_dead(
    mode: str, table: sqlite3.Connection, tmp_path: Path
) -> None:
    """Two of four are killed, and rows that are still empty are edited on the way."""
    table.execute(f"PRAGMA journal_mode = {mode}")
    async with serving("--key", KEY, "--latency", "0.4") as service:
        processes = [await begin(tmp_path, service) for _ in range(4)]
        await until_sent(service)
        await asyncio.sleep(0.5)
        for process in processes[:2]:
            os.kill(process.pid, signal.SIGKILL)
        edit = "UPDATE sections SET body = body || ' edited' WHERE embedding IS NULL AND id % 30 = 0"
        edited = table.execute(edit).rowcount
        told = await asyncio.gather(*[process.communicate() for process in processes])
        billed = await service.texts()
    for process, (_, error) in zip(processes[2:], told[2:], strict=True):
        assert process.returncode == 0, error.decode()
    assert ROWS <= sum(billed.values()) <= ROWS + edited + 2 * CONCURRENCY * BATCH
    assert wrong_rows(table) == []
    assert table.execute("SELECT count(*) FROM aembed_workers").fetchone() == (0,)


def sent(*providers: FakeProvider) -> Counter[str]:
    return Counter(text for each in providers for request in each.ledger.log for text in request.texts)


def slow(**options: Any) -> FakeProvider:
    return FakeProvider("fake", 8, keep_texts=True, **{"latency": 0.05, **options})


async def backfills(*jobs: tuple[FakeProvider, SQLiteColumn], batch: int = BATCH) -> list[int]:
    """At once, each by an Embedder of its own; how many rows each has filled."""
    embedders = [Embedder(provider, max_batch_size=batch, concurrency=CONCURRENCY) for provider, _ in jobs]
    pairs = zip(embedders, jobs, strict=True)
    reports = await asyncio.gather(*[embedder.backfill(column) for embedder, (_, column) in pairs])
    for embedder, (_, each) in zip(embedders, jobs, strict=True):
        await embedder.aclose()
        await each.aclose()
    assert all(report.failed == 0 for report in reports)
    return [report.stored for report in reports]


def filled(table: sqlite3.Connection) -> int:
    count: int = table.execute("SELECT count(embedding) FROM sections").fetchone()[0]
    return count


async def test_t8_two_embedders_of_one_process_share_a_column(table: sqlite3.Connection, tmp_path: Path) -> None:
    providers = slow(latency=0.15), slow(latency=0.15)
    stored = await backfills(*[(provider, column(tmp_path)) for provider in providers])
    assert max(sent(*providers).values()) == 1
    assert sum(stored) == ROWS == filled(table)
    assert min(provider.ledger.texts for provider in providers) > 0, "both of them have worked"


async def test_t8_two_jobs_of_one_embedder_share_a_column(table: sqlite3.Connection, tmp_path: Path) -> None:
    provider, one = slow(), column(tmp_path)
    async with Embedder(provider, max_batch_size=BATCH, concurrency=CONCURRENCY) as embedder:
        reports = await asyncio.gather(*[embedder.backfill(one) for _ in range(2)])
    await one.aclose()
    assert max(sent(provider).values()) == 1
    assert sum(report.stored for report in reports) >= ROWS == filled(table)


async def test_t8_equal_texts_of_several_rows_are_one_input_of_all_jobs(
    table: sqlite3.Connection, tmp_path: Path
) -> None:
    table.execute("UPDATE sections SET body = 'text ' || (id % 20)")
    providers = slow(latency=0.3), slow(latency=0.3)
    await backfills(*[(provider, column(tmp_path)) for provider in providers])
    assert sent(*providers) == Counter(f"text {number}" for number in range(20))
    assert filled(table) == ROWS


async def test_t8_beyond_what_others_hold_a_job_finds_rows_that_nobody_has(
    table: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leased_elsewhere, "MOST_WAITING", 3)
    insert(table, range(ROWS, 4 * ROWS))
    providers = slow(latency=0.15), slow(latency=0.15)
    stored = await backfills(*[(provider, column(tmp_path)) for provider in providers], batch=40)
    assert max(sent(*providers).values()) == 1
    assert sum(stored) == 4 * ROWS == filled(table)
    assert min(provider.ledger.texts for provider in providers) > 0


async def test_t8_a_limit_counts_what_a_job_has_filled_itself(table: sqlite3.Connection, tmp_path: Path) -> None:
    provider, one = slow(), column(tmp_path)
    async with Embedder(provider, max_batch_size=BATCH, concurrency=CONCURRENCY) as embedder:
        reports = await asyncio.gather(*[embedder.backfill(one, limit=limit) for limit in (50, 70)])
    await one.aclose()
    assert [report.stored for report in reports] == [50, 70]
    assert provider.ledger.texts == 120 == filled(table)


async def test_t8_what_was_refused_to_one_job_is_not_asked_for_by_another(
    table: sqlite3.Connection, tmp_path: Path
) -> None:
    def script(number: int, texts: Any) -> Exception | float:
        return BadRequestError("not this one", status_code=400) if "text 3" in texts else 0.05

    table.execute("DELETE FROM sections WHERE id >= 30")
    providers = slow(script=script), slow(script=script)
    embedders = [Embedder(provider, max_batch_size=BATCH, concurrency=CONCURRENCY) for provider in providers]
    columns = [column(tmp_path) for _ in providers]
    jobs = [embedder.backfill(each) for embedder, each in zip(embedders, columns, strict=True)]
    reports = await asyncio.gather(*jobs)
    for closing_one in (*embedders, *columns):
        await closing_one.aclose()
    assert [[failure.id for failure in report.failures] for report in reports] == [["3"], ["3"]]
    assert filled(table) == 29
    assert sent(*providers)["text 29"] == 1


async def test_t8_two_columns_of_one_table_do_not_stand_in_each_others_way(
    table: sqlite3.Connection, tmp_path: Path
) -> None:
    """The same texts, which each column is to have a vector of."""
    table.execute("ALTER TABLE sections ADD COLUMN other BLOB")
    providers = slow(), slow()
    await backfills((providers[0], column(tmp_path)), (providers[1], column(tmp_path, vector="other")))
    assert [provider.ledger.texts for provider in providers] == [ROWS, ROWS]
    assert table.execute("SELECT count(*) FROM sections WHERE embedding = other").fetchone() == (ROWS,)


async def test_t8_a_job_that_is_cancelled_frees_what_it_holds(
    table: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leasing, "LEASE_SECONDS", 3_600.0)
    first, second = column(tmp_path), column(tmp_path)
    async with Embedder(slow(script=lambda number, texts: 0.5)) as embedder:
        job = asyncio.create_task(embedder.backfill(first, limit=20))
        await asyncio.sleep(0.2)
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
    provider = slow()
    async with Embedder(provider) as embedder:
        report = await embedder.backfill(second)
    assert report.stored == provider.ledger.texts == ROWS - 20
    await first.aclose()
    await second.aclose()


async def test_t8_a_lease_of_a_column_is_one_workers_and_rows_tell_what_is_done(
    table: sqlite3.Connection, tmp_path: Path
) -> None:
    one, other = column(tmp_path), column(tmp_path, where="id < 100")
    assert isinstance(one, Shares)
    await one.prepare(Space("fake", "fake", 8))
    first, second = await one.join(60.0), await other.join(60.0)
    assert first is not None
    assert second is not None
    assert (first[1], second[1]) == (True, False)
    assert await other.lease(second[0], [b"1" * 16], seconds=60.0) == set(), "the first has not told what it holds"
    assert await one.lease(first[0], [b"1" * 16, b"2" * 16], seconds=60.0) == {b"1" * 16, b"2" * 16}
    assert await other.lease(second[0], [b"1" * 16, b"3" * 16], seconds=60.0) == {b"3" * 16}
    await one.leave(first[0])
    assert await other.lease(second[0], [b"1" * 16], seconds=60.0) == {b"1" * 16}
    vector = np.ones((1, 8), np.float32)
    await one.write(["1"], ["text 1"], vector)
    table.execute("UPDATE sections SET body = 'edited' WHERE id = 2")
    table.execute("DELETE FROM sections WHERE id = 4")
    told = await other.settled({str(id): f"text {id}" for id in (1, 2, 3, 4, 200)})
    found = told["1"]
    assert found is not None
    assert np.array_equal(found, vector[0])
    assert {id for id, each in told.items() if each is None} == {"2", "4", "200"}
    assert "3" not in told, "it is pending"
    await one.aclose()
    await other.aclose()
