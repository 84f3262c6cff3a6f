"""`--failures-to` never costs a file that is there, and loses no failure."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from shutil import copy

import pytest

from tests.cli.command import COMMAND, Ran, aembed, environment, notes, write_jsonl

FAKE = ("-m", "fake:x")
EMPTY = {"id": "e", "text": ""}


def index(cwd: Path, *flags: str) -> Ran:
    return aembed(cwd, "index", "a.jsonl", *FAKE, *flags)


def failed_ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of three notes, as the command made it."""
    folder = tmp_path_factory.mktemp("indexed")
    write_jsonl(folder / "a.jsonl", notes(3))
    assert index(folder).code == 0
    return folder / "aembed.db"


@pytest.fixture
def job(tmp_path: Path, indexed: Path) -> Iterator[Path]:
    """A store of three notes that somebody has open, and an input that has a failure besides."""
    copy(indexed, tmp_path)
    with closing(sqlite3.connect(tmp_path / "aembed.db")) as connection:
        connection.execute("CREATE TABLE of_others (x)")
        write_jsonl(tmp_path / "a.jsonl", [*notes(3), EMPTY])
        yield tmp_path


def sizes(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_size) for path in folder.glob("a*")}


def by_name(target: Path, folder: Path) -> Path:
    return target


def by_symlink(target: Path, folder: Path) -> Path:
    (folder / "symlink").symlink_to(target)
    return folder / "symlink"


def by_hard_link(target: Path, folder: Path) -> Path:
    os.link(target, folder / "hard")
    return folder / "hard"


def by_a_way_round(target: Path, folder: Path) -> Path:
    (folder / "elsewhere").symlink_to(folder, target_is_directory=True)
    return folder / "elsewhere" / ".." / folder.name / target.name


@pytest.mark.parametrize("named", [by_name, by_symlink, by_hard_link, by_a_way_round])
@pytest.mark.parametrize("target", ["aembed.db", "aembed.db-wal", "aembed.db-shm", "a.jsonl"])
def test_d1_the_store_and_the_inputs_are_refused(target: str, named: Callable[[Path, Path], Path], job: Path) -> None:
    path = named(job / target, job)
    before = sizes(job)
    assert target in before
    ran = index(job, "--failures-to", str(path), *(("--dry-run",) if named is by_name else ()))
    assert (ran.code, ran.out) == (2, "")
    assert "is a file that this command works on; name another" in ran.err
    assert "Traceback" not in ran.err
    assert sizes(job) == before


def test_d1_so_is_a_store_that_is_not_there_yet(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [*notes(3), EMPTY])
    ran = index(tmp_path, "--failures-to", "aembed.db")
    assert (ran.code, ran.out) == (2, "")
    assert index(tmp_path, "--store", "sqlite:///./new.db", "--failures-to", f"{tmp_path}/new.db-wal").code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_d1_so_are_files_of_a_folder_and_another_store(docs: Path, tmp_path: Path) -> None:
    (docs / "empty.jsonl").write_text('{"id": "e", "text": ""}\n')
    before = (docs / "notes.txt").read_bytes()
    for name in ("docs/notes.txt", "docs/new.jsonl"):
        ran = aembed(tmp_path, "index", "docs", *FAKE, "--failures-to", name)
        assert (ran.code, ran.out) == (2, "")
    assert (docs / "notes.txt").read_bytes() == before
    assert aembed(tmp_path, "index", "docs", *FAKE, "--failures-to", "docs/failures.log").code == 1
    ran = aembed(tmp_path, "index", "aembed.db", "--store", "new.db", *FAKE, "--failures-to", "aembed.db")
    assert (ran.code, ran.out) == (2, "")
    assert aembed(tmp_path, "status").code == 0


@pytest.mark.parametrize("target", ["other.db", "notes.md", ".env", "rows.jsonl"])
def test_d1_so_is_whatever_holds_no_failures(target: str, job: Path) -> None:
    if target == "other.db":
        assert index(job, "--store", "other.db").code == 1
    elif target == "rows.jsonl":
        write_jsonl(job / target, notes(2))
    else:
        (job / target).write_text("Years of work.\n")
    before = (job / target).read_bytes()
    ran = index(job, "--failures-to", target)
    assert (ran.code, ran.out) == (2, "")
    assert f"--failures-to {target} holds something else than failures" in ran.err
    assert (job / target).read_bytes() == before


