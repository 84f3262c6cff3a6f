from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import chdir, closing
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from pyarrow import parquet

from aembed.cli._app import app_for, exit_code_of
from tests.cli.command import Ran, aembed, notes, write_jsonl
from tests.jobs import vector_of

FAKE = ("-m", "fake:x", "--dimensions", "8")
ROWS: list[dict[str, Any]] = [
    *({**row, "year": 2000 + i, "lang": "de" if i % 2 else "en"} for i, row in enumerate(notes(9))),
    {"id": "text", "text": "of a text", "year": "2009"},
]


Run: TypeAlias = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process: a new one takes longer than all that it does here."""

    def ran(*arguments: str) -> Ran:
        with chdir(tmp_path):
            code = exit_code_of(app_for(arguments), arguments)
        return Ran(code, *capsys.readouterr())

    return ran


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled")
    assert (
        aembed(folder, "index", str(write_jsonl(folder / "rows.jsonl", ROWS)), *FAKE, "--store", "notes.db").code == 0
    )
    return folder / "notes.db"


def held(path: Path) -> tuple[list[str], list[list[float]]]:
    """Ids and vectors of a file of any format."""
    match path.suffix:
        case ".npz":
            with np.load(path) as archive:
                return archive["ids"].tolist(), archive["vectors"].tolist()
        case ".parquet":
            table = parquet.read_table(path)
            return table["id"].to_pylist(), table["vector"].to_pylist()
        case _:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            return [row["id"] for row in rows], [row["vector"] for row in rows]


@pytest.mark.parametrize("name", ["out.parquet", "out.npz", "out.jsonl"])
def test_all_rows_are_written_and_nothing_is_written_over(name: str, filled: Path, run: Run, tmp_path: Path) -> None:
    ran = run("export", name, "--store", str(filled), "--json")
    out = tmp_path / name
    told = {"file": name, "rows": 10, "dimensions": 8, "bytes": out.stat().st_size}
    assert (ran.code, ran.json, ran.err) == (0, told, "")
    texts = {row["id"]: row["text"] for row in ROWS}
    ids, vectors = held(out)
    assert ids == sorted(texts)
    assert np.array_equal(vectors, [vector_of(texts[id], 8) for id in ids])
    before = out.read_bytes()
    again = run("export", name, "--store", str(filled))
    assert (again.code, out.read_bytes() == before) == (2, True)
    assert "is there already; name another file, or replace it with --overwrite" in again.err
    some = run("export", name, "--store", str(filled), "--overwrite", "--where", "year>=2007")
    assert (some.code, some.out.startswith(f"{name}: 3 rows, 8 dimensions, ")) == (0, True)
    assert held(out)[0] == ["n7", "n8", "text"], "the year is a number, or a text"
    assert os.listdir(tmp_path) == [name]


def test_all_of_a_row_is_there(filled: Path, run: Run, tmp_path: Path) -> None:
    for name in ("out.parquet", "out.jsonl"):
        assert run("export", name, "--store", str(filled), "--where", '{"lang": "de"}').code == 0
    wanted = [row for row in ROWS if row.get("lang") == "de"]
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    table = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    for row, line, held in zip(wanted, lines, table, strict=True):
        metadata = {name: value for name, value in row.items() if name not in ("id", "text")}
        assert (
            (line["text"], line["metadata"]) == (held["text"], json.loads(held["metadata"])) == (row["text"], metadata)
        )
        assert line["source"] == held["source"] == str(filled.parent / "rows.jsonl")


def test_a_table_of_ones_own_is_exported(run: Run, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection, connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT, lang TEXT, embedding BLOB)")
        connection.execute("INSERT INTO t (body, lang) VALUES ('one', 'en'), ('zwei', 'de'), (NULL, 'en')")
    table = ("--store", "app.db", "--table", "t", "--text", "body")
    empty = run("export", "out.jsonl", *table)
    assert (empty.code, "t.embedding in app.db holds no vectors" in empty.err) == (2, True)
    assert run("backfill", *table, *FAKE).code == 0
    assert run("export", "out.jsonl", *table, "--where", "lang=de").code == 0
    assert held(tmp_path / "out.jsonl") == (["2"], [vector_of("zwei", 8).tolist()])
    wrong = run("export", "o.npz", *table, "--where", "nothing=1")
    assert (wrong.code, "no column 'nothing'" in wrong.err, (tmp_path / "o.npz").exists()) == (2, True, False)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("out.csv", "an export ends in .parquet, .npz, .jsonl"),
        ("nowhere/out.npz", "cannot be written: No such file or directory"),
        ("folder.npz", "is no file that could be replaced"),
        ("link.jsonl", "is the store itself"),
    ],
)
def test_d21_a_file_that_cannot_be_is_told_before_anything_is_read(
    name: str, said: str, filled: Path, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "link.jsonl").symlink_to(filled)
    before = filled.read_bytes()
    ran = run("export", name, "--store", str(filled), "--overwrite")
    assert (ran.code, said in ran.err, ran.err.count("\n")) == (2, True, 1)
    assert filled.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["folder.npz", "link.jsonl"]


LIMITED = """import resource, sys
from aembed.cli._app import app_for, exit_code_of
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
for name in sys.argv[1:]:
    print(exit_code_of(app_for(["export"]), ["export", name, "--overwrite"]))
"""
"""SQLite needs a file of 32 kB beside its own."""


def test_d21_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """Here: files may have 40 kB. In a process of its own, which ends as any program that did the same."""
    assert aembed(tmp_path, "index", str(write_jsonl(tmp_path / "rows.jsonl", notes(200))), *FAKE[:3], "64").code == 0
    names = ["out.parquet", "out.npz", "out.jsonl"]
    for name in names:
        (tmp_path / name).write_text("of yesterday")
    before = sorted(os.listdir(tmp_path))
    ran = aembed(tmp_path, *names, command=(sys.executable, "-c", LIMITED))
    assert ran.err.splitlines() == [
        f"error: {name} cannot be written: File too large; nothing was exported" for name in names
    ]
    assert ran.out.split() == ["3", "3", "3"]
    assert sorted(os.listdir(tmp_path)) == before
    assert [(tmp_path / name).read_text() for name in names] == ["of yesterday"] * 3
