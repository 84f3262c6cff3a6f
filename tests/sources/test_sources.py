from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.errors import ConfigError, InputError
from aembed.results import Failure
from aembed.sources import Root, Source, open_paths
from aembed.types import Record
from tests.jobs import resolve_ids


def records(source: Source) -> list[Record]:
    return [item for item in source.records() if isinstance(item, Record)]


def failures(source: Source) -> list[Failure]:
    return [item for item in source.records() if isinstance(item, Failure)]


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_folder_is_walked_in_order_and_hidden_and_foreign_folders_are_left_out(tmp_path: Path) -> None:
    read = ["a.txt", "b/c.md", "b/d.rst.gz", "e.html", "z.TXT"]
    skipped = [".x.txt", ".git/a.txt", "node_modules/a.txt", "__pycache__/a.txt", "v/a.txt", "v/lib/a.txt", "image.png"]
    for name in [*read, *skipped]:
        written(tmp_path / name, gzip.compress(b"words") if name.endswith(".gz") else "words")
    written(tmp_path / "v/pyvenv.cfg", "")
    source = open_paths([tmp_path])
    assert [record.id for record in records(source)] == read
    assert {record.source for record in records(source)} == {tmp_path.as_posix()}


def test_links_that_lead_out_of_the_folder_are_left_out(tmp_path: Path) -> None:
    inside, outside = written(tmp_path / "in/a.txt", "inside"), written(tmp_path / "out/b.txt", "outside")
    (tmp_path / "in/link.txt").symlink_to(inside)
    (tmp_path / "in/out.txt").symlink_to(outside)
    (tmp_path / "in/folder").symlink_to(tmp_path / "in")
    assert [record.id for record in records(open_paths([tmp_path / "in"]))] == ["a.txt", "link.txt"]


def test_a_file_given_directly_is_named_by_its_file_name(tmp_path: Path) -> None:
    path = written(tmp_path / "docs/.notes.txt", "words")
    assert records(open_paths([str(path)])) == [
        Record(".notes.txt", "words", {"path": ".notes.txt", "heading": ""}, path.as_posix())
    ]


def test_a_path_given_twice_is_read_once(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", "words")
    assert len(records(open_paths([path, str(path), path.parent / "." / "a.txt"]))) == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "nothing to read"),
        (["gone"], "gone does not exist"),
        (["gone.md"], "gone.md does not exist"),
        (["a.xyz"], "a.xyz has an ending that aembed does not read; it reads .arrow .csv"),
        (["empty"], "empty holds nothing that aembed reads"),
        (["pipe.txt"], "neither a file nor a folder"),
    ],
)
def test_what_cannot_be_read_is_refused_at_once(tmp_path: Path, names: list[str], message: str) -> None:
    written(tmp_path / "a.xyz", "")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(ConfigError, match=message):
        open_paths([tmp_path / name for name in names])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such file name")
