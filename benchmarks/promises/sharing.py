"""Processes that fill one store, or one column, with the same texts at once, half of them killed: who pays for what.

    python -m benchmarks.sharing [--processes 10] [--killed 5] [--texts 20000] [--store sqlite|postgresql|column]

The service runs in a process of its own; its ledger is the judge. The bar: no more texts are billed than there are, and
those that the killed processes had in flight; and every row is there and right. Exits 1 if it is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sqlite3
import sys
import tempfile
import textwrap
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from random import Random

import numpy as np

from aembed.stores import open_store
from tests.service.own_process import KEY, MODEL, ROOT, judged, serving
from tests.service.vectors import vector_of
from tests.stage.postgres import Server, create_database

BATCH, CONCURRENCY = 50, 4
LATENCY = 0.3
JOB = f"""
    import asyncio, sys
    from aembed import Embedder, Record, SQLiteColumn
    async def main(kind, store, url, count):
        async with Embedder({MODEL!r}, api_key={KEY!r}, base_url=url, concurrency={CONCURRENCY},
                            max_batch_size={BATCH}) as embedder:
            if kind == "column":
                print(await embedder.backfill(SQLiteColumn(store, "notes", text="body")))
            else:
                print(await embedder.embed_into(store, [Record(str(n), f"text {{n}}") for n in range(count)]))
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
"""


@asynccontextmanager
async def place(kind: str, texts: int) -> AsyncIterator[str]:
    if kind != "postgresql":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "notes.db"
            if kind == "column":
                make_table(path, texts)
            yield str(path)
        return
    server = Server()
    try:
        yield create_database(server.url, "shared")
    finally:
        server.stop()


def make_table(path: Path, texts: int) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT, embedding BLOB)")
        rows = ((number, f"text {number}") for number in range(texts))
        connection.executemany("INSERT INTO notes (id, body) VALUES (?, ?)", rows)


async def begun(kind: str, store: str, url: str, texts: int) -> asyncio.subprocess.Process:
    code = textwrap.dedent(JOB)
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, kind, store, url, str(texts), cwd=ROOT, stdout=PIPE, stderr=PIPE
    )


async def measure(options: argparse.Namespace) -> list[str]:
    problems: list[str] = []
    async with (
        place(options.store, options.texts) as store,
        serving("--key", KEY, "--latency", str(LATENCY)) as service,
    ):
        began = time.perf_counter()
        processes = [await begun(options.store, store, service.url, options.texts) for _ in range(options.processes)]
        random = Random(1)
        for process in random.sample(processes, options.killed):
            await asyncio.sleep(random.uniform(0.5, 4.0))
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
        told = await asyncio.gather(*[process.communicate() for process in processes])
        seconds = time.perf_counter() - began
        killed = [process for process in processes if process.returncode == -signal.SIGKILL]
        for process, (out, error) in zip(processes, told, strict=True):
            print(f"  {process.returncode}: {(out or error[-200:]).decode().strip()}")
            if process.returncode not in (0, -signal.SIGKILL):
                problems.append(f"a process ended with {process.returncode}")
        billed = sum((await service.texts()).values())
        most = options.texts + len(killed) * CONCURRENCY * BATCH
        print(
            f"{options.store}: {billed:,} texts billed of {options.texts:,} (at most {most:,}), "
            f"{len(killed)} killed, {seconds:.1f} s",
            flush=True,
        )
        if billed > most:
            problems.append(f"{billed:,} texts were billed, at most {most:,} may be")
        problems += await (wrong_in_table if options.store == "column" else wrong)(store, options.texts)
    return problems


async def wrong(store: str, texts: int) -> list[str]:
    held = open_store(store)
    rows = {row.id: row async for row in held.rows()}
    await held.aclose()
    problems = [] if len(rows) == texts else [f"{len(rows):,} rows instead of {texts:,}"]
    bad = [id for id, row in rows.items() if not np.array_equal(row.vector, vector_of(f"text {id}"))]
    return problems + ([f"{len(bad):,} rows hold another vector"] if bad else [])


async def wrong_in_table(path: str, texts: int) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        held = connection.execute("SELECT body, embedding FROM notes").fetchall()
    empty = sum(blob is None for _, blob in held)
    bad = sum(not np.array_equal(np.frombuffer(blob, "<f4"), vector_of(text)) for text, blob in held if blob)
    return [f"{empty:,} rows are empty, {bad:,} hold another vector"] if empty or bad or len(held) != texts else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=10)
    parser.add_argument("--killed", type=int, default=5)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--store", choices=["sqlite", "postgresql", "column"], default="sqlite")
    return judged(asyncio.run(measure(parser.parse_args())))


if __name__ == "__main__":
    sys.exit(main())
