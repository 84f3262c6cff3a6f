"""Parquet and Arrow as sources: files, and whatever has Arrow's C stream interface."""

from __future__ import annotations

import datetime
import gzip
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from aembed import ConfigError, Embedder, Failure, FakeProvider, InputError, MemoryStore, SourceError
from aembed.results import Report
from aembed.sources import _bounds, _files, open_paths
from aembed.types import Record

ENDINGS = (".parquet", ".arrow", ".stream.arrow", ".feather")
DAY = datetime.date(2024, 2, 29)
COLUMNS: dict[str, tuple[Any, list[Any]]] = {
    "dictionary": (pa.array(["x", None, "x"]).dictionary_encode(), ["x", None, "x"]),
    "large": (pa.array(["é", None, ""], pa.large_string()), ["é", None, ""]),
    "view": (
        pa.array(["long enough to stand apart", None, "s"], pa.string_view()),
        ["long enough to stand apart", None, "s"],
    ),
    "null": (pa.nulls(3), [None] * 3),
    "flag": (pa.array([True, False, None]), [True, False, None]),
    "uint64": (pa.array([2**64 - 1, 0, None], pa.uint64()), [2**64 - 1, 0, None]),
    "float": (pa.array([1.5, float("nan"), float("-inf")]), [1.5, None, None]),
    "half": (pa.array(np.array([1, 0.5, 2], np.float16)), [1.0, 0.5, 2.0]),
    "list": (pa.array([[1, 2], None, []], pa.large_list(pa.int64())), [[1, 2], None, []]),
    "fixed": (
        pa.array([[1.0, 2.0], None, [0.5, float("nan")]], pa.list_(pa.float32(), 2)),
        [[1, 2], None, [0.5, None]],
    ),
    "struct": (
        pa.array([{"a": DAY, "b": [1.5]}, None, {"a": None, "b": None}]),
        [{"a": "2024-02-29", "b": [1.5]}, None, {"a": None, "b": None}],
    ),
    "map": (pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int64())), [{"k": 1}, {}, None]),
    "ns": (
        pa.array([1_000, None, -1_000], pa.timestamp("ns")),
        ["1970-01-01T00:00:00.000001", None, "1969-12-31T23:59:59.999999"],
    ),
    "zone": (
        pa.array([0, None, 1_719_792_000], pa.timestamp("s", "UTC")),
        ["1970-01-01T00:00:00+00:00", None, "2024-07-01T00:00:00+00:00"],
    ),
    "date": (pa.array([DAY, None, DAY], pa.date64()), ["2024-02-29", None, "2024-02-29"]),
    "time": (pa.array([0, None, 1_500], pa.time32("ms")), ["00:00:00", None, "00:00:01.500000"]),
    "duration": (pa.array([1_500_000_000, None, 0], pa.duration("ns")), [1.5, None, 0.0]),
    "decimal": (
        pa.array([Decimal("19.99"), Decimal("20.00"), Decimal("12345678901234567.89")], pa.decimal128(38, 2)),
        [19.99, 20, "12345678901234567.89"],
    ),
    "bytes": (pa.array([b"\xff\x00", None, b""]), ["/wA=", None, ""]),
    "uuid": (pa.array([uuid.UUID(int=7).bytes, None, None], pa.uuid()), [str(uuid.UUID(int=7)), None, None]),
}
"""Odd columns, and their values as metadata. Parquet has no durations, halves (of late), nor views."""


def written(path: Path, table: pa.Table, rows_at_once: int = 1_000) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=rows_at_once)
        return path
    options = ipc.IpcWriteOptions(compression="lz4" if path.suffix == ".feather" else None)
    new = ipc.new_stream if ".stream" in path.suffixes else ipc.new_file
    with new(path, table.schema, options=options) as writer:
        writer.write_table(table, rows_at_once)
    return path


def read(path: Path, **options: Any) -> list[Any]:
    return list(open_paths([path], **options).records())


def told(path: Path, **options: Any) -> str:
    (failure,) = read(path, **options)
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, InputError)
    return str(failure.error)


def numbers(n: int) -> pa.Table:
    return pa.table({"id": range(n), "text": [f"text {i}" for i in range(n)], "even": [i % 2 == 0 for i in range(n)]})


@pytest.mark.parametrize("ending", ENDINGS)
def test_rows_of_many_groups_come_in_order(ending: str, tmp_path: Path) -> None:
    path = written(tmp_path / f"rows{ending}", numbers(900), 200)
    root = path.as_posix()
    assert read(path) == [Record(str(i), f"text {i}", {"even": i % 2 == 0}, root) for i in range(900)]


