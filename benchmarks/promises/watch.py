"""A table in PostgreSQL that is watched by three processes while it is written: how soon its rows are right.

    python -m benchmarks.watch                       about a quarter of an hour
    python -m benchmarks.watch --seconds 60 --parts busy --rows 100000

    busy     200 rows inserted and 50 edited a second; one worker is killed in the middle, and the server restarted
             once; when is each row right after its last edit, and how often was each text bought?
    idle     a large table that is filled: what a watch that has nothing to do takes of a core, in its process and in
             the server's, and whether the table is read; with triggers, and with indexes alone

The workers are `aembed backfill --watch`, the server and the service are real, and the judges are the table itself and
the service's own ledger. Exits 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import asyncpg
import numpy as np

from benchmarks.promises.shared_limit import cpu_of
from benchmarks.results import Bar, finish
from tests.service.own_process import KEY, MODEL, Service, serving
from tests.service.vectors import vector_of
from tests.stage.postgres import Server as Postgres
from tests.stage.postgres import create_database, sql

WORKERS = 3
INSERTS_PER_SECOND, EDITS_PER_SECOND, TICKS_PER_SECOND = 200, 50, 10
RESTART_SECONDS = 10.0
"""Rows that were edited so long before the server was stopped, until as long after it is back, are not in the bar."""
LOOK_SECONDS = 0.05
NARROW = 32
"""Dimensions of the large table, so that it fits on a small disk; a look reads no vector."""
PARTS = ("busy", "idle")
TABLE = """CREATE TABLE sections (id bigint PRIMARY KEY, content text NOT NULL, version int NOT NULL DEFAULT 0,
    embedding vector({width}), seen bytea, updated_at timestamptz NOT NULL DEFAULT now())"""
INSERT = "INSERT INTO sections (id, content) SELECT * FROM unnest($1::bigint[], $2::text[])"
EDIT = """UPDATE sections AS s SET content = e.content, version = version + 1, updated_at = now()
    FROM unnest($1::bigint[], $2::text[]) AS e (id, content) WHERE s.id = e.id"""
RIGHT = """SELECT id, content FROM sections WHERE id = ANY ($1::bigint[]) AND embedding IS NOT NULL
    AND seen = sha256(convert_to(content, 'UTF8'))"""
FILLED = """INSERT INTO sections (id, content, embedding, seen) SELECT i, 'section ' || i,
    array_fill((i % 7)::real, ARRAY[$3::int])::vector, sha256(convert_to('section ' || i, 'UTF8'))
    FROM generate_series($1::bigint, $2::bigint) AS i"""
ONCE = ("--create-triggers=watch",)
BY_INDEX = ("--create-index", "--updated-at", "updated_at")


class Workers:
    def __init__(self, place: str, service: Service, *flags: str) -> None:
        self._command = [
            *(sys.executable, "-m", "aembed", "backfill", "--watch", "--yes", "--store", place, "-m", MODEL),
            *("--table", "sections", "--text", "content", "--fingerprint", "seen", "--base-url", service.url, *flags),
        ]
        self.processes: list[asyncio.subprocess.Process] = []

    async def begin(self, log: Path) -> None:
        with log.open("ab") as file:
            environment = os.environ | {"OPENAI_API_KEY": KEY}
            process = await asyncio.create_subprocess_exec(
                *self._command, env=environment, stdout=file, stderr=file, start_new_session=True
            )
        self.processes.append(process)

    async def end(self) -> list[int]:
        for process in self.processes:
            if process.returncode is None:
                process.terminate()
        return [await process.wait() for process in self.processes]


class Writer:
    """The user's program: it inserts and edits, and looks when each row is right."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._random = random.Random(1)
        self.texts: dict[int, str] = {}
        self.edits = 0
        self._edited_at: dict[int, float] = {}
        self.delays: list[tuple[float, float]] = []
        """When a row was last edited, and how long it took from then until it was right."""

    async def write(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        began, tick = loop.time(), 0
        while loop.time() - began < seconds:
            first = len(self.texts)
            inserted = {
                i: f"section {i} as it was written"
                for i in range(first, first + INSERTS_PER_SECOND // TICKS_PER_SECOND)
            }
            edited = {
                i: f"section {i} as of edit {self.edits + number}"
                for number, i in enumerate(
                    self._random.sample(range(first), min(first, EDITS_PER_SECOND // TICKS_PER_SECOND))
                )
            }
            await self._until_done(INSERT, inserted)
            if edited:
                await self._until_done(EDIT, edited)
                self.edits += len(edited)
            tick += 1
            await asyncio.sleep(max(0.0, began + tick / TICKS_PER_SECOND - loop.time()))

    async def _until_done(self, statement: str, texts: Mapping[int, str]) -> None:
        """The server may be away."""
        while True:
            try:
                await (await self._connected("_writing")).execute(statement, list(texts), list(texts.values()))
                break
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await asyncio.sleep(0.1)
        now = asyncio.get_running_loop().time()
        self.texts |= texts
        self._edited_at |= dict.fromkeys(texts, now)

    async def look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            asked = list(self._edited_at)
            try:
                found = await (await self._connected("_looking")).fetch(RIGHT, asked)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                continue
            now = loop.time()
            for id, content in found:
                if self.texts[id] == content and id in self._edited_at:
                    edited_at = self._edited_at.pop(id)
                    self.delays.append((edited_at, max(0.0, now - edited_at)))

    async def until_right(self) -> None:
        while self._edited_at:  # noqa: ASYNC110
            await asyncio.sleep(0.1)

    async def _connected(self, name: str) -> asyncpg.Connection:
        connection = getattr(self, name, None)
        if connection is None or connection.is_closed():
            connection = await asyncpg.connect(self._place, timeout=2.0)
            setattr(self, name, connection)
        return connection


async def be_busy(postgres: Postgres, seconds: float, log: Path) -> list[Bar]:
    place = create_database(postgres.url, "busy")
    sql(place, TABLE.format(width=1_536))
    async with serving() as service:
        workers, writer = Workers(place, service, *ONCE), Writer(place)
        looking = asyncio.create_task(writer.look())
        try:
            for _ in range(WORKERS):
                await workers.begin(log)
                await asyncio.sleep(3.0)
            loop = asyncio.get_running_loop()
            began = loop.time()
            writing = asyncio.create_task(writer.write(seconds))
            await asyncio.sleep(seconds / 3)
            workers.processes[0].kill()
            await asyncio.sleep(seconds / 3)
            stopped = loop.time()
            await asyncio.to_thread(postgres.halt, "fast")
            await asyncio.to_thread(postgres.start)
            back = loop.time()
            await writing
            with suppress(TimeoutError):
                async with asyncio.timeout(60.0):
                    await writer.until_right()
        finally:
            looking.cancel()
            codes = await workers.end()
        bought = await service.texts()
    outside = [delay for at, delay in writer.delays if not stopped - RESTART_SECONDS <= at <= back + RESTART_SECONDS]
    wrong = await count_wrong(place, writer.texts)
    paid = sum(bought.values())
    print(
        f"busy: {len(writer.texts):,} rows and {writer.edits:,} edits in {loop.time() - began:.0f} s, restart of "
        f"{back - stopped:.1f} s, exit codes {codes}; right after {np.median(outside):.2f} s (median), "
        f"{np.percentile(outside, 99):.2f} s (p99), {max(outside):.2f} s (all); with the restart "
        f"{max(delay for _, delay in writer.delays):.1f} s; {paid:,} texts bought, {paid - len(bought):,} twice",
        flush=True,
    )
    return [
        Bar("rows that are not right in the end", wrong, most=0),
        Bar("right after the last edit, p99", float(np.percentile(outside, 99)), most=2.0, unit=" s"),
        Bar("texts bought more than once", paid - len(bought), most=2_048 * WORKERS),
        Bar("texts bought beyond the edits", paid - len(writer.texts) - writer.edits, most=2_048 * WORKERS),
        Bar("exit code after SIGTERM", max(codes[1:]), most=0),
    ]


async def count_wrong(place: str, texts: Mapping[int, str]) -> int:
    """Rows whose vector is not that of their text, each read and compared."""
    wrong, connection = 0, await asyncpg.connect(place)
    try:
        for first in range(0, len(texts), 1_000):
            ids = list(range(first, min(first + 1_000, len(texts))))
            rows = await connection.fetch(
                "SELECT id, content, vector_send(embedding) FROM sections WHERE id = ANY ($1::bigint[])", ids
            )
            wrong += len(ids) - len(rows)
            for id, content, sent in rows:
                is_right = sent is not None and np.array_equal(np.frombuffer(sent[4:], ">f4"), vector_of(content))
                wrong += content != texts[id] or not is_right
    finally:
        await connection.close()
    return wrong


async def be_idle(
    postgres: Postgres, rows: int, seconds: float, log: Path, flags: Sequence[str], name: str
) -> list[Bar]:
    place = create_database(postgres.url, f"idle_{name}")
    sql(place, TABLE.format(width=NARROW))
    connection = await asyncpg.connect(place)
    for first in range(1, rows, 50_000):
        await connection.execute(FILLED, first, min(first + 49_999, rows), NARROW)
    await connection.execute("CREATE INDEX ON sections (updated_at)")
    await connection.execute("VACUUM ANALYZE sections")
    async with serving() as service:
        workers = Workers(place, service, "--dimensions", str(NARROW), *flags)
        await workers.begin(log)
        try:
            # Until the announced look at everything is over: nothing waits for the first time.
            await until_told(log, "watching")
            await asyncio.sleep(5.0)
            before, cpu, began = await scans(connection), cpu_here(workers) + cpu_of(postgres), time.monotonic()
            await asyncio.sleep(seconds)
            cpu = (cpu_here(workers) + cpu_of(postgres) - cpu) / (time.monotonic() - began)
            read = await scans(connection) - before
        finally:
            await workers.end()
            await connection.close()
    print(f"idle, {name}: {100 * cpu:.2f} % of a core, {read} scans of {rows:,} rows", flush=True)
    return [
        Bar(f"idle, {name}: of a core, server's included", 100 * cpu, most=1.0, unit=" %"),
        Bar(f"idle, {name}: scans of the table", read, most=0),
    ]


async def until_told(log: Path, word: str) -> None:
    async with asyncio.timeout(600.0):
        while word not in log.read_text():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.5)


async def scans(connection: asyncpg.Connection) -> int:
    await connection.execute("SELECT pg_stat_clear_snapshot()")
    return int(await connection.fetchval("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'sections'"))


def cpu_here(workers: Workers) -> float:
    ticks = 0
    for process in workers.processes:
        stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(stat[11]) + int(stat[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def measure(parts: Sequence[str], seconds: float, rows: int, folder: Path) -> list[Bar]:
    bars, postgres = list[Bar](), Postgres()
    try:
        if "busy" in parts:
            bars += await be_busy(postgres, seconds, folder / "busy.txt")
        if "idle" in parts:
            for name, flags in (("triggers", ONCE), ("indexes", BY_INDEX)):
                log = folder / f"idle-{name}-{os.getpid()}.txt"
                log.touch()
                bars += await be_idle(postgres, rows, min(seconds, 60.0), log, flags, name)
    finally:
        postgres.stop()
    return bars


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--folder", type=Path, default=Path("/tmp"), help="for what the workers say")
    arguments = parser.parse_args()
    bars = asyncio.run(measure(arguments.parts, arguments.seconds, arguments.rows, arguments.folder))
    return finish("watch", [], bars, keep=False)


if __name__ == "__main__":
    sys.exit(main())
