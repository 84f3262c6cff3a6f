"""Which files `aembed index` reads again: the command's own steps, on real files and stores, a few seconds later."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from aembed import Embedder, PostgresStore, SQLiteStore
from aembed.cli._inputs import Inputs
from aembed.cli._stale import _ids_missing
from aembed.cli.index import IndexOrder, _find_inputs, _recall_files, _Work
from aembed.protocols import RemembersFiles, Store
from aembed.results import Plan, Report
from aembed.sources import Source
from aembed.sources._hashes import IdHashes, hash_id
from aembed.stores import open_store
from tests.cli.command import aembed

LATER = 10_000_000_000
"""Nanoseconds: what was written just now is old by then."""


@dataclass(frozen=True, slots=True)
class Ran:
    read: list[str]
    """The files that the plan read."""
    plan: Plan
    report: Report


async def index(
    url: str, *paths: Path, later: int = LATER, opened: Store | None = None, model: Any = "fake:x", **order: Any
) -> Ran:
    """What the command does between its flags and its words."""
    too_long = order.pop("too_long", "error")
    given = IndexOrder(paths=tuple(map(str, paths)), store=url, **{"yes": True, **order})
    store = opened or open_store(url)
    try:
        async with Embedder(model, too_long=too_long) as embedder:
            info = await store.info()
            inputs = _find_inputs(given, info)
            assert isinstance(inputs.source, Source)
            inputs = Inputs(replace(inputs.source, clock=lambda: time.time_ns() + later), given.limit)
            work = _Work(given, store, info, embedder, inputs, await _recall_files(given, store, info, inputs))
            plan, reading = await work.plan()
            assert reading.reading
            read = [each.file.name for each in reading.reading.files]
            if given.dry_run:
                return Ran(read, plan, Report())
            ending = await work.run_second_pass(plan, reading)
            assert isinstance(ending.progress, Report)
            return Ran(read, plan, ending.progress)
    finally:
        if opened is None:
            await store.aclose()


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


NAMES = ["a.md", "b.txt", "c/d.csv", "c/e.jsonl", "f.json", "g.txt.gz"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six files of six kinds with eight rows."""
    folder = tmp_path / "folder"
    write(folder / "a.md", "# One\n\nwords\n\n# Two\n\nmore words\n")
    write(folder / "b.txt", "some words")
    write(folder / "c/d.csv", "id,text\n1,one\n2,two\n")
    write(folder / "c/e.jsonl", '{"id": 3, "text": "three"}\n')
    write(folder / "f.json", '["four"]')
    (folder / "g.txt.gz").write_bytes(gzip.compress(b"packed"))
    return folder


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "notes.db")
    else:
        yield f"{request.getfixturevalue('database')}?table=t_{os.urandom(6).hex()}"


async def ids(url: str) -> list[str]:
    store = open_store(url)
    try:
        return [row.id async for row in store.rows()]
    finally:
        await store.aclose()


async def test_d14_files_that_have_not_changed_are_not_read_again(url: str, folder: Path) -> None:
    first = await index(url, folder)
    assert (first.read, first.report.stored) == (NAMES, 8)
    again = await index(url, folder)
    assert (again.read, again.plan.unchanged, again.plan.inputs) == ([], 8, 8)
    assert (again.report.inputs, again.report.unchanged, again.report.stored) == (8, 8, 0)
    assert (await index(url, folder, dry_run=True)).plan == again.plan
    assert (await index(url, folder, reread=True)).read == NAMES
    assert (await index(url, folder)).read == []


async def test_d14_a_file_that_changed_is_read_alone_and_its_old_rows_are_removed(url: str, folder: Path) -> None:
    await index(url, folder)
    write(folder / "a.md", "# One\n\nwords\n\n# Three\n\nother words\n")
    changed = await index(url, folder)
    assert (changed.read, changed.report.stored, changed.report.unchanged) == (["a.md"], 1, 7)
    assert changed.report.removed == 1
    assert "a.md#three" in await ids(url)
    assert "a.md#two" not in await ids(url)
    assert (await index(url, folder)).read == []
    (folder / "b.txt").unlink()
    write(folder / "new.txt", "new")
    assert (await index(url, folder, dry_run=True)).plan.stale == ("b.txt",)
    last = await index(url, folder)
    assert (last.read, last.report.stored, last.report.removed) == (["new.txt"], 1, 1)
    assert (await index(url, folder)).read == []


