"""`--batch` of `index` and `backfill`: run again, it goes on; 4 says that rows are out."""

from __future__ import annotations

import re
import sqlite3
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import anyio.to_thread
import pytest

from tests.cli.command import COMMAND, Ran, aembed, notes, write_jsonl
from tests.service.batches.faults import AT_ONCE, Course, Plans
from tests.service.server import Server

SMALL = ("-m", "openai:text-embedding-3-small")
IMPATIENT = (
    sys.executable,
    "-c",
    "from aembed.cli import _batch, main; _batch.FIRST_PAUSE = _batch.LONGEST_PAUSE = 0.1; main()",
)
"""The command, which looks every 0.1 s where it is to wait."""


async def against(server: Server, cwd: Path, *words: str, command: Iterable[str] = COMMAND) -> Ran:
    env = {"OPENAI_API_KEY": "sk-canary", "OPENAI_BASE_URL": server.url}
    return await anyio.to_thread.run_sync(lambda: aembed(cwd, *words, env=env, command=command))


async def test_a_batch_is_submitted_shown_and_collected(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(8))
    index = ("index", "a.jsonl", *SMALL, "--batch")
    async with Server() as server:
        server.batches.plans = Plans(usual=AT_ONCE)
        few = await against(server, tmp_path, *index)
        assert (few.code, server.ledger.requests) == (2, 0)
        assert "8 rows would wait up to a day for a batch; leave out --batch, or add --yes" in few.err
        dry = await against(server, tmp_path, *index, "--dry-run")
        assert dry.code == 0
        assert "as a batch: $0.0000, in minutes to 24 h 00 min" in dry.err
        out = await against(server, tmp_path, *index, "--yes", "--json")
        assert (out.code, out.json["submitted"], out.json["pending"]) == (4, 8, 0)
        assert "8 texts are out in batches; run the same command again" in out.err
        assert "the last of them are due by " in out.err
        status = await against(server, tmp_path, "status")
        assert "batch     created, 8 texts  (batch_" in status.out
        assert re.search(r"\), due by \d{4}-\d\d-\d\d \d\d:\d\d UTC$", status.out, re.MULTILINE)
        done = await against(server, tmp_path, *index, "--json")
        assert (done.code, done.json["stored"], done.json["submitted"]) == (0, 8, 0)


async def test_a_batch_that_is_cancelled_is_collected_as_far_as_it_came(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection, connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT, embedding BLOB)")
        connection.executemany("INSERT INTO notes (body) VALUES (?)", [("one",), ("two",)])
    fill = ("backfill", "-s", "sqlite:///app.db", "--table", "notes", "--text", "body", *SMALL)
    async with Server() as server:
        server.batches.plans = Plans([Course(cancelling=0.0)], usual=AT_ONCE)
        assert (await against(server, tmp_path, *fill, "--batch", "--yes")).code == 4
        live = await against(server, tmp_path, *fill, "--json")
        assert (live.code, live.json["submitted"], live.json["stored"]) == (0, 2, 0)
        cancelled = await against(server, tmp_path, *fill, "--batch", "--cancel")
        assert (cancelled.code, cancelled.out.split(";")[0]) == (0, "1 batch cancelled")
        again = await against(server, tmp_path, *fill, "--batch", "--yes", "--json")
        assert again.json["stored"] + again.json["submitted"] == 2
        done = await against(server, tmp_path, *fill, "--batch", "--json")
        assert (done.code, done.json["submitted"]) == (0, 0)


async def test_wait_looks_again_until_all_is_collected(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(8))
    async with Server() as server:
        server.batches.plans = Plans(usual=Course(0.0, 0.6, 0.0, 0.0))
        words = ("index", "a.jsonl", *SMALL, "--batch", "--wait", "--yes", "--json")
        ran = await against(server, tmp_path, *words, command=IMPATIENT)
    assert (ran.code, ran.json["stored"], ran.json["submitted"], server.ledger.requests) == (0, 8, 0, 0)
    assert "1 out, 0 of 1 lines or texts done" in ran.err
    assert "1 out, 1 of 1 lines or texts done" in ran.err


@pytest.mark.parametrize("flag", ["--wait"])
async def test_flags_of_batches_go_with_batch(flag: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(1))
    ran = await anyio.to_thread.run_sync(lambda: aembed(tmp_path, "index", "a.jsonl", *SMALL, flag))
    assert (ran.code, f"{flag} goes with  --batch" in ran.err) == (2, True)