@pytest.mark.parametrize("ending", ENDINGS)
def test_ids_texts_and_metadata_are_named_as_for_other_tables(ending: str, tmp_path: Path) -> None:
    table = pa.table({"sku": ["a", "b"], "title": ["one", "two"], "year": [1, 2], "__index_level_0__": [5, 6]})
    path = written(tmp_path / f"rows{ending}", table)
    named = {"text_field": "title", "id_field": "sku"}
    assert [(r.id, r.text, r.metadata) for r in read(path, **named)] == [
        ("a", "one", {"year": 1}),
        ("b", "two", {"year": 2}),
    ]
    assert [r.metadata for r in read(path, **named, metadata_fields=[])] == [None, None]
    asked = read(path, text_field="title", metadata_fields=["sku", "__index_level_0__", "nothing"])
    assert [(r.id, r.metadata) for r in asked] == [
        (f"{path.name}:1", {"sku": "a", "__index_level_0__": 5}),
        (f"{path.name}:2", {"sku": "b", "__index_level_0__": 6}),
    ]
    assert "it has no field 'text'; it has 'sku', 'title'" in told(path)
    assert "(--id-field NAME)" in told(path, text_field="title", id_field="key")
    (tmp_path / "other.md").write_text("one")
    folder = open_paths([tmp_path]).records()
    assert [each.text for each in folder if isinstance(each, Record)] == ["one"]
    assert folder.skipped == {path.suffix: 1}


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int8(), pa.string())]
)
def test_texts_of_every_kind_are_texts(kind: Any, tmp_path: Path) -> None:
    table = pa.table({"id": pa.array(["a", "é"]).cast(kind), "text": pa.array(["one", "zwei é"]).cast(kind)})
    path = written(tmp_path / "rows.arrow", table)
    assert [(r.id, r.text) for r in read(path)] == [("a", "one"), ("é", "zwei é")]


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
async def test_d22_odd_columns_are_metadata_as_json_has_them(name: str, ending: str, tmp_path: Path) -> None:
    column, expected = COLUMNS[name]
    table = pa.table({"id": [1, 2, 3], "text": ["a", "b", "c"], "it": column})
    try:
        path = written(tmp_path / f"rows{ending}", table)
    except pa.ArrowNotImplementedError:
        pytest.skip(f"no {name} in {ending}")
    if isinstance(read(path)[0], Failure):  # pyarrow 25 cannot read what it wrote, 26 can.
        assert (name, ending) == ("fixed", ".parquet")
        assert "NULL among lists of a fixed size; keep the other columns" in told(path)
        assert len(read(path, metadata_fields=[])) == 3
        return
    assert [record.metadata["it"] for record in read(path)] == expected
    json.dumps([record.metadata for record in read(path)], allow_nan=False)
    held = MemoryStore()
    assert (await embedded(table, held)).stored == 3
    assert [row.metadata and row.metadata["it"] async for row in held.rows()] == expected


async def embedded(records: Any, store: MemoryStore) -> Report:
    async with Embedder(FakeProvider(dimensions=4)) as embedder:
        return await embedder.embed_into(store, records)


def broken_rows() -> pa.Table:
    """The second has no text, the third a day beyond all calendars, the fourth a text that is not UTF-8."""
    texts = pa.StringArray.from_buffers(
        6,
        *pa.array([b"one", None, b"tri", b"fo\xff", b"fiv", b"six"]).buffers()[1:],
        pa.array([b"one", None, b"tri", b"fo\xff", b"fiv", b"six"]).buffers()[0],
    )
    when = pa.array([0, 0, 2**60, 0, 0, 0], pa.timestamp("s"))
    return pa.table({"id": ["a", "b", "c", "d", None, "f"], "text": texts, "when": when})