async def test_d15_size_and_time_alone_do_not_make_a_file_unchanged(tmp_path: Path, folder: Path) -> None:
    url, path = str(tmp_path / "notes.db"), folder / "b.txt"
    await index(url, folder)
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    # The same size, written over, and given its old time again: the system's own time of the change tells.
    path.write_text("other word")
    os.utime(path, ns=times)
    assert (await index(url, folder)).report.stored == 1
    # Another file in its place, with the same size and time: its inode tells.
    write(folder / "beside", "third word")
    os.utime(folder / "beside", ns=times)
    os.replace(folder / "beside", path)
    assert (await index(url, folder)).report.stored == 1
    assert (await index(url, folder)).read == []
    # Nothing but its time is another one.
    os.utime(path)
    touched = await index(url, folder)
    assert (touched.read, touched.report.stored, touched.report.unchanged) == (["b.txt"], 0, 8)
    assert (await index(url, folder)).read == []


async def test_d15_a_file_as_young_as_its_memo_is_read_again(tmp_path: Path, folder: Path) -> None:
    url = str(tmp_path / "notes.db")
    await index(url, folder)
    write(folder / "b.txt", "young words")
    # Read within the same two seconds: another change at once would have the same time.
    assert (await index(url, folder, later=0)).read == ["b.txt"]
    assert (await index(url, folder, later=0)).read == ["b.txt"]
    assert (await index(url, folder)).read == ["b.txt"]
    assert (await index(url, folder)).read == []


async def test_d15_links_that_lead_elsewhere_are_read_and_hard_links_are_two_files(
    tmp_path: Path, folder: Path
) -> None:
    url = str(tmp_path / "notes.db")
    write(folder / "x.txt", "first")
    write(folder / "y.txt", "other")
    (folder / "link.txt").symlink_to(folder / "x.txt")
    os.link(folder / "x.txt", folder / "hard.txt")
    assert (await index(url, folder)).report.stored == 12
    assert (await index(url, folder)).read == []
    (folder / "link.txt").unlink()
    (folder / "link.txt").symlink_to(folder / "y.txt")
    assert (await index(url, folder)).read == ["link.txt"]
    (folder / "x.txt").write_text("third")
    assert (await index(url, folder)).read == ["hard.txt", "x.txt"]
    assert (await index(url, folder)).read == []


async def test_d16_rows_that_others_remove_come_back(url: str, folder: Path) -> None:
    await index(url, folder)
    store = open_store(url)
    await store.delete(["a.md#one"])
    await store.aclose()
    again = await index(url, folder)
    assert (again.read, again.report.stored, again.report.unchanged) == (NAMES, 1, 7)
    assert (await index(url, folder)).read == []


async def test_d16_a_row_that_is_deleted_by_hand_comes_back(tmp_path: Path, folder: Path) -> None:
    url = str(tmp_path / "notes.db")
    await index(url, folder)
    with closing(sqlite3.connect(url)) as connection, connection:
        connection.execute("DELETE FROM aembed_rows WHERE id = 'c/d.csv' OR id = '1'")
    assert (await index(url, folder)).report.stored == 1


async def test_d16_a_row_that_another_source_took_comes_back(tmp_path: Path, folder: Path) -> None:
    url, other = str(tmp_path / "notes.db"), write(tmp_path / "other/b.txt", "taken").parent
    await index(url, folder)
    await index(url, other)
    assert (await index(url, folder)).read == NAMES


async def test_d16_a_file_with_a_text_that_failed_is_read_again_and_the_failure_is_told(url: str, folder: Path) -> None:
    write(folder / "c/e.jsonl", '{"id": 3, "text": "three"}\n{"id": 4, "text": " "}\n{"id": 5\n')
    for _ in range(3):
        ran = await index(url, folder)
        assert (ran.report.failed, ran.plan.failed, ran.report.inputs) == (2, 2, 10)
        assert [failure.index for failure in ran.report.failures] == [6, 7]
    assert ran.read == ["c/e.jsonl"]
    write(folder / "c/e.jsonl", '{"id": 3, "text": "three"}\n')
    assert (await index(url, folder)).report.failed == 0
    assert (await index(url, folder)).read == []


async def test_d16_other_options_and_another_reading_make_all_be_read(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path / "notes.db")
    await index(url, folder)
    assert (await index(url, folder, metadata_fields=["x"])).read == NAMES
    assert (await index(url, folder, metadata_fields=["x"])).read == []
    assert (await index(url, folder)).read == NAMES
    assert (await index(url, folder, too_long="truncate")).read == NAMES
    assert (await index(url, folder)).read == NAMES
    assert (await index(url, folder)).read == []
    monkeypatch.setattr("aembed.sources._way.READING", 0)
    assert (await index(url, folder)).read == NAMES


