from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.command import aembed
from tests.jobs import vector_of

FILL = ("backfill", "--store", "notes.db", "--table", "sections", "--text", "content", "-m", "fake:x")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of five texts; the last is empty."""
    path = tmp_path / "notes.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE sections (id INTEGER PRIMARY KEY, content TEXT, lang TEXT, embedding BLOB)")
        texts = [("one", "en"), ("two", "en"), ("drei", "de"), ("vier", "de"), ("", "en")]
        connection.executemany("INSERT INTO sections (content, lang) VALUES (?, ?)", texts)
    return path


def column(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT embedding FROM sections ORDER BY id")]


def test_fills_the_empty_column(table: Path, tmp_path: Path) -> None:
    ran = aembed(tmp_path, *FILL)
    assert ran.code == 1
    assert ran.out.startswith("5 texts, 4 stored, 0 unchanged, 1 failed, 1 requests, ")
    assert ran.err.splitlines()[0] == "sections.content -> sections.embedding of notes.db, fake:x, 64 dimensions"
    assert "  5: the text of '5' is empty" in ran.err
    vectors = column(table)
    assert [vectors[0], vectors[3]] == [vector_of("one").tobytes(), vector_of("vier").tobytes()]
    assert vectors[4] is None
    assert aembed(tmp_path, *FILL, "--json").json["stored"] == 0


def test_dry_run_writes_nothing(table: Path, tmp_path: Path) -> None:
    before = table.read_bytes()
    ran = aembed(tmp_path, *FILL, "--dry-run", "--json")
    assert ran.code == 0
    assert {"inputs": 5, "new": 4, "failed": 1, "requests": 1}.items() <= ran.json.items()
    assert table.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["notes.db"]


def test_limit_and_where(table: Path, tmp_path: Path) -> None:
    ran = aembed(tmp_path, *FILL, "--where", "lang = 'de'", "--limit", "1", "--json")
    assert (ran.code, ran.json["stored"]) == (0, 1)
    assert [vector is not None for vector in column(table)] == [False, False, True, False, False]


def test_the_column_keeps_its_model(table: Path, tmp_path: Path) -> None:
    assert aembed(tmp_path, *FILL, "--limit", "2").code == 0
    ran = aembed(tmp_path, *FILL[:-2], "--where", "lang = 'de'")
    assert ran.code == 0
    assert "fake:x, 64 dimensions\n" in ran.err
    assert np.frombuffer(column(table)[2], "<f4").tolist() == vector_of("drei").tolist()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--table", "nope"), "nope"),
        (("--text", "body"), "body"),
        (("--vector", "vec"), "vec"),
        (("--key", "uuid"), "uuid"),
        (("--store", "no.db"), "no.db does not exist"),
        (("--store", "memory:"), "memory: has no tables of your own"),
    ],
)
def test_a_wrong_name_is_refused(table: Path, tmp_path: Path, flags: tuple[str, ...], named: str) -> None:
    for dry in ((), ("--dry-run",)):
        ran = aembed(tmp_path, *FILL, *flags, *dry)
        assert (ran.code, ran.out) == (2, "")
        assert named in ran.err.splitlines()[-1]
    assert not (tmp_path / "no.db").exists()
