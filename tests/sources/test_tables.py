from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.errors import ConfigError
from aembed.results import Failure
from aembed.sources import _bounds, open_paths
from aembed.types import Record

CELLS = st.text("ab ,;|\t\"'\n1", max_size=12)


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def table(rows: list[list[str]], delimiter: str) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue()


def ids_and_texts(path: Path, **options: Any) -> list[tuple[str, str]]:
    items = list(open_paths([path], **options).records())
    assert not [str(item) for item in items if isinstance(item, Failure)]
    return [(item.id, item.text) for item in items if isinstance(item, Record)]


def told(path: Path, **options: Any) -> str:
    (failure,) = open_paths([path], **options).records()
    assert isinstance(failure, Failure)
    return str(failure.error)


@pytest.mark.parametrize("delimiter", list(",;\t|"))
@pytest.mark.parametrize("ending", [".csv", ".tsv"])
@given(rows=st.lists(st.tuples(CELLS, CELLS.filter(str.strip)), min_size=1, max_size=5))
def test_d10_the_separator_is_seen_in_the_header(
    delimiter: str, ending: str, rows: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = [[str(number), note, text] for number, (note, text) in enumerate(rows)]
    content = table([["id", "a, note; or |", "text"], *lines], delimiter)
    path = written(tmp_path_factory.mktemp("d10") / f"rows{ending}", content)
    assert ids_and_texts(path) == [(id, text) for id, _, text in lines]


def test_d10_the_separator_can_be_given_or_be_told_as_excel_does(tmp_path: Path) -> None:
    odd = written(tmp_path / "odd.csv", "id^text\n1^a,b;c\n")
    assert ids_and_texts(odd, delimiter="^") == [("1", "a,b;c")]
    assert "split at ','" in told(odd)
    excel = written(tmp_path / "excel.csv", "sep=^\r\nid^text\r\n1^a\r\n")
    assert ids_and_texts(excel) == [("1", "a")]
    unnamed = written(tmp_path / "unnamed.csv", "sep=^\r\ntext^n\r\na^1\r\n")
    assert ids_and_texts(unnamed) == [("unnamed.csv:3", "a")]
    for wrong in ("", ";;", '"', "\n"):
        with pytest.raises(ConfigError, match="the delimiter"):
            open_paths([odd], delimiter=wrong)


def test_d10_rows_without_an_id_are_named_by_file_and_line(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", 'text;n\na;1\n"b\nc";2\nd;3\n')
    assert ids_and_texts(path) == [("rows.csv:2", "a"), ("rows.csv:3", "b\nc"), ("rows.csv:5", "d")]
    packed = written(tmp_path / "rows.csv.gz", gzip.compress(path.read_bytes()))
    assert [id for id, _ in ids_and_texts(packed)] == ["rows.csv.gz:2", "rows.csv.gz:3", "rows.csv.gz:5"]
    lines = written(tmp_path / "rows.jsonl", '{"text": "a"}\n\n{"text": "b", "id": 7}\n')
    assert ids_and_texts(lines) == [("rows.jsonl:1", "a"), ("rows.jsonl:3", "b")]


def test_d10_a_row_that_lacks_the_id_of_the_others_fails(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", '{"id": 1, "text": "a"}\n{"text": "b"}\n')
    record, failure = open_paths([path]).records()
    assert (record.id, failure.id) == ("1", "rows.jsonl:2")
    assert "--id-field NAME" in str(failure)


def test_d10_a_field_that_was_named_and_is_missing_is_told_with_its_flag(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", "key;body\n1;a\n")
    assert "'text'; split at ',' it names" not in told(path)
    assert "the header row must name 'text'; split at ';' it names ['key', 'body']" in told(path)
    assert "the header row must name 'id' and 'body'" in told(path, id_field="id", text_field="body")
    for flag in ("--id-field NAME", "--text-field NAME", "--delimiter"):
        assert flag in told(path)
    assert ids_and_texts(path, id_field="key", text_field="body") == [("1", "a")]


def test_d10_standard_input_has_no_name_to_make_ids_of() -> None:
    (failure,) = open_paths(["-"], stdin=io.BytesIO(b'{"text": "a"}')).records()
    assert "it has no field 'id'" in str(failure)


def test_d10_a_list_of_objects_or_of_texts_is_a_table(tmp_path: Path) -> None:
    objects = [{"id": 1, "text": "a", "n": [1, {"x": None}]}, {"id": "x", "text": "é"}]
    path = written(tmp_path / "rows.json", "\ufeff \n" + json.dumps(objects, indent=2))
    assert list(open_paths([path]).records()) == [
        Record("1", "a", {"n": [1, {"x": None}]}, path.as_posix()),
        Record("x", "é", None, path.as_posix()),
    ]
    texts = written(tmp_path / "texts.json.gz", gzip.compress(b'["a", "b"]'))
    assert ids_and_texts(texts) == [("texts.json.gz:1", "a"), ("texts.json.gz:2", "b")]
    assert ids_and_texts(written(tmp_path / "a.json", '[{"text": "a"}, "b"]')) == [("a.json:1", "a"), ("a.json:2", "b")]
    assert ids_and_texts(written(tmp_path / "empty.json", "[]")) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'[{"id": 1, "text": "a"}', "it is not JSON"),
        (b"[" * 500_000, "it is not JSON"),
        (b'["\xff"]', "not UTF-8"),
        (b"", "it is empty"),
        (b'{"name": "x"}', "not a list of objects or texts"),
        (b"[1, 2]", "not a list of objects or texts"),
        (b'[{"name": "x"}]', "it has no field 'text'; add it, or name the field that holds it (--text-field NAME)"),
    ],
)
def test_d10_json_that_is_no_table_is_told_where_it_was_named(tmp_path: Path, content: bytes, reason: str) -> None:
    message = told(written(tmp_path / "a.json", content))
    assert message.startswith(("a.json: ", "a.json element 1: "))
    assert reason in message


def test_d10_an_element_that_is_no_row_fails_alone(tmp_path: Path) -> None:
    content = b'[{"id": 1, "text": "a"}, null, {"id": 2}, {"id": 3, "text": "b"}, ' + b"[" * 5_000 + b"]" * 5_000 + b"]"
    items = list(open_paths([written(tmp_path / "a.json", content)]).records())
    assert [item.id for item in items if isinstance(item, Record)] in (["1", "3"], [])
    assert all(item.id.startswith("a.json") for item in items if isinstance(item, Failure))


def test_d10_large_json_that_is_no_list_is_not_read_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bounds, "MAX_BYTES", 200_000)
    written(tmp_path / "settings.json", json.dumps({"x": "y" * 300_000}))
    written(tmp_path / "numbers.json", json.dumps([{"x": 1}] * 100_000))
    written(tmp_path / "rows.json", json.dumps([{"id": 1, "text": "y" * 300_000}]))
    reading = open_paths([tmp_path]).records()
    assert [str(item) for item in reading] == ["rows.json: rows.json: skipped: it holds more than 0 MB; split it"]
    assert reading.skipped == {".json": 2}


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_d10_a_table_of_another_encoding_is_told_once_for_what_it_is(tmp_path: Path, name: str) -> None:
    rows = "id,text\n1,one\n2,two\n" if name.endswith("csv") else '{"id": 1, "text": "one"}\n{"id": 2, "text": "two"}\n'
    assert told(written(tmp_path / name, rows.encode("utf-16"))) == f"{name}: it is UTF-16, not UTF-8; convert the file"


def test_d10_two_columns_of_the_name_that_is_looked_for_are_told(tmp_path: Path) -> None:
    said = told(written(tmp_path / "rows.csv", "id,text,text\n1,one,uno\n"))
    assert "two columns named 'text'" in said


@pytest.mark.parametrize("cell", ["x" * 70, f'"{"x" * 70}"'])
def test_d7_rows_after_a_line_that_is_too_large_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: str
) -> None:
    for module in ("_bounds", "csv"):
        monkeypatch.setattr(f"aembed.sources.{module}.MAX_BYTES", 50)
    rows = written(tmp_path / "rows.csv", f'id,text\n1,one\n2,{cell}\n3,"th\nree"\n,four\n')
    items = list(open_paths([rows]).records())
    assert [item.id for item in items] == ["1", "rows.csv:3", "3", "rows.csv:6"]
    assert isinstance(items[1], Failure)
