"""Every store filters as the language says: what it finds is what `Filter.matches` lets pass."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aembed.core.filters import DEEPEST, MOST_TESTS, MOST_VALUES, SIGNS, parse_filter
from aembed.protocols import Store
from aembed.stores import open_store, schemes
from aembed.types import Metadata, Record, Rows
from tests.stores.samples import SPACE, NewPlace, rows, vectors

KEYS = ("a", "a.b", "$a", "$.a", "gte", "has", "quo\"te's", "ключ", "", "0", "a[0]", "back\\slash", "\\u0000", "a\0b")
LARGE = (2**53, 2**60, 2**63, 1152921504606847000, 9223372036854776000, 10**19)
NUMBERS = (
    *(0, 1, -1, 1.0, 1.5, 0.1, 0.3, 0.30000000000000004, -0.0, 5e-324, 1.7976931348623157e308, 1e25, 10**25, 10**400),
    *(sign * (number + step) for sign in (1, -1) for number in LARGE for step in (-1, 0, 1)),
    *(sign * float(number) for sign in (1, -1) for number in LARGE),
)
ASCII = (
    "",
    "a",
    "A",
    "ab",
    "z",
    "Z",
    "a\0b",
    "a\0",
    "1",
    "1.0",
    "true",
    "null",
    "2024-01-31",
    '"',
    "\\u0000",
    "[1]",
    "%",
)
TEXTS = (*ASCII, "\u00e9", "e\u0301", "\uffff", "\U0001f600")
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, ["a"], [1], {"k": 1}, {"0": "a"}, [{"k": "a"}])
VALUES = (*NUMBERS, *TEXTS, *OTHERS)


async def test_t22_each_value_is_compared_with_each_other(store: Store) -> None:
    """And with rows that have no such key, no metadata, or the value one object, or one list, further down."""
    shapes: list[Metadata | None] = [None, {}, {"other": 1}]
    shapes += [{"k": value} for value in VALUES]
    shapes += [{"o": {"k": value}} for value in VALUES] + [{"o": [value]} for value in TEXTS]
    shapes += [{"o": value} for value in (*OTHERS, *TEXTS, 1, 1.5)]
    written = await write_acceptable(store, shapes)
    asked = [value for value in (*NUMBERS, *TEXTS, *OTHERS[:3]) if may_be_asked(value)]
    conditions = [{operator: value} for value in asked for operator in ("eq", "ne", *SIGNS) if suits(operator, value)]
    conditions += [{"in": asked}, {"nin": asked}, {"in": []}, {"nin": []}, {"has": {}}]
    conditions += [{operator: asked[start : start + 3]} for start in range(len(asked)) for operator in ("in", "nin")]
    for condition in conditions:
        for where in ({"k": condition}, {"o": {"has": {"k": condition}}}):
            assert (where, await ids_found(store, where)) == (where, passing(written, where))
    for key in ("0", "\0", "k\0"):
        for condition in ({"ne": 1}, {"eq": "a"}, {"has": {}}):
            for where in ({key: condition}, {"o": {"has": {key: condition}}}):
                assert (where, await ids_found(store, where)) == (where, passing(written, where))


def suits(operator: str, value: object) -> bool:
    return operator not in SIGNS or not (value is None or isinstance(value, bool))


def may_be_asked(value: object) -> bool:
    return not isinstance(value, int) or -(2**63) <= value < 2**63


SCALARS = st.sampled_from([None, True, 1, 1.5, "a", "é"])
NAMES = st.sampled_from(KEYS)
HELD = st.dictionaries(NAMES, SCALARS | st.dictionaries(NAMES, SCALARS, min_size=1, max_size=2), min_size=1)
CONDITION = SCALARS | st.lists(SCALARS, max_size=3) | SCALARS.map(lambda value: {"ne": value})


@pytest.mark.parametrize("scheme", [scheme for scheme in schemes() if scheme != "memory"])
@settings(max_examples=20, deadline=None)
@given(held=st.lists(HELD, min_size=20, max_size=40), data=st.data())
async def test_t22_keys_and_nesting_mean_the_same(
    new_place: NewPlace, scheme: str, held: list[Metadata], data: st.DataObject
) -> None:
    """The filters are of keys that one of the rows has, so that some rows pass."""
    some = st.sampled_from(held).flatmap(lambda row: st.sampled_from(sorted(row.items(), key=repr)))
    nested = st.builds(lambda pair, asked: {pair[0]: condition_on(pair[1], asked)}, some, CONDITION)
    asked = data.draw(st.lists(nested, min_size=10, max_size=20))
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(new_place(scheme, Path(folder)))
        await store.prepare(SPACE)
        written = await write_acceptable(store, held)
        found = [await ids_found(store, where) for where in asked]
        await store.aclose()
    assert found == [passing(written, where) for where in asked]


def condition_on(held: Any, asked: Any) -> Any:
    return {"has": {next(iter(held)): asked}} if isinstance(held, dict) else asked


async def write_acceptable(store: Store, held: Sequence[Metadata | None]) -> Rows:
    """Those that the store takes: PostgreSQL refuses NUL."""
    kept = [each for each in held if not store.reject(Record("id", "text", each))]
    written = rows([f"{number:03d}" for number in range(len(kept))], metadata=kept)
    await store.write(written)
    return written


async def ids_found(store: Store, where: Metadata) -> list[str]:
    return sorted(match.id for match in await store.search(vectors(1)[0], 500, where=where))


def passing(written: Rows, where: Metadata) -> list[str]:
    wanted = parse_filter(where)
    return [id for id, held in zip(written.ids, written.metadata, strict=True) if wanted.matches(held)]


async def test_the_largest_filters_are_no_trouble(store: Store) -> None:
    keys = [f"k{number}" for number in range(MOST_TESTS)]
    deep: dict[str, object] = {"leaf": 1}
    asked: dict[str, object] = {"leaf": {"gte": 1}}
    for number in range(DEEPEST - 1):
        deep, asked = {f"k{number}": deep}, {f"k{number}": {"has": asked}}
    written = await write_acceptable(store, [dict.fromkeys(keys, 1), {"n": 7, "t": "7"}, deep])
    many = [*range(MOST_VALUES // 2), *map(str, range(MOST_VALUES // 2))]
    assert await ids_found(store, dict.fromkeys(keys, 1)) == [written.ids[0]]
    assert await ids_found(store, {key: {"lt": 2.5} for key in keys}) == [written.ids[0]]
    assert await ids_found(store, {"n": many}) == [written.ids[1]]
    assert await ids_found(store, {"t": {"nin": many}}) == [written.ids[0], written.ids[2]]
    assert await ids_found(store, asked) == [written.ids[2]]
