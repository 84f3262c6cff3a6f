"""Standard streams that are closed or full, or whose reader has gone: the job is done, and told where it can be."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import COMMAND, Ran, aembed, environment, notes, write_jsonl

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="a shell, and Linux's /dev/full")

JOB = "index a.jsonl -m fake:x"
SUMMARY = "3 texts, 3 stored, "
CLOSED = "stdout is closed: there is nowhere to write the result\n"
FULL = "the result could not be written to stdout: No space left on device\n"


def in_shell(cwd: Path, command: str) -> Ran:
    """`command` is a line of bash in which $A is aembed."""
    line = command.replace("$A", shlex.join(COMMAND))
    done = subprocess.run(
        ["bash", "-c", line], cwd=cwd, env=environment(), capture_output=True, text=True, encoding="utf-8", timeout=60
    )
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("redirected", "out", "err"),
    [
        ("2>&-", SUMMARY, ""),
        ("2>/dev/full", SUMMARY, ""),
        ("<&-", SUMMARY, ""),
        ("<&- >&- 2>&-", "", ""),
        (">/dev/full 2>/dev/full", "", ""),
        (">&-", "", CLOSED),
        (">/dev/full", "", FULL),
        (">/dev/full --json", "", FULL),
    ],
)
def test_d5_a_job_is_done_whatever_its_streams_are(redirected: str, out: str, err: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(3))
    ran = in_shell(tmp_path, f"$A {JOB} {redirected}")
    assert ran.code == 0
    assert ran.out.startswith(out)
    assert bool(ran.out) == bool(out)
    assert ran.err.endswith(err)
    again = aembed(tmp_path, "index", "a.jsonl", "--json").json
    assert (again["unchanged"], again["requests"]) == (3, 0)


@pytest.mark.parametrize(
    "command", ["search note", "status", "status --json", f"{JOB} --dry-run", "--help", "--version"]
)
def test_d5_a_result_that_cannot_be_written_is_told(command: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(3))
    assert aembed(tmp_path, *JOB.split()).code == 0
    for redirected, said in ((">&-", CLOSED), (">/dev/full", FULL)):
        ran = in_shell(tmp_path, f"$A {command} {redirected}")
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.endswith(f"error: {said}")
    gone = in_shell(tmp_path, f"set -o pipefail; $A {command} | true")
    assert gone.code == 141
    assert "error" not in gone.err


def test_d5_standard_input_that_is_closed_or_cannot_be_read_is_told(tmp_path: Path) -> None:
    closed = in_shell(tmp_path, "$A index - -m fake:x <&-")
    said = "error: standard input is closed; pipe JSON Lines into it, or name a file in place of '-'\n"
    assert (closed.code, closed.err) == (2, said)
    written = in_shell(tmp_path, "$A index - -m fake:x 0>/dev/null")
    assert (written.code, written.err.count("\n")) == (2, 1)
    assert not (tmp_path / "aembed.db").exists()


def test_d5_no_file_gets_the_number_of_a_stream_that_is_closed(tmp_path: Path) -> None:
    """What a C library writes to descriptor 2 would end up in the store."""
    start = "import os; from aembed.cli._streams import prepare_streams as p; p(); f = open('x'); os._exit(f.fileno())"
    (tmp_path / "x").touch()
    ran = in_shell(tmp_path, f"{sys.executable} -c {shlex.quote(start)} <&- >&- 2>&-")
    assert ran.code > 2


def test_d5_a_mistake_of_ours_is_one_line_without_what_it_says(tmp_path: Path) -> None:
    start = "\n".join(
        [
            "from aembed.cli import _app, main",
            "make_app = _app.make_app",
            "def make_broken(names):",
            "    app = make_app()",
            "    app.command('broken')(lambda: {}['a text of the user'])",
            "    return app",
            "_app.make_app = make_broken",
            "main(['broken'])",
        ]
    )
    ran = aembed(tmp_path, command=(sys.executable, "-c", start))
    assert (ran.code, ran.out, ran.err.count("\n")) == (3, "", 1)
    assert ran.err.startswith("error: unexpected KeyError ")
    assert "a text" not in ran.err
    shown = aembed(tmp_path, command=(sys.executable, "-c", start), env={"AEMBED_TRACEBACK": "1"})
    assert "Traceback" in shown.err
