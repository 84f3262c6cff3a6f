"""What the machine does to a job: it runs out of disk, of memory, its clock jumps."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from asyncio.subprocess import PIPE
from collections.abc import Mapping
from glob import glob
from pathlib import Path
from typing import Any

import pytest

from aembed import Embedder
from tests.service.faults import Plan, Status
from tests.service.own_process import wrong_rows
from tests.service.server import Server
from tests.stage.victims import records

ROOT = Path(__file__).parent.parent
MODEL = "openai:text-embedding-3-small"
BATCH, CONCURRENCY = 20, 3
TEXTS = [f"text {number}" for number in range(400)]
NOT_HERE = 77
STORED = "SELECT id FROM aembed_rows"
JOB = f"""
import asyncio, contextlib, json, os, resource, sqlite3, subprocess, sys, time
from aembed import AembedError, Embedder, FakeProvider, Record, SQLiteStore, StoreError
url, folder = sys.argv[1:]
path = folder + "/rows.db"
given = [Record(str(n), f"text {{n}}") for n in range({len(TEXTS)})]
embedder = Embedder("{MODEL}", api_key="sk-test", base_url=url, concurrency={CONCURRENCY}, max_batch_size={BATCH})
acknowledged = set()
class Store(SQLiteStore):
    async def write(self, rows, refusals=()):
        await super().write(rows, refusals)
        acknowledged.update(rows.ids)
def stored():
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {{id for id, in connection.execute("{STORED}")}}
"""


async def told(program: str, url: str, folder: Path, *command: str, env: Mapping[str, str] | None = None) -> Any:
    """What a process prints as JSON at its end. Skips where the machine does not let it."""
    arguments = [*command, sys.executable, "-c", JOB + program, url, str(folder)]
    process = await asyncio.create_subprocess_exec(*arguments, cwd=ROOT, stdout=PIPE, env={**os.environ, **(env or {})})
    out, _ = await process.communicate()
    if process.returncode == NOT_HERE:
        pytest.skip("this needs a file system of its own: unshare and mount")
    assert process.returncode == 0
    return json.loads(out)


FULL = f"""
def mount(*options):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", *options, "tmpfs", folder]).returncode:
        sys.exit({NOT_HERE})
async def main():
    mount("size=1500k")
    async with embedder:
        try:
            await embedder.embed_into(store := Store(path), given)
        except StoreError as error:
            stopped = str(error), error.report.stored, [id for rows in error.unsaved for id in rows.ids]
        await store.aclose()
        kept = stored()
        mount("remount,size=64m")
        report = await embedder.embed_into(path, given)
        from tests.service.own_process import wrong_rows
        wrong = wrong_rows(__import__("pathlib").Path(path), [record.text for record in given])
    lost = sorted(acknowledged - kept)
    print(json.dumps([*stopped, lost, len(kept), report.stored, report.unchanged, wrong]))
asyncio.run(main())
"""


async def test_s19_a_disk_that_is_full_in_mid_job_costs_no_row_and_the_job_goes_on_once_there_is_room(
    tmp_path: Path,
) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("this needs a file system of its own: unshare and mount")
    private = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    async with Server() as server:
        sentence, reported, unsaved, lost, kept, stored, unchanged, wrong = await told(
            FULL, server.url, tmp_path, *private
        )
        billed = sum(server.ledger.texts().values())
    assert "the disk is full" in sentence or "check the disk" in sentence
    assert (lost, wrong) == ([], [])
    assert 0 < reported <= kept < len(TEXTS)
    assert (stored, unchanged) == (len(TEXTS) - kept, kept)
    assert billed - len(TEXTS) <= len(unsaved) <= BATCH * CONCURRENCY


LARGE = 1_000
MANY = [f"text {number}" for number in range(2_100)]
TIGHT = f"""
hoard = []
given = [Record(str(n), f"text {{n}}") for n in range({len(MANY)})]
embedder = Embedder("{MODEL}", api_key="sk-test", base_url=url, concurrency={CONCURRENCY}, max_batch_size={LARGE})
async def source():
    for record in given[:100]:
        yield record
    while len(acknowledged) < 100:
        await asyncio.sleep(0.01)
    held_bytes = int(open("/proc/self/statm").read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (held_bytes + 1_000_000, resource.RLIM_INFINITY))
    with contextlib.suppress(MemoryError):
        while True:
            hoard.append(bytearray(3_000_000))  # less is left than one reply needs, and enough for all else
    for record in given[100:]:
        yield record