def test_a_file_name_that_is_not_utf8_fails_and_its_neighbours_are_read(tmp_path: Path) -> None:
    written(tmp_path / "a.txt", "words")
    written(Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff.txt")), "words")
    reading = open_paths([tmp_path]).records()
    record, failure = reading
    assert record.id == "a.txt"
    assert str(failure) == "b\\udcff.txt: b\\udcff.txt: the file name is not UTF-8; rename it"
    assert reading.roots == (Root(tmp_path.as_posix(), whole=False),)


def test_a_file_that_is_not_utf8_or_gone_fails_and_its_neighbours_are_read(tmp_path: Path) -> None:
    contents: dict[str, str | bytes] = {"a.txt": "words", "b.txt": b"caf\xe9", "c.txt": "gone", "d.txt.gz": b"no gzip"}
    for name, content in contents.items():
        written(tmp_path / name, content)
    source = open_paths([tmp_path, written(tmp_path.parent / "whole.txt", "words")])
    (tmp_path / "c.txt").unlink()
    assert [record.id for record in records(source)] == ["a.txt", "whole.txt"]
    assert [str(failure.error) for failure in failures(source)] == [
        "b.txt: it is not UTF-8; convert the file",
        "c.txt: cannot be read: No such file or directory; repair it and run again",
        "d.txt.gz: cannot be read: BadGzipFile; repair it and run again",
    ]


def test_a_root_is_whole_only_after_a_pass_without_failures(tmp_path: Path) -> None:
    good, bad = written(tmp_path / "good.jsonl", '{"id": 1, "text": "a"}'), written(tmp_path / "bad.jsonl", "{")
    reading = open_paths([good, bad]).records()
    assert reading.roots == (Root(good.as_posix(), False), Root(bad.as_posix(), False))
    assert len(list(reading)) == 2
    assert reading.roots == (Root(good.as_posix(), True), Root(bad.as_posix(), False))


def test_rows_become_records(tmp_path: Path) -> None:
    rows = '\ufeff{"id": 7, "text": "a", "lang": "en", "n": [1, null]}\r\n\n{"text": "b", "id": "x"}'
    path = written(tmp_path / "data.ndjson", rows)
    assert records(open_paths([path])) == [
        Record("7", "a", {"lang": "en", "n": [1, None]}, path.as_posix()),
        Record("x", "b", None, path.as_posix()),
    ]


@pytest.mark.parametrize(("ending", "delimiter"), [(".csv", ","), (".tsv", "\t"), (".csv.gz", ","), (".tsv.gz", "\t")])
def test_tables_become_records(tmp_path: Path, ending: str, delimiter: str) -> None:
    long = "x" * 200_000
    rows = [
        ["key", "lang", "body"],
        ["1", "en", f'a{delimiter}b "c"\nd'],
        ["2", "", "nul \x00 \u2028 é"],
        ["3", "", long],
    ]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    content = text.getvalue().encode("utf-8-sig")
    path = written(tmp_path / f"data{ending}", gzip.compress(content) if ending.endswith(".gz") else content)
    source = open_paths([path], id_field="key", text_field="body", metadata_fields=["lang"])
    assert records(source) == [Record(row[0], row[2], {"lang": row[1]}, path.as_posix()) for row in rows[1:]]


def test_broken_lines_name_file_and_line_and_the_rest_goes_on(tmp_path: Path) -> None:
    lines = [
        b'{"id": 1, "text": "secret"',
        b'{"id": 2, "text": "ok"}',
        b'{"text": "secret"}',
        b'{"id": 3}',
        b"[" * 99_999,
    ]
    lines += [
        b'{"id": true, "text": "secret"}',
        b'{"id": "", "text": "secret"}',
        b'["secret"]',
        b'{"id": 4, "text": "\xff"}',
    ]
    source = open_paths([written(tmp_path / "data.jsonl", b"\n".join(lines))])
    assert [record.id for record in records(source)] == ["2"]
    assert [failure.id for failure in failures(source)] == [f"data.jsonl:{line}" for line in (1, 3, 4, 5, 6, 7, 8, 9)]
    for failure, reason in zip(
        failures(source),
        [
            "not a JSON object",
            "no field 'id'",
            "no field 'text'",
            "not a JSON",
            "a bool",
            "empty",
            "not an object",
            "not UTF-8",
        ],
        strict=True,
    ):
        assert isinstance(failure.error, InputError)
        assert str(failure.error).startswith(failure.id.replace(":", " line ") + ": ")
        assert reason in str(failure.error)
        assert "secret" not in str(failure)
        assert failure.index == -1


def test_broken_rows_name_file_and_line_and_the_rest_goes_on(tmp_path: Path) -> None:
    lines = [
        b"id,text",
        b"1,ok",
        b"2,a,b",
        b'3,"a"b',
        b"4,\xff",
        b'5,"two',
        b'lines"',
        b"6",
        b"",
        b"7,fine",
        b',"none"',
        b'8,"open',
    ]
    source = open_paths([written(tmp_path / "data.csv", b"\n".join(lines))])
    assert [(record.id, record.text) for record in records(source)] == [("1", "ok"), ("5", "two\nlines"), ("7", "fine")]
    assert [failure.id for failure in failures(source)] == [f"data.csv:{line}" for line in (3, 4, 5, 8, 11, 12)]
    for failure, reason in zip(
        failures(source),
        ["3 fields, the header 2", "not valid CSV", "not UTF-8", "1 fields", "'id' is empty", "not valid CSV"],
        strict=True,
    ):
        assert reason in str(failure.error)


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", '"open'])
def test_a_table_without_the_fields_in_its_header_fails_once(tmp_path: Path, content: str) -> None:
    (failure,) = open_paths([written(tmp_path / "data.csv", content)]).records()
    assert isinstance(failure, Failure)
    assert failure.id == "data.csv:1"
    assert "the header row must name 'text'" in str(failure.error)


@given(
    text=st.one_of(
        st.none(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.booleans(),
        st.lists(st.text()),
        st.text(),
    )
)
def test_i2_a_text_that_is_not_a_str_fails_with_id_and_type_and_others_are_kept(text: Any) -> None:
    lines = [{"id": "a", "text": "before"}, {"id": "b", "text": text}, {"id": "c", "text": "after"}]
    stdin = io.BytesIO("\n".join(json.dumps(line) for line in lines).encode())
    before, item, after = open_paths(["-"], stdin=stdin).records()
    assert (before.id, after.id) == ("a", "c")
    if isinstance(text, str):
        assert item == Record("b", text)
    else:
        assert isinstance(item, Failure)
        assert str(item.error).startswith("stdin line 2: the text of id 'b' is ")
        assert type(text).__name__.replace("NoneType", "null") in str(item.error)


def test_i7_a_lone_surrogate_in_a_line_fails_and_others_are_kept(tmp_path: Path) -> None:
    path = written(tmp_path / "data.jsonl", '{"id": 1, "text": "\\ud800"}\n{"id": 2, "text": "ok"}')
    failure, record = open_paths([path]).records()
    assert (failure.id, record.id) == ("data.jsonl:1", "2")


def test_a_truncated_gzip_fails_where_it_breaks_and_the_rest_goes_on(tmp_path: Path) -> None:
    lines = [json.dumps({"id": number, "text": os.urandom(50).hex()}) for number in range(2_000)]
    content = gzip.compress("\n".join(lines).encode())
    written(tmp_path / "a.jsonl.gz", content[: len(content) // 2])
    written(tmp_path / "b.jsonl.gz", gzip.compress(b'{"id": "last", "text": "ok"}'))
    reading = open_paths([tmp_path]).records()
    *read, failure, last = reading
    assert [record.id for record in read] == [str(number) for number in range(len(read))]
    assert 0 < len(read) < 2_000
    assert failure.id == f"a.jsonl.gz:{len(read) + 1}"
    assert last.id == "last"
    assert not reading.roots[0].whole


def test_standard_input_can_be_read_again_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    source = open_paths(["-"], stdin=io.BytesIO(b'{"id": 1, "text": "a"}\n{'))
    first, second = list(source.records()), list(source.records())
    assert first[0] == second[0] == Record("1", "a")
    assert second[1].id == "stdin:2"
    assert source.roots == ()
    assert not list(tmp_path.iterdir())  # nor is there anything that a kill -9 could leave


def test_two_passes_at_once_do_not_disturb_each_other() -> None:
    lines = "\n".join(json.dumps({"id": number, "text": "a"}) for number in range(100))
    source = open_paths(["-"], stdin=io.BytesIO(lines.encode()))
    assert all(one == other for one, other in zip(source.records(), source.records(), strict=True))


def test_i10_two_records_with_one_id_are_refused_with_both_places(tmp_path: Path) -> None:
    two = written(tmp_path / "two.csv", "id,text\nx,c\nx,d\n")
    with pytest.raises(ConfigError, match=f"the id 'x': {two.as_posix()}:2 and {two.as_posix()}:3; rename"):
        resolve_ids(open_paths([two]))


def test_i9_equal_rows_with_one_id_are_refused_too(tmp_path: Path) -> None:
    path = written(tmp_path / "one.jsonl", '{"id": 1, "text": "a"}\n' * 2)
    with pytest.raises(ConfigError, match=r"one\.jsonl:1 and .*one\.jsonl:2"):
        resolve_ids(open_paths([path]))


@given(ids=st.lists(st.integers(0, 30), max_size=12))
def test_ids_are_refused_exactly_when_two_are_equal(ids: list[int]) -> None:
    stdin = io.BytesIO("\n".join(json.dumps({"id": number, "text": "a"}) for number in ids).encode())
    reading = open_paths(["-"], stdin=stdin).records()
    assert len(list(reading)) == len(ids)
    if len(set(ids)) < len(ids):
        with pytest.raises(ConfigError, match="two inputs have the id"):
            reading.check_ids()
    else:
        reading.check_ids()
