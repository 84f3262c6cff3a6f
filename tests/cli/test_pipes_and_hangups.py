"""Pipes that nobody writes to, terminals that hang up, and what is left in the temporary folder."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.command import COMMAND, aembed, environment, notes, write_jsonl
from tests.cli.test_signals import JOB, TEXTS, SlowLater, ended, started, until_in_flight
from tests.service.server import Latency, Server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and pipes")


@pytest.mark.parametrize("name", ["pipe", "pipe.jsonl", "pipe.db"])
def test_d3_a_pipe_is_no_file_to_read(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    ran = aembed(tmp_path, "index", name, "-m", "fake:x")
    assert (ran.code, ran.out) == (2, "")
    assert "is neither a file nor a folder" in ran.err


def test_d3_a_pipe_in_a_folder_is_left_out(docs: Path, tmp_path: Path) -> None:
    os.mkfifo(docs / "pipe.md")
    assert aembed(tmp_path, "index", "docs", "-m", "fake:x").out.startswith("4 texts, 4 stored, ")


async def test_d3_a_hangup_waits_for_what_was_sent_and_nothing_is_billed_twice(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(TEXTS))
    async with Server(latency=SlowLater()) as server:
        async with started(server, tmp_path) as process:
            await until_in_flight(server, accepted=12)
            process.send_signal(signal.SIGHUP)
            out, err = await ended(process)
        assert process.returncode == 129
        assert "Traceback" not in err
        assert int(out.split(", ")[1].split()[0]) == server.ledger.accepted * 3 == 36
        server.latency = Latency()
        async with started(server, tmp_path) as again:
            await ended(again)
        assert again.returncode == 0
        assert server.ledger.texts_again == 0


async def test_d3_what_was_ignored_stays_ignored(tmp_path: Path) -> None:
    """`nohup aembed index ...`, and a job of a script's `&`."""
    write_jsonl(tmp_path / "a.jsonl", notes(TEXTS))

    def ignoring() -> None:
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    async with Server(latency=Latency(1, fixed=0.2)) as server:
        env = environment(OPENAI_BASE_URL=server.url, OPENAI_API_KEY="sk-x")
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *JOB, cwd=tmp_path, env=env, stdout=PIPE, stderr=PIPE, preexec_fn=ignoring
        )
        await until_in_flight(server, accepted=1)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGINT)
        out, _ = await ended(process)
    assert (process.returncode, out.split(", ")[1]) == (0, f"{TEXTS} stored")


@pytest.fixture(autouse=True)
def hears_hangups() -> Iterator[None]:
    """Whatever these tests were started by: what is ignored here would be ignored by the command."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()


def hang_up(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGHUP)


def terminate(process: subprocess.Popen[bytes]) -> None:
    process.terminate()


@pytest.mark.parametrize("end", [kill, hang_up, terminate])
def test_d3_nothing_of_standard_input_is_left(end: Callable[[subprocess.Popen[bytes]], None], tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [*COMMAND, "index", "-", "-m", "fake:x"],
        cwd=tmp_path,
        env=environment(TMPDIR=str(temporary)),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin
    process.stdin.write(b'{"id": "a", "text": "secret"}\n' * 100_000)
    process.stdin.flush()
    until = time.monotonic() + 30
    while not any(os.path.samefile(temporary, Path(target).parent) for target in open_files(process.pid)):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert not list(temporary.iterdir())
    end(process)
    _, err = process.communicate(timeout=30)
    assert process.returncode in (-signal.SIGKILL, 129, 143)
    assert b"Traceback" not in err
    assert not list(temporary.iterdir())


def open_files(pid: int) -> list[str]:
    """The paths that a process has open; of files without a name those that they were made at."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target.startswith("/") and Path(target).parent.is_dir():
            found.append(target)
    return found
