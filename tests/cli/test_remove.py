from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import aembed, notes, write_jsonl

FAKE = ("-m", "fake:x")


@pytest.fixture
def filled(docs: Path, tmp_path: Path) -> Path:
    """A folder of four sections and a file of three notes in one store."""
    write_jsonl(tmp_path / "a.jsonl", notes(3))
    assert aembed(tmp_path, "index", "docs", "a.jsonl", *FAKE).code == 0
    return tmp_path


@pytest.mark.parametrize("named", ["docs", "./docs/", "{}/docs"])
def test_the_rows_of_a_folder_are_removed(named: str, filled: Path) -> None:
    source = named.format(filled)
    planned = aembed(filled, "remove", "--source", source, "--dry-run")
    assert (planned.code, planned.out) == (0, "4 rows would be removed\n")
    ran = aembed(filled, "remove", "--source", source)
    assert (ran.code, ran.out, ran.err) == (0, "4 rows removed\n", "")
    told = aembed(filled, "status", "--json").json
    assert (told["rows"], list(told["sources"].values())) == (3, [3])
    again = aembed(filled, "remove", "--source", source)
    assert (again.code, again.out) == (2, "")
    assert f"no rows of the source {source!r}; it has rows of: {filled}/a.jsonl" in again.err


def test_rows_are_removed_by_id(filled: Path) -> None:
    ran = aembed(filled, "remove", "--id", "n1", "--id", "n1", "--id", "guide.md#guide", "--id", "nothing", "--json")
    assert (ran.code, ran.json) == (0, {"removed": 2})
    assert ran.err == "1 id had no row\n"
    found = aembed(filled, "search", "note", "-k", "10", "--json").json["matches"]
    assert {match["id"] for match in found} >= {"n0", "n2"}
    assert {match["id"] for match in found}.isdisjoint({"n1", "guide.md#guide"})
    assert aembed(filled, "index", "a.jsonl", "--json").json["stored"] == 1


def test_nothing_is_removed_without_a_name_or_a_store(filled: Path) -> None:
    ran = aembed(filled, "remove")
    assert (ran.code, "--source PATH  or  --id ID" in ran.err) == (2, True)
    absent = aembed(filled, "remove", "--id", "x", "--store", "absent.db")
    assert (absent.code, (filled / "absent.db").exists()) == (2, False)
    assert aembed(filled, "status", "--json").json["rows"] == 7
