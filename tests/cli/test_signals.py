from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from tests.cli.command import COMMAND, environment, notes, write_jsonl
from tests.service.server import Latency, Server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

TEXTS = 60
JOB = ("index", "a.jsonl", "-m", "openai:text-embedding-3-small", "--max-batch-size", "3", "--concurrency", "4")
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class SlowLater(Latency):
    """The first eight requests are answered at once, the others take their time."""

    def seconds(self, tokens: int, number: int) -> float:
        return 0.0 if number < 8 else 2.0


@asynccontextmanager
async def started(server: Server, cwd: Path) -> AsyncIterator[Process]:
    env = environment(OPENAI_BASE_URL=server.url)
    process = await asyncio.create_subprocess_exec(*COMMAND, *JOB, cwd=cwd, env=env, stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def ended(process: Process) -> tuple[str, str]:
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    return out.decode(), err.decode()


async def until_in_flight(server: Server, *, accepted: int) -> None:
    async with asyncio.timeout(30):
        while server.ledger.in_flight < 4 or server.ledger.accepted < accepted:  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_x4_a_signal_waits_for_what_was_sent_and_nothing_is_billed_twice(
    tmp_path: Path, number: signal.Signals
) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(TEXTS))
    async with Server(latency=SlowLater()) as server:
        async with started(server, tmp_path) as process:
            await until_in_flight(server, accepted=12)
            process.send_signal(number)
            out, err = await ended(process)
        assert process.returncode == CODES[number]
        assert "stopping: waiting for 4 requests that are paid for; press Ctrl-C again to quit at once\n" in err
        assert "Traceback" not in err
        stored = int(out.split(", ")[1].split()[0])
        assert stored == server.ledger.accepted * 3
        assert stored == 36
        assert server.ledger.abandoned == 0

        server.latency = Latency()
        async with started(server, tmp_path) as again:
            out, _ = await ended(again)
        assert again.returncode == 0
        assert out.startswith(f"{TEXTS} texts, {TEXTS - stored} stored, {stored} unchanged, ")
        assert server.ledger.texts_again == 0


async def test_x4_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(TEXTS))
    async with Server(latency=Latency(1, fixed=60.0)) as server, started(server, tmp_path) as process:
        await until_in_flight(server, accepted=4)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        async with asyncio.timeout(10):
            async for line in process.stderr:
                if line.startswith(b"stopping: "):
                    break
            process.send_signal(signal.SIGINT)
            await process.wait()
        assert process.returncode == 130
        await process.communicate()


async def test_t45_a_watch_ends_with_sigterm_and_says_what_it_did(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as table:
        table.execute("CREATE TABLE sections (id INTEGER PRIMARY KEY, content TEXT, embedding BLOB)")
        table.execute("INSERT INTO sections (content) VALUES ('one'), ('two')")
        job = ("backfill", "--store", "app.db", "--table", "sections", "--text", "content", "--watch", "--poll", "0.1")
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *job, "-m", "fake:x", cwd=tmp_path, env=environment(), stdout=PIPE, stderr=PIPE
        )
        await until_filled(table, 2)
        table.execute("INSERT INTO sections (content) VALUES ('three')")
        await until_filled(table, 3)
        process.send_signal(signal.SIGTERM)
        out, err = await ended(process)
    assert process.returncode == 0
    assert out.startswith("3 texts, 3 stored, 0 unchanged, ")
    assert "Traceback" not in err


async def until_filled(table: sqlite3.Connection, rows: int) -> None:
    async with asyncio.timeout(30):
        while table.execute("SELECT count(embedding) FROM sections").fetchone()[0] < rows:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
