"""A process that is frozen past the end of its leases and writes late: what others wrote since of newer texts stays."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import textwrap
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import numpy as np
import pytest

from aembed import Embedder, Record
from aembed.errors import RowsRefusedError, SpaceMismatchError
from aembed.protocols import Leases
from aembed.stores import open_column, open_store
from aembed.stores._lives import Lives
from aembed.types import Rows, Space
from tests.service.own_process import KEY, MODEL, ROOT, Service, serving
from tests.service.vectors import vector_of
from tests.stage.postgres import run_sql
from tests.stores.samples import SPACE, NewPlace, rows

ROWS, QUEUED = 20, 300
JOB = f"""
    import asyncio, sys
    from aembed import Embedder, Record
    from aembed.pipeline import leasing
    from aembed.stores import open_column
    leasing.LEASE_SECONDS = 0.6
    async def main(kind, place, url):
        async with Embedder({MODEL!r}, api_key={KEY!r}, base_url=url, max_batch_size=10, concurrency=2) as embedder:
            if kind == "store":
                report = await embedder.embed_into(place, [Record(str(n), f"old {{n}}") for n in range({ROWS})])
                print(report.stored, report.failed, report.failures[0])
            elif kind == "long":
                report = await embedder.embed_into(place, [Record(str(n), f"text {{n}}") for n in range({QUEUED})])
                print(report.stored, report.unchanged, report.failed)
            else:
                path, table = place.split("#")
                column = open_column(path, table, text="body")
                if path.startswith("postgresql"):
                    column._lease_seconds = 0.6
                report = await embedder.backfill(column)
                print(report.stored, report.unchanged, report.failed, flush=True)
    asyncio.run(main(*sys.argv[1:]))
