"""Every flag of every command, as the command itself knows them, with values that are wrong or odd."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import typer

from aembed.cli import main
from aembed.cli._app import make_app
from tests.cli.command import Ran, aembed, notes, write_jsonl

GROUP: Any = typer.main.get_command(make_app())
COMMANDS: dict[str, Any] = dict(GROUP.commands)
ODD = (
    "-1",
    "9" * 25,
    "nan",
    "é\u202e\u200f\u0663",
    "\udcff",
    "no/such/path",
    "folder",
    "pipe",
    "'; DROP TABLE notes; --",
    '"%s{}',
    "x" * 300,
    "a=1e999",
    "id >",
    "postgresql://[::1",
    "http://h:99999",
    "nope:x",
)
NEVER_NUMBERS = ("abc", "nan", "inf", "-1", "1e400", "\udcff", "1,5", "0x10")
TABLE = ("--store", "app.db", "--table", "notes", "--text", "body")
FAKE = ("-m", "fake:x")
VALID: dict[str, Sequence[Sequence[str]]] = {
    "index": [("a.jsonl", *FAKE, "--store", "new.db")],
    "search": [("note", *FAKE, "--store", "filled.db"), ("note", *FAKE, *TABLE)],
    "backfill": [(*TABLE, *FAKE)],
    "status": [("--store", "filled.db"), TABLE],
    "failures": [("--store", "filled.db"), TABLE],
    "move": [("--store", "filled.db", *FAKE)],
    "remove": [("--store", "filled.db", "--id", "nothing")],
    "cache": [("--cache", "cache.db")],
    "export": [("out.jsonl", "--store", "filled.db", "--overwrite"), ("out.npz", *TABLE)],
}
TAKING = [
    (name, parameter.opts[0])
    for name, command in COMMANDS.items()
    for parameter in command.params
    if not getattr(parameter, "is_flag", False)
]
NUMBERS = [
    (name, parameter.opts[0])
    for name, command in COMMANDS.items()
    for parameter in command.params
    if parameter.metavar in ("N", "N|auto", "SECONDS", "USD") or parameter.opts[0] == "--k"
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that is filled, a table, and a folder."""
    path = tmp_path_factory.mktemp("prepared")
    write_jsonl(path / "a.jsonl", notes(3))
    assert aembed(path, "index", "a.jsonl", *FAKE, "--store", "filled.db").code == 0
    assert aembed(path, "index", "a.jsonl", *FAKE, "--store", "other.db", "--cache", "cache.db").code == 0
    with closing(sqlite3.connect(path / "app.db")) as connection, connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT, embedding BLOB)")
        connection.execute("INSERT INTO notes (body) VALUES ('one'), ('two')")
    (path / "folder").mkdir()
    return path


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, and a pipe that nobody writes to."""
    for name in ("AEMBED_STORE", "AEMBED_MODEL", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    if sys.platform != "win32":
        os.mkfifo("pipe")
    return tmp_path


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def ran(*arguments: str) -> Ran:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ran(ended.value.code, captured.out, captured.err)

    return ran


def arguments_with(name: str, parameter: str, value: str) -> Iterator[tuple[str, ...]]:
    for valid in VALID[name]:
        if parameter.startswith("-"):
            yield name, *valid, f"{parameter}={value}"
        else:
            yield name, *valid[1:], "--", value


def is_told_in_one_line(ran: Ran) -> bool:
    errors = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    return not ran.out and len(errors) == 1 and ran.err.endswith(f"{errors[0]}\n") and errors[0].isprintable()


@pytest.mark.parametrize(("name", "parameter"), [each for each in TAKING if each not in NUMBERS])
def test_d8_no_value_of_any_flag_ends_in_a_traceback(name: str, parameter: str, run: Any) -> None:
    for value, arguments in itertools.chain.from_iterable(
        ((value, arguments) for arguments in arguments_with(name, parameter, value)) for value in ODD
    ):
        ran = run(*arguments)
        assert ran.code in (0, 1, 2), (value, ran)
        assert "Traceback" not in ran.err, (value, ran)
        assert "unexpected" not in ran.err, (value, ran)
        assert ran.code != 2 or is_told_in_one_line(ran), (value, ran)


@pytest.mark.parametrize(("name", "parameter"), TAKING)
def test_d8_no_value_is_empty(name: str, parameter: str, run: Any) -> None:
    """An empty PATH would be the folder where the command runs."""
    for arguments in arguments_with(name, parameter, " "):
        *front, _ = arguments
        last = [(f"{parameter}=",), (parameter, "")] if parameter.startswith("-") else [("",)]
        for each in last:
            ran = run(*front, *each)
            assert (ran.code, is_told_in_one_line(ran)) == (2, True), ran
            assert "is empty" in ran.err


@pytest.mark.parametrize(("name", "parameter"), NUMBERS)
def test_d8_what_is_no_number_is_refused(name: str, parameter: str, run: Any) -> None:
    for value in NEVER_NUMBERS:
        for arguments in arguments_with(name, parameter, value):
            ran = run(*arguments)
            assert (ran.code, is_told_in_one_line(ran)) == (2, True), (value, ran)
            assert parameter in ran.err or parameter[2:].replace("-", "_") in ran.err, (value, ran)


def test_d8_the_flags_were_found() -> None:
    assert len(TAKING) > 70
    assert len(NUMBERS) > 20
    assert set(VALID) == set(COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "note", "--where", "year"],
        ["index"],
        ["nope"],
        ["--nope"],
        ["index", "a.jsonl", "--nope"],
        ["index", "a.jsonl", "--limit"],
        ["search"],
        ["search", "a", "b"],
        ["backfill"],
        ["index", "a.jsonl", "--too-long", "cut"],
        ["index", "a.jsonl", "--yes=maybe"],
    ],
)
def test_d8_wrong_usage_is_one_line(arguments: list[str], run: Any) -> None:
    ran = run(*arguments)
    assert (ran.code, is_told_in_one_line(ran)) == (2, True), ran
