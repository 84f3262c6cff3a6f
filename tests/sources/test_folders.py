from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.errors import ConfigError
from aembed.results import Failure
from aembed.sources import Source, open_paths
from aembed.types import Record
from tests.jobs import resolve_ids


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def ids(source: Source) -> list[str]:
    return [item.id for item in source.records() if isinstance(item, Record)]


def rows(*numbers: int) -> str:
    return "id,text\n" + "".join(f"{number},text {number}\n" for number in numbers)


def test_d9_files_that_are_skipped_are_counted_by_their_ending(tmp_path: Path) -> None:
    for name in ("a.md", "b.xyz", "c.XYZ.gz", "d/e.orc", "d/Makefile", "d/a. sentence with a stop", ".hidden.xyz"):
        written(tmp_path / "folder" / name, "words")
    written(tmp_path / "folder/node_modules/x.xyz", "words")
    written(tmp_path / "folder/package.json", '{"name": "x"}')
    written(tmp_path / "folder/numbers.json", "[1, 2]")
    os.symlink(written(tmp_path / "outside.md", "words"), tmp_path / "folder/link.md")
    reading = open_paths([tmp_path / "folder"]).records()
    assert [item.id for item in reading] == ["a.md"]
    assert reading.skipped == {".xyz": 2, ".orc": 1, "without an ending": 2, ".json": 2, "links": 1}
    assert reading.roots[0].whole


def test_d9_a_table_that_is_broken_is_not_skipped(tmp_path: Path) -> None:
    written(tmp_path / "a.json", '[{"id": 1, "text": "a"')
    reading = open_paths([tmp_path]).records()
    (failure,) = reading
    assert isinstance(failure, Failure)
    assert not reading.roots[0].whole
    assert not reading.skipped


def test_d9_rows_of_two_files_with_one_id_are_told_apart_and_all_others_stay(tmp_path: Path) -> None:
    written(tmp_path / "a.csv", rows(0, 1))
    written(tmp_path / "b/c.csv", rows(1, 2))
    written(tmp_path / "b/d.jsonl", '{"id": 1, "text": "x"}')
    written(tmp_path / "e.csv", rows(3))
    written(tmp_path / "f.md", "words")
    written(tmp_path / "g.csv", "text\nwords\n")
    source = open_paths([tmp_path])
    resolve_ids(source)
    assert ids(source) == ["a.csv#0", "a.csv#1", "b/c.csv#1", "b/c.csv#2", "b/d.jsonl#1", "3", "f.md", "g.csv:2"]


def test_d9_documents_of_two_folders_with_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("x/docs", "y/docs", "z/site"):
        written(tmp_path / folder / "readme.md", "# Title\n\nwords")
        written(tmp_path / folder / f"{folder[0]}.md", "words")
    source = open_paths([tmp_path / folder for folder in ("x/docs", "y/docs", "z/site")])
    resolve_ids(source)
    assert ids(source) == [
        "x/docs/readme.md#title",
        "x.md",
        "y/docs/readme.md#title",
        "y.md",
        "site/readme.md#title",
        "z.md",
    ]


def test_d9_tables_of_one_name_are_told_apart_and_a_second_row_in_one_file_is_refused(tmp_path: Path) -> None:
    one, two = written(tmp_path / "one/rows.csv", rows(1)), written(tmp_path / "two/rows.csv", rows(1))
    source = open_paths([one, two])
    resolve_ids(source)
    assert ids(source) == ["one/rows.csv#1", "two/rows.csv#1"]
    written(two, rows(1, 4, 4))
    with pytest.raises(ConfigError, match=r"two inputs have the id '4': .*two/rows\.csv:3 and .*two/rows\.csv:4"):
        resolve_ids(open_paths([one, two]))


@given(files=st.lists(st.lists(st.integers(0, 5), max_size=4, unique=True), min_size=1, max_size=4))
def test_d9_ids_are_unique_and_change_only_in_files_that_share_one(
    files: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("d9")
    for number, content in enumerate(files):
        written(folder / f"{number}.csv", rows(*content))
    source = open_paths([folder])
    resolve_ids(source)
    assert len(set(ids(source))) == sum(map(len, files))
    expected = []
    for number, content in enumerate(files):
        shares = any(set(content) & set(other) for n, other in enumerate(files) if n != number)
        expected += [f"{number}.csv#{id}" if shares else str(id) for id in content]
    assert ids(source) == expected


def test_d9_an_id_that_looks_like_a_file_and_its_row_is_told_apart_too(tmp_path: Path) -> None:
    written(tmp_path / "a.csv", "id,text\n1,a\n")
    written(tmp_path / "b.csv", "id,text\n1,b\n")
    written(tmp_path / "c.csv", "id,text\na.csv#1,c\nc.csv#x,c\n")
    source = open_paths([tmp_path])
    resolve_ids(source)
    assert ids(source) == ["a.csv#1", "b.csv#1", "c.csv#a.csv#1", "c.csv#c.csv#x"]


def test_d9_standard_input_keeps_its_ids_and_the_file_beside_it_is_told_apart(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", rows(1, 2))
    source = open_paths([path, "-"], stdin=io.BytesIO(b'{"id": 1, "text": "x"}'))
    resolve_ids(source)
    assert ids(source) == ["a.csv#1", "a.csv#2", "1"]


def test_d9_a_folder_whose_rows_are_held_may_be_empty(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds nothing that aembed reads"):
        open_paths([tmp_path], held=["/elsewhere"])
    source = open_paths([tmp_path], held=[tmp_path.as_posix()])
    reading = source.records()
    assert list(reading) == []
    assert [(root.source, root.whole) for root in reading.roots] == [(tmp_path.as_posix(), True)]