async def test_d16_an_id_of_a_new_file_that_clashes_with_one_that_was_not_read(url: str, folder: Path) -> None:
    await index(url, folder)
    write(folder / "h.csv", "id,text\n2,another two\n9,nine\n")
    clash = await index(url, folder)
    assert clash.read == ["c/d.csv", "h.csv"]
    assert {"c/d.csv#1", "c/d.csv#2", "h.csv#2", "h.csv#9"} <= set(await ids(url))
    assert clash.report.removed == 2
    # Their ids hang on each other, so they are read each time.
    again = await index(url, folder)
    assert (again.read, again.report.unchanged, again.report.stored) == (["c/d.csv", "h.csv"], 10, 0)
    (folder / "h.csv").unlink()
    await index(url, folder)
    assert {"1", "2"} <= set(await ids(url))
    assert len(await ids(url)) == 8


async def test_d16_rows_that_are_kept_though_their_files_are_gone(tmp_path: Path, folder: Path) -> None:
    url = str(tmp_path / "notes.db")
    await index(url, folder)
    (folder / "b.txt").unlink()
    assert (await index(url, folder, keep_stale=True)).report.removed == 0
    assert (await index(url, folder, keep_stale=True)).read == []
    assert (await index(url, folder, dry_run=True)).plan.stale == ("b.txt",)
    gone = await index(url, folder)
    assert (gone.read, gone.report.removed) == ([], 1)
    assert (await index(url, folder)).read == []


async def test_d16_a_store_that_is_put_back_brings_its_memory(tmp_path: Path, folder: Path) -> None:
    url, kept = str(tmp_path / "notes.db"), str(tmp_path / "kept.db")
    await index(url, folder)
    shutil.copy(url, kept)
    write(folder / "b.txt", "words of today")
    await index(url, folder)
    shutil.copy(kept, url)
    again = await index(url, folder)
    assert (again.read, again.report.stored) == (["b.txt"], 1)


async def test_d16_a_part_of_the_inputs_is_read_without_the_memory(tmp_path: Path, folder: Path) -> None:
    url = str(tmp_path / "notes.db")
    await index(url, folder)
    assert (await index(url, folder, limit=3)).plan.inputs == 3
    assert (await index(url, folder)).read == []


async def test_d16_two_runs_at_once_leave_nothing_that_is_believed(url: str, folder: Path) -> None:
    await index(url, folder)
    first, second = open_store(url), open_store(url)
    try:
        assert isinstance(first, RemembersFiles)
        assert isinstance(second, RemembersFiles)
        source = folder.as_posix()
        known = await first.known_files(source)
        assert known
        assert (known.rows, len(known.files), known.is_open) == (8, 6, False)
        one = await first.begin_files(source, known.generation, anew=False)
        assert one
        assert await second.begin_files(source, known.generation, anew=False) is None
        await first.end_files(source, one, 0)
        held = await first.known_files(source)
        assert held
        assert (held.is_open, held.files) == (True, {})
    finally:
        await first.aclose()
        await second.aclose()
    assert (await index(url, folder)).read == NAMES
    assert (await index(url, folder)).read == []


