from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import Ran, aembed, notes, write_jsonl


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    """Ten notes in a folder, indexed."""
    folder = tmp_path / "notes"
    folder.mkdir()
    for i in range(10):
        (folder / f"{i}.txt").write_text(f"this is note number {i}\n")
    assert aembed(tmp_path, "index", "notes", "-m", "fake:x").code == 0
    return folder


def remove(folder: Path, n: int) -> None:
    for i in range(n):
        (folder / f"{i}.txt").unlink()


def again(folder: Path, *flags: str) -> Ran:
    ran = aembed(folder.parent, "index", "notes", "--json", *flags)
    assert ran.code == 0
    return ran


def rows(folder: Path) -> int:
    held: int = aembed(folder.parent, "status", "--json").json["rows"]
    return held


def test_rows_of_files_that_are_gone_are_removed(indexed: Path) -> None:
    remove(indexed, 5)
    assert again(indexed).json["removed"] == 5
    assert rows(indexed) == 5
    assert aembed(indexed.parent, "status", "--json").json["last_run"]["removed"] == 5
    assert again(indexed).json["removed"] == 0


def test_more_than_half_is_kept_until_yes(indexed: Path) -> None:
    remove(indexed, 6)
    kept = again(indexed)
    assert kept.json["removed"] == 0
    assert f"6 of the 10 rows of {indexed} are gone from it; they are kept (--yes removes them" in kept.err
    assert rows(indexed) == 10
    assert again(indexed, "--yes").json["removed"] == 6
    assert rows(indexed) == 4


def test_keep_stale_keeps(indexed: Path) -> None:
    remove(indexed, 3)
    kept = again(indexed, "--keep-stale", "--yes")
    assert kept.json["removed"] == 0
    assert "gone" not in kept.err
    assert rows(indexed) == 10


def test_another_folder_keeps_its_rows(indexed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_jsonl(other / "a.jsonl", notes(3))
    ran = aembed(tmp_path, "index", "other", "--json", "--yes")
    assert (ran.json["stored"], ran.json["removed"]) == (3, 0)
    assert rows(indexed) == 13


def test_a_folder_that_could_not_be_read_whole_keeps_its_rows(indexed: Path) -> None:
    remove(indexed, 2)
    (indexed / "broken.jsonl").write_text("{broken\n")
    ran = aembed(indexed.parent, "index", "notes", "--yes", "--json")
    assert (ran.code, ran.json["removed"]) == (1, 0)
    assert (
        f"2 of the 10 rows of {indexed} are gone from it, but not all of it could be read; they are kept\n" in ran.err
    )
    assert rows(indexed) == 10