async def test_d22_bad_rows_fail_by_their_ids(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.arrow", broken_rows())
    items = read(path)
    assert [each.id for each in items if isinstance(each, Record)] == ["a", "f"]
    assert [str(each.error) for each in items if isinstance(each, Failure)] == [
        "rows.arrow row 2: the text of id 'b' is null, not a text; correct it or leave the row out",
        "rows.arrow row 3: the field 'when' of id 'c' cannot be read (OverflowError); correct it or leave the row out",
        "rows.arrow row 4: the field 'text' of id 'd' is not UTF-8; correct it or leave the row out",
        "rows.arrow row 5: the field 'id' is null; an id is a text or a whole number",
    ]
    report = await embedded(broken_rows(), MemoryStore())
    assert (report.inputs, report.stored) == (6, 2)
    assert [(failure.id, failure.index) for failure in report.failures] == [("b", 1), ("c", 2), ("d", 3), ("None", 4)]


@pytest.mark.parametrize("ending", ENDINGS)
def test_d22_a_broken_file_is_one_line_and_what_came_before_it_is_kept(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{ending}"
    for content in (b"", b"PAR1", b"ARROW1", b"\xff" * 100, b"{}\n" * 50):
        path.write_bytes(content)
        assert "write it again" in told(path)
    whole = written(path, numbers(3_000), 700).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "write it again" in str(read(path)[-1].error)
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 40] = b"\xaa" * 40
    path.write_bytes(damaged)
    items = read(path)
    assert len([each for each in items if isinstance(each, Record)]) >= 700
    assert all(isinstance(each.error, InputError) for each in items if isinstance(each, Failure))


def test_d22_a_file_that_was_compressed_or_is_old_says_what_to_do(tmp_path: Path) -> None:
    packed = tmp_path / "rows.parquet.gz"
    packed.write_bytes(gzip.compress(written(tmp_path / "rows.parquet", numbers(2)).read_bytes()))
    assert "Parquet as .gz" in told(packed)
    (tmp_path / "old.feather").write_bytes(b"FEA1" + bytes(100))
    assert "Feather of version 1" in told(tmp_path / "old.feather")


def test_d7_a_text_of_more_than_may_be_held_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aembed.sources._arrow_files.MAX_BYTES", 100)
    table = pa.table({"id": ["a", "b"], "text": ["x" * 101, "y" * 100]})
    too_large, fits = read(written(tmp_path / "rows.parquet", table))
    assert (str(too_large.error), fits.id) == (f"rows.parquet row 1: {_bounds.too_large_error()}", "b")


def test_the_extra_is_named_where_pyarrow_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aembed.sources.find_spec", lambda name: None)
    path = written(tmp_path / "rows.parquet", numbers(2))
    with pytest.raises(ConfigError, match=r"to read \.parquet:  pip install 'aembed\[arrow\]'"):
        open_paths([path])
    assert _files.extras_to_install([".pdf", ".arrow"]).endswith("pip install 'aembed[arrow,documents]'")


async def test_the_extra_is_named_where_a_table_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"needs pyarrow:  pip install 'aembed\[arrow\]'"):
        await embedded(pl.DataFrame({"text": ["a"]}), MemoryStore())
    with pytest.raises(ConfigError, match=r"to_arrow\(\) needs pyarrow"):
        [batch async for batch in MemoryStore().to_arrow()]


# records in Arrow's form


async def one_by_one(table: pa.Table) -> AsyncIterator[Any]:
    for batch in table.to_batches(200):
        yield batch


FORMS: dict[str, Any] = {
    "table": lambda table: table,
    "reader": lambda table: table.to_reader(200),
    "batches": lambda table: table.to_batches(200),
    "generator": lambda table: (batch for batch in table.to_batches(200)),
    "async": one_by_one,
    "tables": lambda table: [table.slice(0, 300), table.slice(300)],
    "batch": lambda table: table.combine_chunks().to_batches()[0],
    "pandas": lambda table: table.to_pandas(),
    "polars": lambda table: pl.DataFrame(table.to_pydict()),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("has_ids", [True, False])
async def test_tables_of_every_form_are_records(form: str, has_ids: bool) -> None:
    table = numbers(900) if has_ids else numbers(900).drop_columns(["id"])
    store = MemoryStore()
    assert (await embedded(FORMS[form](table), store)).stored == 900
    held = {row.id: (row.text, row.metadata) async for row in store.rows()}
    assert held == {str(i): (f"text {i}", {"even": i % 2 == 0}) for i in range(900)}
    async with Embedder(FakeProvider(dimensions=4)) as embedder:
        plan = await embedder.plan(store, FORMS[form](table))
        assert (plan.inputs, plan.unchanged) == (900, 900)
        async with embedder.stream(FORMS[form](table)) as results:
            assert sorted([result.index async for result in results]) == list(range(900))


async def test_a_column_of_texts_is_a_list_of_texts() -> None:
    for column in (pl.Series(["a", "b"]), pd.Series(["a", "b"])):
        store = MemoryStore()
        assert (await embedded(column, store)).stored == 2
        assert [(row.id, row.text) async for row in store.rows()] == [("0", "a"), ("1", "b")]


async def test_a_table_without_texts_is_refused_before_anything_is_sent() -> None:
    for table in (pa.table({"a": [1]}), pl.DataFrame({"a": [1]}), pd.DataFrame({"a": [1]})):
        with pytest.raises(ConfigError, match="no column 'text'; it has 'a': rename"):
            await embedded(table, MemoryStore())
    with pytest.raises(SourceError) as caught:
        await embedded([pa.record_batch({"a": [1]})], MemoryStore())
    assert isinstance(caught.value.__cause__, ConfigError)
    with pytest.raises(InputError, match="gives names, not texts"):
        async with Embedder(FakeProvider(dimensions=4)) as embedder:
            await embedder.embed_documents(numbers(3))


async def test_a_stream_that_breaks_keeps_what_came_before() -> None:
    def breaking() -> Iterator[pa.RecordBatch]:
        yield from numbers(300).to_batches()
        raise OSError("the disk is gone")

    store = MemoryStore()
    with pytest.raises(SourceError):
        await embedded(pa.RecordBatchReader.from_batches(numbers(1).schema, breaking()), store)
    assert (await store.info()).rows == 300