async def main():
    async with embedder:
        store, error = Store(path), None
        try:
            await embedder.embed_into(store, source())
        except AembedError as raised:
            error = raised
        hoard.clear()
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        print(json.dumps([type(error).__name__, sorted(acknowledged - stored()), len(stored())]))
asyncio.run(main())
"""
needs_limits = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS and /proc are Linux")


@needs_limits
async def test_x5_a_job_that_runs_out_of_memory_ends_with_an_error_and_can_be_run_again(tmp_path: Path) -> None:
    async with Server() as server:
        error, lost, kept = await told(TIGHT, server.url, tmp_path)
        assert error.endswith("Error")
        assert lost == []
        assert 100 <= kept < len(MANY)
        in_vain = sum(server.ledger.texts().values()) - kept
        assert 0 < in_vain <= LARGE * CONCURRENCY
        async with Embedder(MODEL, api_key="sk-test", base_url=server.url) as embedder:
            report = await embedder.embed_into(tmp_path / "rows.db", records(MANY))
        assert (report.stored, report.unchanged) == (len(MANY) - kept, kept)
        assert sum(server.ledger.texts().values()) == len(MANY) + in_vain
    assert wrong_rows(tmp_path / "rows.db", MANY) == []


ROOMY = """
def large():
    for number in range(25_000):
        yield Record(str(number), f"text {number} " + "word " * 1_600)
async def main():
    async with Embedder(FakeProvider()) as embedder:
        await embedder.embed_into(path, given)
        held_bytes = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (held_bytes + 100_000_000,) * 2)
        report = await embedder.embed_into(path, large())
    print(json.dumps([report.stored, report.failed]))
asyncio.run(main())
"""


@needs_limits
async def test_x5_200_mb_of_texts_go_through_100_mb_of_memory(tmp_path: Path) -> None:
    assert await told(ROOMY, "http://127.0.0.1:1", tmp_path) == [25_000, 0]


JUMPS = """
import random
clock = os.environ["FAKETIME_TIMESTAMP_FILE"]
async def jump():
    for number in range(1_000):
        with open(clock + ".new", "w") as file:
            file.write(random.choice(["+3d", "-3d", "+40d", "-2h", "+0"]))
        os.replace(clock + ".new", clock)
        seen.append(time.time())
        await asyncio.sleep(0.02)
async def main():
    jumping = asyncio.create_task(jump())
    async with embedder:
        report = await embedder.embed_into(path, given)
    jumping.cancel()
    steps = [abs(later - earlier) for earlier, later in zip(seen, seen[1:])]
    print(json.dumps([max(steps), report.stored, report.failed, report.requests, report.retries]))
seen = []
asyncio.run(main())
"""


async def test_x9_a_wall_clock_that_jumps_by_days_changes_nothing(tmp_path: Path) -> None:
    libraries = glob("/usr/lib/*/faketime/libfaketime.so.1")
    if not libraries:
        pytest.skip("libfaketime is not installed: apt install faketime")
    (tmp_path / "clock").write_text("+0")
    env = {
        "LD_PRELOAD": libraries[0],
        "FAKETIME_TIMESTAMP_FILE": str(tmp_path / "clock"),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    script = Plan(None, Status(503), *[None] * 15, Status(429, headers=[("retry-after", "1")]))
    async with Server(script=script) as server:
        step, *report = await told(JUMPS, server.url, tmp_path, env=env)
        assert report == [len(TEXTS), 0, len(TEXTS) / BATCH + 2, 2]
        assert server.ledger.texts_again == 0
        refused = next(event.at for event in server.ledger.events if event.label.startswith("429"))
        again = max(event.at for event in server.ledger.events)  # the others have long been answered
    assert step > 86_400
    assert again - refused >= 0.95
    assert wrong_rows(tmp_path / "rows.db", TEXTS) == []