"""
"""What it had sent is answered while it stands still."""


@asynccontextmanager
async def frozen(service: Service, *arguments: str) -> AsyncIterator[list[bytes]]:
    """Such a job, which goes on and ends with the context; yields what it has told by then."""
    pipe, told = asyncio.subprocess.PIPE, list[bytes]()
    code = ("-c", textwrap.dedent(JOB), *arguments, service.url)
    process = await asyncio.create_subprocess_exec(sys.executable, *code, cwd=ROOT, stdout=pipe, stderr=pipe)
    for _ in range(1_000):
        if (await service.ledger())["requests"] == 2:
            break
        await asyncio.sleep(0.02)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield told
    finally:
        os.kill(process.pid, signal.SIGCONT)
    told += await process.communicate()


@pytest.mark.parametrize("scheme", ["sqlite", "postgresql"])
async def test_c7_a_late_write_to_a_store_replaces_nothing_that_is_newer(
    scheme: str, tmp_path: Path, new_place: NewPlace
) -> None:
    """What nobody else has written it may write: it was paid for."""
    place = new_place(scheme, tmp_path)
    store = open_store(place)
    async with (
        serving("--key", KEY, "--latency", "0.7") as service,
        Embedder(MODEL, api_key=KEY, base_url=service.url) as embedder,
        frozen(service, "store", place) as told,
    ):
        newer = [Record(str(number), f"new {number}") for number in range(0, ROWS, 2)]
        report = await embedder.embed_into(store, newer)
        assert report.stored == ROWS // 2
    held = {row.id: row async for row in store.rows()}
    assert {id: row.text for id, row in held.items()} == {
        str(number): f"{'old' if number % 2 else 'new'} {number}" for number in range(ROWS)
    }
    assert all(np.array_equal(row.vector, vector_of(row.text or "")) for row in held.values())
    assert told[0].startswith(b"10 10 "), told
    assert b"was written by another job while this one stood still" in told[0]
    await store.aclose()


@pytest.mark.parametrize("scheme", ["sqlite", "postgresql"])
async def test_c7_a_worker_that_comes_back_buys_nothing_of_what_was_queued_and_is_written_by_now(
    scheme: str, tmp_path: Path, new_place: NewPlace
) -> None:
    """It asks for its leases again, and takes over what the others have paid for."""
    place = new_place(scheme, tmp_path)
    inputs = [Record(str(number), f"text {number}") for number in range(QUEUED)]
    async with (
        serving("--key", KEY, "--latency", "0.7") as service,
        Embedder(MODEL, api_key=KEY, base_url=service.url) as embedder,
    ):
        async with frozen(service, "long", place) as told:
            report = await embedder.embed_into(place, inputs)
            assert report.stored == QUEUED
        bought = sum((await service.texts()).values())
    assert bought <= QUEUED + 2 * 10, "no more than what was on its way when it was frozen"
    assert told[1] == b"", told
    assert sum(map(int, told[0].split())) == QUEUED, told


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_c7_a_worker_of_a_column_that_comes_back_buys_nothing_of_what_is_filled_by_now(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, table: str
) -> None:
    """The others took but a part; the 50 rows that are left have texts that earlier rows have, too."""
    path = str(tmp_path / "app.db")
    vector = "BLOB" if kind == "sqlite" else "vector(1536)"
    values = ", ".join(f"({number}, 'text {number % 200}')" for number in range(QUEUED))
    create = f"CREATE TABLE {table} (id int PRIMARY KEY, body text, embedding {vector})"
    insert = f"INSERT INTO {table} (id, body) VALUES {values}"  # noqa: S608
    empty = f"SELECT count(*) FROM {table} WHERE embedding IS NULL"  # noqa: S608
    if kind == "sqlite":
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(create)
            connection.execute(insert)
    else:
        path = request.getfixturevalue("database")
        await run_sql(path, create, insert)
    column = open_column(path, table, text="body")
    async with (
        serving("--key", KEY, "--latency", "0.7") as service,
        Embedder(MODEL, api_key=KEY, base_url=service.url) as embedder,
    ):
        async with frozen(service, "column", f"{path}#{table}") as told:
            if kind == "postgresql":
                await asyncio.sleep(1)
            report = await embedder.backfill(column, limit=QUEUED - 50)
            assert report.stored == QUEUED - 50
        bought = sum((await service.texts()).values())
    assert told[1] == b"", told
    assert bought <= 200 + 2 * 10 + 50, (
        "beside what was on its way when it was frozen only the rows that it still holds"
    )
    if kind == "sqlite":
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute(empty).fetchall() == [(0,)]
    else:
        assert (await run_sql(path, empty))[0][0] == 0
    await column.aclose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_c7_a_late_write_to_a_column_is_of_no_row_that_was_edited(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, table: str
) -> None:
    path, select = str(tmp_path / "app.db"), f"SELECT id, body, embedding FROM {table}"  # noqa: S608

    def here(*statements: str) -> list[tuple[int, str, bytes]]:
        with closing(sqlite3.connect(path, timeout=30)) as connection, connection:
            return [connection.execute(statement).fetchall() for statement in statements][-1]

    if kind == "postgresql":
        path, select = request.getfixturevalue("database"), select.replace("embedding", "vector_send(embedding)")
    vector = "BLOB" if kind == "sqlite" else "vector(1536)"

    async def sql(*statements: str) -> Sequence[tuple[int, str, bytes]]:
        return here(*statements) if kind == "sqlite" else await run_sql(path, *statements)

    values = ", ".join(f"({number}, 'old {number}')" for number in range(ROWS))
    create = f"CREATE TABLE {table} (id int PRIMARY KEY, body text, embedding {vector})"
    await sql(create, f"INSERT INTO {table} (id, body) VALUES {values}")  # noqa: S608
    column = open_column(path, table, text="body")
    async with (
        serving("--key", KEY, "--latency", "0.7") as service,
        Embedder(MODEL, api_key=KEY, base_url=service.url) as embedder,
        frozen(service, "column", f"{path}#{table}") as told,
    ):
        await sql(f"UPDATE {table} SET body = 'new ' || id WHERE id % 2 = 0")  # noqa: S608
        report = await embedder.backfill(column)
        assert report.stored == ROWS
    assert told[1] == b"", told
    for id, text, blob in await sql(select):
        assert text == f"{'old' if id % 2 else 'new'} {id}"
        held = np.frombuffer(blob, "<f4") if kind == "sqlite" else np.frombuffer(blob[4:], ">f4")
        assert np.array_equal(held, vector_of(text))
    await column.aclose()


@pytest.mark.parametrize("scheme", ["sqlite", "postgresql"])
async def test_c7_a_worker_whose_time_is_over_replaces_no_row_that_was_written_since(
    scheme: str, tmp_path: Path, new_place: NewPlace
) -> None:
    late, other = (open_store(place) for place in [new_place(scheme, tmp_path)] * 2)
    assert isinstance(late, Leases)
    await late.prepare(SPACE)
    await other.prepare(SPACE)
    await late.write(rows(["before", "same", "newer"]))
    await asyncio.sleep(1.1)
    joined = await late.join(0.2)
    assert joined
    await asyncio.sleep(0.3)
    await other.write(rows(["same", "newer", "new"], edition="2"))
    for sign_of_life in (False, True):
        if sign_of_life:
            await late.lease(joined[0], [], seconds=60.0)
        with pytest.raises(RowsRefusedError) as caught:
            await late.write(written_by(joined[0], rows(["before", "newer", "new", "first"], edition="3")))
        assert (sorted(caught.value.rows), caught.value.written) == (["new", "newer"], 2)
        await late.write(written_by(joined[0], rows(["same"], edition="2")))
    held = {row.id: row.text async for row in other.rows()}
    assert held == {
        "before": "text 3 of before",
        "first": "text 3 of first",
        "same": "text 2 of same",
        "newer": "text 2 of newer",
        "new": "text 2 of new",
    }
    await late.leave(joined[0])
    await late.write(written_by(joined[0], rows(["newer"], edition="4")))
    assert {row.text async for row in other.rows() if row.id == "newer"} == {"text 4 of newer"}
    await late.aclose()
    await other.aclose()


def written_by(token: int, held: Rows) -> Rows:
    columns = (held.ids, held.texts, held.metadata, held.sources, held.fingerprints, held.digests, held.matrix)
    return Rows(*columns, token=token)


@pytest.mark.parametrize("kind", ["store", "column"])
async def test_c7_a_late_write_of_another_model_is_refused(kind: str, tmp_path: Path) -> None:
    """Somebody has emptied the file and filled it with another model of the same width."""
    path, other_space = tmp_path / "a.db", Space("fake", "other", 4)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT, embedding BLOB)")
        connection.execute("INSERT INTO notes (id, body) VALUES (1, 'one')")
    matrix = np.ones((1, 4), np.float32)
    if kind == "store":
        late, other = open_store(path), open_store(path)
        await late.prepare(SPACE)
        await other.prepare(other_space)
        with pytest.raises(SpaceMismatchError, match="is for fake:other, 4 dimensions by now"):
            await late.write(rows(["1"], matrix))
        for each in (late, other):
            await each.aclose()
        return
    columns = [open_column(f"sqlite:///{path}", "notes", text="body") for _ in range(2)]
    await columns[0].prepare(SPACE)
    await columns[1].prepare(other_space)
    await columns[1].write(["1"], ["one"], matrix)
    with pytest.raises(SpaceMismatchError, match="is for fake:other, 4 dimensions by now"):
        await columns[0].write(["1"], ["one"], 2 * matrix)
    for column in columns:
        await column.aclose()


def test_c7_a_sign_of_life_after_the_silence_does_not_change_when_it_began() -> None:
    """Such a sign may come while the write that was refused is on its way back."""
    lives = Lives()
    lives.note_seen(1, 100.0, seconds=10.0)
    lives.note_seen(1, 120.0, seconds=10.0)
    life = lives.life_of(1)
    assert life is not None
    assert (life.lapse(), life.ends_at) == (100.0, 130.0)