@pytest.mark.parametrize("stream", ["stdout", "stderr", "stdin"])
def test_d1_so_is_a_file_that_a_standard_stream_leads_to(stream: str, job: Path) -> None:
    target = write_jsonl(job / "stream", [{"id": "s", "text": "from stdin"}])
    path = "-" if stream == "stdin" else "a.jsonl"
    with target.open("r" if stream == "stdin" else "a") as file:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: file}
        done = subprocess.run(
            [*COMMAND, "index", path, *FAKE, "--failures-to", "stream"],
            cwd=job,
            env=environment(),
            timeout=60,
            **streams,
        )
    assert done.returncode == 2
    assert json.loads(target.read_text().splitlines()[0]) == {"id": "s", "text": "from stdin"}


def test_d1_the_file_is_begun_at_the_first_failure(job: Path) -> None:
    assert index(job, "--failures-to", "failures.jsonl").code == 1
    assert failed_ids(job / "failures.jsonl") == ["e"]
    write_jsonl(job / "a.jsonl", [*notes(3), {"id": "f", "text": ""}])
    (job / "failures.jsonl").chmod(0o640)
    (job / "link").symlink_to("failures.jsonl")
    assert index(job, "--failures-to", "link").code == 1
    assert (job / "link").is_symlink()
    assert failed_ids(job / "failures.jsonl") == ["f"]
    assert (job / "failures.jsonl").stat().st_mode & 0o777 == 0o640
    write_jsonl(job / "a.jsonl", notes(3))
    clean = index(job, "--failures-to", "failures.jsonl")
    assert clean.code == 0
    assert "no failures; failures.jsonl is left as an earlier run wrote it\n" in clean.err
    assert failed_ids(job / "failures.jsonl") == ["f"]
    assert not list(job.glob(".*"))


def test_d1_without_a_failure_no_file_is_made(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(3))
    assert index(tmp_path, "--failures-to", "failures.jsonl").code == 0
    assert not (tmp_path / "failures.jsonl").exists()


def test_d1_a_job_that_is_stopped_leaves_its_failures_there(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [EMPTY, *notes(3)])
    ran = aembed(
        tmp_path,
        *("index", "a.jsonl", "-m", "openai:text-embedding-3-small", "--max-billed-tokens", "1"),
        *("--failures-to", "failures.jsonl"),
        env={"OPENAI_API_KEY": "sk-x"},
    )
    assert ran.code == 3
    assert failed_ids(tmp_path / "failures.jsonl") == ["e"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")
def test_d1_pipes_and_devices_are_written_to_as_they_are(job: Path) -> None:
    shell = f"{sys.executable} -m aembed index a.jsonl -m fake:x --failures-to >(cat > got.jsonl)"
    done = subprocess.run(["bash", "-c", f"{shell}; code=$?; wait; exit $code"], cwd=job, env=environment(), timeout=60)
    assert done.returncode == 1
    assert index(job, "--failures-to", "/dev/null").code == 1
    told = index(job, "--failures-to", "/dev/stderr")
    assert '{"id": "e", "index": 3, ' in told.err
    os.mkfifo(job / "nobody")
    ran = index(job, "--failures-to", "nobody")
    assert ran.code == 1
    assert "nobody cannot be written: " in ran.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")
def test_d1_a_full_disk_stops_no_job(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [EMPTY, *notes(3)])
    ran = index(tmp_path, "--failures-to", "/dev/full")
    assert (ran.code, ran.out.split(", ")[1]) == (1, "3 stored")
    assert "/dev/full cannot be written: No space left on device" in ran.err


@pytest.mark.parametrize("name", ["docs", "no/such/folder.jsonl", "a.jsonl/x", "x" * 300, "loop", "é\u202e/x"])
def test_d1_a_place_that_cannot_be_written_is_refused_before_anything_is_sent(
    name: str, docs: Path, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(3))
    (tmp_path / "loop").symlink_to("loop")
    ran = index(tmp_path, "--failures-to", name)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "aembed.db").exists()


def test_d1_backfill_refuses_its_database(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(3))
    assert index(tmp_path).code == 0
    before = (tmp_path / "aembed.db").read_bytes()
    flags = ("--table", "t", "--text", "x", "--failures-to")
    for name in ("aembed.db", "aembed.db-wal", "aembed.db-shm", "aembed.db-journal"):
        ran = aembed(tmp_path, "backfill", *FAKE, *flags, name)
        assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert (tmp_path / "aembed.db").read_bytes() == before


def test_d1_a_store_is_no_input_of_itself(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    ran = aembed(tmp_path, "index", "empty.txt", *FAKE, "--store", "empty.txt")
    assert (ran.code, (tmp_path / "empty.txt").read_bytes()) == (2, b"")
    write_jsonl(tmp_path / "a.jsonl", notes(3))
    assert index(tmp_path).code == 0
    itself = aembed(tmp_path, "index", "aembed.db", *FAKE)
    assert (itself.code, "is read by this command" in itself.err) == (2, True)
