from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from tests.cli.command import COMMAND, aembed, environment, notes, write_jsonl
from tests.stage.postgres import sql

if sys.platform == "win32":
    pytest.skip("no pseudo-terminals", allow_module_level=True)

import pty

PRICED = ("-m", "openai:text-embedding-3-large", "--base-url", "http://127.0.0.1:1/v1")


class Terminal:
    """A process with keyboard and stderr on a terminal, and stdout in a pipe."""

    def __init__(self, cwd: Path, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        env = environment(TERM="xterm")
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], cwd=cwd, env=env, stdin=slave, stderr=slave, stdout=subprocess.PIPE, text=True
        )
        os.close(slave)
        self.seen = ""

    def read_until(self, text: str) -> None:
        while text not in self.seen:
            self.seen += os.read(self._master, 4_096).decode(errors="replace")

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def end(self) -> str:
        """Everything on stdout."""
        rest = Thread(target=self._read_rest)
        rest.start()
        out, _ = self.process.communicate(timeout=60)
        rest.join()
        os.close(self._master)
        return str(out)

    def _read_rest(self) -> None:
        try:
            while data := os.read(self._master, 4_096):
                self.seen += data.decode(errors="replace")
        except OSError:
            pass  # Linux: the other end is closed


@contextmanager
def terminal(cwd: Path, *arguments: str) -> Iterator[Terminal]:
    opened = Terminal(cwd, *arguments)
    with opened.process:
        try:
            yield opened
        finally:
            opened.process.kill()


@pytest.fixture
def dear(tmp_path: Path) -> Path:
    """Texts for more than a dollar at 0.13 dollars a million tokens."""
    write_jsonl(tmp_path / "a.jsonl", [{"id": str(i), "text": f"{i} " + "x" * 8_000} for i in range(4_000)])
    return tmp_path


def test_the_bar_is_on_stderr_and_the_summary_on_stdout(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(300))
    with terminal(tmp_path, "index", "a.jsonl", "-m", "fake:x") as opened:
        out = opened.end()
    assert opened.process.returncode == 0
    assert out.startswith("300 texts, 300 stored, ")
    assert "\x1b" not in out
    assert "/300 texts" in opened.seen
    assert opened.seen.rindex("\x1b[?25h") > opened.seen.rindex("\x1b[?25l")


@pytest.mark.parametrize("answer", ["n\n", "\n", "\x04"])
def test_more_than_a_dollar_is_asked_for(dear: Path, answer: str) -> None:
    with terminal(dear, "index", "a.jsonl", *PRICED) as opened:
        opened.read_until("Go on? [y/N] ")
        opened.type(answer)
        out = opened.end()
    assert (opened.process.returncode, out) == (2, "")
    assert "This will cost about $1.04 for 8,00" in opened.seen
    assert "nothing was sent" in opened.seen
    assert not (dear / "aembed.db").exists()


@pytest.mark.parametrize("answer", ["n", "y"])
def test_t29_an_index_is_dropped_where_the_answer_is_yes(database: str, tmp_path: Path, answer: str) -> None:
    sql(
        database,
        "DROP TABLE IF EXISTS asked",
        "CREATE TABLE asked (id int PRIMARY KEY, content text, embedding vector(64))",
        "INSERT INTO asked VALUES (1, 'a section'), (2, 'another')",
        "CREATE INDEX mine ON asked USING hnsw (embedding vector_cosine_ops)",
    )
    before = sql(database, "SELECT 'mine'::regclass::oid::bigint")
    flags = ("--store", database, "--table", "asked", "--text", "content", "-m", "fake:x", "--index")
    with terminal(tmp_path, "backfill", *flags) as opened:
        opened.read_until("Drop index mine, and build it again at the end?")
        opened.type(f"{answer}\n")
        out = opened.end()
    assert (opened.process.returncode, out[:18]) == (0, "2 texts, 2 stored,")
    assert (sql(database, "SELECT 'mine'::regclass::oid::bigint") == before) is (answer == "n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_at_the_question_ends_at_once(dear: Path, number: int, code: int) -> None:
    with terminal(dear, "index", "a.jsonl", *PRICED) as opened:
        opened.read_until("Go on? [y/N] ")
        opened.process.send_signal(number)
        out = opened.end()
    assert (opened.process.returncode, out) == (code, "")
    assert "Traceback" not in opened.seen


ASKED = """
import signal, threading, time
from aembed.cli._run import Interrupted, ask

def interrupts():
    time.sleep(0.2)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

threading.Thread(target=interrupts).start()
try:
    ask("Go on?")
except Interrupted as interrupted:
    print(interrupted.number)
"""


def test_a_signal_that_reaches_another_thread_ends_the_question_too() -> None:
    keyboard, hand = os.pipe()  # nothing is typed
    try:
        asked = subprocess.run(
            [sys.executable, "-c", ASKED], stdin=keyboard, capture_output=True, text=True, timeout=60, check=True
        )
    finally:
        os.close(keyboard)
        os.close(hand)
    assert (asked.stdout, asked.stderr) == (f"{signal.SIGTERM:d}\n", "Go on? [y/N] ")


@pytest.mark.parametrize(("answer", "removed"), [("y\n", 3), ("n\n", 0)])
def test_removing_more_than_half_is_asked_for(tmp_path: Path, answer: str, removed: int) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(4))
    assert aembed(tmp_path, "index", "a.jsonl", "-m", "fake:x").code == 0
    write_jsonl(tmp_path / "a.jsonl", notes(1))
    with terminal(tmp_path, "index", "a.jsonl") as opened:
        opened.read_until("3 of the 4 rows")
        opened.read_until("Remove them from the store? [y/N] ")
        opened.type(answer)
        opened.end()
    assert opened.process.returncode == 0
    assert aembed(tmp_path, "status", "--json").json["rows"] == 4 - removed
