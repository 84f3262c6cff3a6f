"""`on_progress=aembed.ProgressBar()`: on a terminal, in a notebook, and where neither is."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aembed import Embedder, FakeProvider, Limits, ProgressBar, SQLiteColumn

ROOT = Path(__file__).parent.parent
SCRIPT = """
import asyncio, sys
if sys.argv[1] == "without": sys.modules["rich"] = None
from aembed import Embedder, FakeProvider, Limits, ProgressBar

async def main():
    provider = FakeProvider(latency=0.25, limits=Limits(50, 300_000, 8_191))
    async with Embedder(provider, concurrency=1) as embedder:
        await embedder.embed_documents([f"text {n}" for n in range(150)], on_progress=ProgressBar())

asyncio.run(main())
"""
LAST = "150 texts, 150 stored, 0 unchanged, 3 requests"


def seen_on_a_terminal(rich: str) -> str:
    import pty

    master, slave = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen([sys.executable, "-c", SCRIPT, rich], env=environment, stderr=slave, stdout=slave) as process:
        os.close(slave)
        seen = b""
        try:
            while data := os.read(master, 4_096):
                seen += data
        except OSError:
            pass  # Linux: the other end is closed
    os.close(master)
    assert process.returncode == 0, seen.decode()
    return seen.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_terminal_shows_the_bar_of_the_command_and_keeps_the_last_line() -> None:
    seen = seen_on_a_terminal("with")
    assert "/150 texts" in seen
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l"), "the cursor is shown again"
    assert seen.count(LAST) == 1
    assert LAST in seen.rpartition("\x1b")[2]


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_without_rich_one_line_is_rewritten() -> None:
    seen = seen_on_a_terminal("without")
    assert "\x1b" not in seen
    *earlier, last, end = [*seen.removesuffix("\r\n").split("\r"), ""]
    assert last.startswith(LAST)
    assert end == ""
    assert any("33 %: 150 texts, 50 stored" in line for line in earlier)
    assert seen.count("\n") == 1


class KernelStream(io.StringIO):
    """As the stdout of a notebook, which is known by the module of its class."""

    __module__ = "ipykernel.iostream"


def small() -> Embedder:
    return Embedder(FakeProvider(latency=0.25, limits=Limits(2, 300_000, 8_191)), concurrency=1)


async def test_a_notebook_has_one_line_for_each_job(monkeypatch: pytest.MonkeyPatch) -> None:
    out = KernelStream()
    monkeypatch.setattr(sys, "stdout", out)
    bar = ProgressBar()
    async with small() as embedder:
        for texts in (["a", "b", "c", "d"], ["e"]):
            await embedder.embed_documents(texts, on_progress=bar)
    first, second, rest = out.getvalue().split("\n")
    assert "\r50 %: 4 texts, 2 stored" in first
    assert first.rpartition("\r")[2].startswith("4 texts, 4 stored, 0 unchanged, 2 requests")
    assert second.rpartition("\r")[2].startswith("1 text, 1 stored, 0 unchanged, 1 request,")
    assert rest == ""


async def test_elsewhere_it_says_what_became_of_the_job_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(tmp_path / "app.db")) as connection, connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT, embedding BLOB)")
        connection.executemany("INSERT INTO notes (body) VALUES (?)", [("one",), ("two",)])
    column = SQLiteColumn(tmp_path / "app.db", "notes", text="body")
    async with Embedder("fake:x") as embedder:
        await embedder.backfill(column, on_progress=ProgressBar())
    await column.aclose()
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("2 texts, 2 stored") == said.err.count("\n") == 1