async def test_d16_many_ids_come_in_parts(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aembed.cli._memory.IDS_PER_PART", 7)
    monkeypatch.setattr("aembed.cli._memory.PARTS_AT_ONCE", 3)
    for module in ("_sqlite", "_postgresql"):
        monkeypatch.setattr(f"aembed.stores.{module}._read_files.PAGE_BYTES", 500)
    folder = write(tmp_path / "t/many.csv", "id,text\n" + "".join(f"{n},text {n}\n" for n in range(100))).parent
    write(folder / "few.txt", "words")
    await index(url, folder)
    write(folder / "few.txt", "other words")
    assert (await index(url, folder)).read == ["few.txt"]
    write(folder / "clash.csv", "id,text\n93,other\n")
    assert (await index(url, folder)).read == ["clash.csv", "many.csv"]


async def test_d16_a_row_is_never_taken_for_gone_because_of_a_hash(tmp_path: Path) -> None:
    url, lines = str(tmp_path / "notes.db"), [f"{number},text {number}\n" for number in range(60)]
    folder = write(tmp_path / "t/rows.csv", "id,text\n" + "".join(lines)).parent
    await index(url, folder)
    store, narrow = SQLiteStore(url), IdHashes(lambda id: bytes([hash_id(id)[0] & 15, *bytes(7)]))
    for number in range(0, 60, 12):
        narrow.add(str(number))
    gone = await _ids_missing(store, folder.as_posix(), narrow)
    hashes = {narrow.hash_of(str(number)) for number in range(0, 60, 12)}
    # One whose hash is that of a row that was read stays where it is; and all that were read do.
    assert gone == sorted(str(number) for number in range(60) if narrow.hash_of(str(number)) not in hashes)
    assert 0 < len(gone) < 55
    await store.aclose()


HAS = "prepare reject known vectors write stale delete rows refusals info finish search aclose answered_by"


class OtherStore:
    """A store of a user's own, which has what a Store has to have."""

    def __init__(self, store: SQLiteStore) -> None:
        for name in HAS.split():
            setattr(self, name, getattr(store, name))


async def test_d14_a_store_that_cannot_remember_is_indexed_as_before(tmp_path: Path, folder: Path) -> None:
    url = str(tmp_path / "notes.db")
    store: Any = OtherStore(SQLiteStore(url))
    assert isinstance(store, Store)
    assert not isinstance(store, RemembersFiles)
    await index(url, folder, opened=store)
    (folder / "b.txt").unlink()
    again = await index(url, folder, opened=store)
    assert (len(again.read), again.report.unchanged, again.report.removed) == (5, 7, 1)
    await store.aclose()


async def test_d14_a_role_that_may_make_no_tables_reads_all(database: str, folder: Path) -> None:
    """One that may write the rows, in a schema where it may make nothing."""
    name = f"r{os.urandom(6).hex()}"
    table, place = f"public.t_{name}", re.sub(r"//[^@/]*@", f"//{name}:secret@", database)
    await index(f"{database}?table={table}", write(folder / "x/one.txt", "words").parent)
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(
            f"CREATE ROLE {name} LOGIN PASSWORD 'secret'; REVOKE CREATE ON SCHEMA public FROM public"
        )
        for each in ("", "_meta", "_refusals", "_leases", "_workers"):
            await connection.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table}{each} TO {name}")
        await connection.execute(f"DROP TABLE {table}_memory, {table}_memories")
        for read in (NAMES, NAMES):
            (folder / "x/one.txt").unlink(missing_ok=True)
            store = PostgresStore(place, table=table)
            assert await store.known_files(folder.as_posix()) is None
            await store.aclose()
            assert (await index(f"{place}?table={table}", folder)).read == read
    finally:
        await connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
        await connection.close()


async def test_d14_a_memory_that_cannot_be_written_loses_nothing_else(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = str(tmp_path / "notes.db")
    with closing(sqlite3.connect(url)) as connection, connection:
        connection.execute("CREATE TABLE aembed_files (a)")
    assert (await index(url, folder)).report.stored == 8
    assert "which files were read cannot be remembered: " in capsys.readouterr().err
    assert (await index(url, folder)).report.unchanged == 8


KILL = "lambda *given, **named: os.kill(os.getpid(), signal.SIGKILL)"
POINTS = {
    "while it embeds": f"from aembed.providers.fake import FakeProvider; FakeProvider._embed = {KILL}",
    "once it has stored": f"from aembed.stores._sqlite import _read_files; _read_files.remember = {KILL}",
    "at the end": f"from aembed.stores._sqlite import _read_files; _read_files.end = {KILL}",
}


@pytest.mark.parametrize("point", POINTS)
async def test_d16_a_run_that_is_killed_makes_all_be_read(tmp_path: Path, folder: Path, point: str) -> None:
    url = str(tmp_path / "notes.db")
    await index(url, folder)
    write(folder / "new.txt", "new words")
    write(folder / "a.md", "# One\n\nwords\n\n# Four\n\nother words\n")
    run = "import os, signal, sys; from aembed.cli import main; " + POINTS[point] + "; main(sys.argv[1:])"
    command = (sys.executable, "-c", run)
    assert aembed(tmp_path, "index", "folder", "--store", url, command=command).code == -signal.SIGKILL
    again = await index(url, folder)
    assert again.read == ["a.md", "b.txt", "c/d.csv", "c/e.jsonl", "f.json", "g.txt.gz", "new.txt"]
    assert sorted(await ids(url)) == [
        "1",
        "2",
        "3",
        "a.md#four",
        "a.md#one",
        "b.txt",
        "f.json:1",
        "g.txt.gz",
        "new.txt",
    ]
    assert (await index(url, folder)).read == []


def test_d14_the_command_says_the_same_whether_it_reads_or_not(tmp_path: Path, folder: Path) -> None:
    write(folder / "picture.png", "")
    command = ("index", "folder", "-m", "fake:x", "--json", "--store", "notes.db")
    assert aembed(tmp_path, *command).json["stored"] == 8
    said = [aembed(tmp_path, *command, *flags).json for flags in ((), ("--reread",))]
    for each in said:
        each.pop("seconds")
    assert said[0] == said[1]
    assert (said[0]["unchanged"], said[0]["skipped_files"]) == (8, {".png": 1})
