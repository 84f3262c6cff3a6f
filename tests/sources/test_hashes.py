from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.sources import READERS, Reading, _hashes, open_paths
from aembed.sources._hashes import IdHashes, hash_id
from aembed.sources._spool import Spool
from aembed.types import Record

IDS = st.lists(st.integers(0, 40).map(str), max_size=60)


def narrow(id: str) -> bytes:
    """One of sixteen: among a few ids two have the same hash."""
    return bytes([hash_id(id)[0] & 15, *bytes(7)])


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_hashes, "_PART", 8)
    monkeypatch.setattr(_hashes, "_BLOCK", 3)


def hashes_of(ids: list[str], hash_id: Callable[[str], bytes] = hash_id) -> IdHashes:
    hashes = IdHashes(hash_id)
    for id in ids:
        hashes.add(id)
    return hashes


@pytest.mark.usefixtures("small_parts")
@given(ids=IDS, others=IDS)
def test_hashes_that_are_on_the_disk_say_the_same_as_sets(ids: list[str], others: list[str]) -> None:
    hashes, asked = hashes_of(ids), hashes_of(others)
    assert len(hashes) == len(ids)
    assert hashes.read(0, len(ids)) == b"".join(map(hash_id, ids))
    assert all(hashes.read(n, n + 1) == hash_id(id) for n, id in enumerate(ids))
    assert set(hashes.repeated().tolist()) == {hashes.hash_of(id) for id in ids if ids.count(id) > 1}
    assert set(hashes.missing(asked).tolist()) == {hashes.hash_of(id) for id in set(others) - set(ids)}
    assert hashes.has_each(others) == [id in ids for id in others]


def test_hashes_stay_in_memory_where_there_is_no_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_parts: None
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    ids = [str(number) for number in range(100)]
    assert hashes_of([*ids, "7"]).repeated().tolist() == [hashes_of([]).hash_of("7")]


def test_hashes_of_stores_stay_the_same() -> None:
    """Stores hold them: with others, rows that are there would be taken for gone."""
    assert hash_id("guide.md#setup/linux") == blake2b(b"guide.md#setup/linux", digest_size=8).digest()
    assert hash_id("é\ud800").hex() == "4bff73141aaa807f"


def test_d16_two_ids_with_one_hash_are_told_apart_by_reading_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,text\n" + "".join(f"{number},text\n" for number in range(40)))
    source = open_paths([path])
    reading = Reading(source, source.records()._read, lambda: None, {}, narrow)
    assert len(list(reading)) == 40
    assert len(reading.ids.repeated())
    assert not reading.check_ids()


def test_a_spool_gives_what_was_read_as_long_as_the_file_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1, "text": "a", "n": [1, {"x": null}], "f": 0.1}\n\n{"id": "b", "text": "ü"}\n')
    (tmp_path / "page.md").write_text("# One\n\nwords\n")
    source = open_paths([tmp_path])
    first = list(source.records())
    assert len(first) == 3
    assert all(source.spool.get(entry) for entry in source.entries)  # type: ignore[arg-type]
    assert list(source.records()) == first
    path.write_text('{"id": 1, "text": "b"}\n')
    assert [item.text for item in source.records() if isinstance(item, Record)][-1] == "b"


def test_a_spool_keeps_no_large_table_and_nothing_that_it_cannot_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aembed.sources._spool._MOST_TABLE_BYTES", 50)
    (tmp_path / "large.jsonl").write_text('{"id": 1, "text": "' + "a" * 60 + '"}\n')
    (tmp_path / "wide.jsonl").write_text('{"id": 2, "text": "a", "n": ' + "9" * 30 + "}\n")
    source = open_paths([tmp_path])
    first = list(source.records())
    assert len(first) == 2
    assert not any(source.spool.get(entry) for entry in source.entries)  # type: ignore[arg-type]
    assert list(source.records()) == first


def test_a_spool_without_room_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    (tmp_path / "page.md").write_text("# One\n\nwords\n")
    source = open_paths([tmp_path])
    assert len(list(source.records())) == len(list(source.records())) == 1
    assert isinstance(source.spool, Spool)
    assert source.spool.get(source.entries[0]) is None  # type: ignore[arg-type]


def test_what_files_are_read_as_is_what_stores_remember(tmp_path: Path) -> None:
    """Where this fails for a change of ours, raise READING in _way.py: else files that have not changed keep rows of
    the reading before.
    """
    pages = {
        "a.md": "intro\n\n# One\n\nwords\n\n## Two\n\n" + "A sentence of some words. " * 80 + "\n\n# One\n\n`code`\n",
        "b.rst": "Title\n=====\n\nwords\n\nBelow\n-----\n\nmore\n",
        "c.html": "<title>T</title><h1>One</h1><p>a<b>b</b></p><table><tr><td>1<td>2</table><script>x</script>",
        "d.txt": "one\n\ntwo\n",
        "e.csv": "id;text;n\n1;one;2\n",
        "f.jsonl": '{"id": 1, "text": "a", "n": 2}\n',
        "g.json": '["a", "b"]',
    }
    for name, content in pages.items():
        (tmp_path / name).write_text(content)
    assert {f".{name[2:]}" for name in pages} < READERS.keys()
    items = [item for item in open_paths([tmp_path]).records() if isinstance(item, Record)]
    told = repr([(item.id, item.text, item.metadata) for item in items])
    assert blake2b(told.encode(), digest_size=8).hexdigest() == "0a6c00f96923d738"
