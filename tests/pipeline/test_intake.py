from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aembed.core.changes import Entry
from aembed.pipeline.intake import PORTION_BYTES, portions
from aembed.types import Record


def entries_of(sizes: list[int]) -> list[Entry]:
    return [Entry(index, Record(str(index), "text"), size, "text") for index, size in enumerate(sizes)]


@given(st.lists(st.integers(1, PORTION_BYTES * 2), max_size=300))
def test_long_texts_are_measured_by_portions_of_a_request_or_so(sizes: list[int]) -> None:
    found = list(portions(entries_of(sizes)))
    assert [entry.index for portion in found for entry in portion] == list(range(len(sizes)))
    for portion in found:
        assert portion
        assert sum(entry.size_bytes for entry in portion[:-1]) < PORTION_BYTES
    for portion in found[:-1]:
        assert sum(entry.size_bytes for entry in portion) >= PORTION_BYTES


def test_short_texts_are_one_portion() -> None:
    assert [len(portion) for portion in portions(entries_of([3_900] * 256))] == [256]
    assert not list(portions([]))
