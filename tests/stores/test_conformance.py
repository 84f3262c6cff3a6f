"""What every store does. The stores are found by their folder."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aembed.errors import InputError, SpaceMismatchError, StoreError
from aembed.protocols import Accounts, KeepsModel, Store
from aembed.results import Failure, Report
from aembed.stores import open_store, schemes
from aembed.types import Embedded, Known, Matrix, Record, Refusal, Rows, Space, StoreInfo
from tests.stores.samples import SPACE, URLS, NewPlace, digests, fingerprint, fingerprints, rows, unit, vectors

SCHEMES = schemes()
REFUSAL = Refusal("poison", fingerprint("poison"), "BadRequestError", "refused: 'policy'")


async def every(store: Store) -> list[Embedded]:
    return [row async for row in store.rows()]


def test_every_store_has_a_place_in_this_suite() -> None:
    assert set(URLS) == set(SCHEMES)


async def test_it_has_the_shape_of_a_store(empty: Store) -> None:
    assert isinstance(empty, Store)


async def test_before_prepare_it_answers_as_empty(empty: Store) -> None:
    assert await empty.known(digests(["a"]), fingerprints(["a"])) == Known()
    assert await empty.vectors({fingerprint("a")}) == {}
    assert await empty.stale("folder", set()) == []
    assert await empty.refusals() == []
    assert await empty.search(unit(1, 0, 0, 0), 3) == []
    assert await every(empty) == []
    assert await empty.info() == StoreInfo(0, None, 0, 0)


async def test_before_prepare_nothing_is_written(empty: Store) -> None:
    with pytest.raises(StoreError, match="prepare"):
        await empty.write(rows(["a"]))
    assert (await empty.info()).rows == 0


async def test_it_keeps_what_jobs_have_spent(store: Store) -> None:
    assert isinstance(store, Accounts)
    assert await store.spend("one", 70) == 70
    assert await store.spend("one", -20) == 50
    assert await store.spend("another", 3) == 3
    assert sorted(await asyncio.gather(*[store.spend("one", 1) for _ in range(5)])) == [51, 52, 53, 54, 55]
    await store.close_account("one")
    await store.close_account("none")
    assert (await store.spend("one", 0), await store.spend("another", 1)) == (0, 4)


async def test_p24_it_keeps_the_model_that_answered_as_long_as_it_has_rows(store: Store) -> None:
    assert isinstance(store, KeepsModel)
    assert await store.answered_by("one") == "one"
    assert await store.answered_by("two") == "two"
    await store.write(rows(["a"]))
    assert await store.answered_by("three") == "two"
    await store.delete(["a"])
    assert await store.answered_by("three") == "three"


async def test_known_tells_unchanged_changed_and_refused_apart(store: Store) -> None:
    await store.write(rows(["a", "b"]), [REFUSAL])
    asked = ["a", "b", "new", "poison"]
    known = await store.known({**digests(asked), "b": b"other"}, fingerprints(asked))
    assert known == Known(frozenset({"a"}), frozenset({"b"}), {"poison": REFUSAL})
    assert (await store.known({}, fingerprints(["poison"], "2"))).refused == {}


async def test_a_write_replaces_by_id_and_forgets_the_refusal(store: Store) -> None:
    await store.write(rows(["a", "b"]), [REFUSAL])
    matrix = vectors(2, seed=2)
    await store.write(rows(["b", "poison"], matrix, metadata=[{"n": 1}, None], source="folder", edition="2"))
    held = {row.id: row for row in await every(store)}
    assert sorted(held) == ["a", "b", "poison"]
    assert (held["b"].text, held["b"].metadata, held["b"].source) == ("text 2 of b", {"n": 1}, "folder")
    assert held["b"].vector.tobytes() == matrix[0].tobytes()
    assert await store.refusals() == []


async def test_a_refusal_is_replaced_by_id(store: Store) -> None:
    again = Refusal("poison", fingerprint("poison", "2"), "BadRequestError", "still")
    await store.write(rows([]), [REFUSAL])
    await store.write(rows([]), [again])
    assert await store.refusals() == [again]


async def test_a_refusal_needs_no_known_dimensions(empty: Store) -> None:
    await empty.prepare(Space("fake", "letters"))
    await empty.write(rows([], np.empty((0, 0), np.float32)), [REFUSAL])
    assert await empty.refusals() == [REFUSAL]


async def test_writing_a_batch_twice_gives_the_same_rows(store: Store) -> None:
    await store.write(rows(["a", "b"]))
    first = [(row.id, row.text, row.vector.tobytes()) for row in await every(store)]
    await store.write(rows(["a", "b"]))
    assert [(row.id, row.text, row.vector.tobytes()) for row in await every(store)] == first


async def test_vectors_are_copies(store: Store) -> None:
    matrix = vectors(3)
    await store.write(rows(["a", "b", "c"], matrix.copy()))
    found = await store.vectors({fingerprint("a"), fingerprint("c"), b"unknown"})
    assert {key: value.tobytes() for key, value in found.items()} == {
        fingerprint("a"): matrix[0].tobytes(),
        fingerprint("c"): matrix[2].tobytes(),
    }
    found[fingerprint("a")][:] = 0
    assert (await store.vectors({fingerprint("a")}))[fingerprint("a")].tobytes() == matrix[0].tobytes()


async def test_the_batch_may_be_overwritten_after_the_write(store: Store) -> None:
    matrix = vectors(2)
    kept = matrix.tobytes()
    await store.write(rows(["a", "b"], matrix))
    matrix[:] = 0
    assert b"".join(row.vector.tobytes() for row in await every(store)) == kept


async def test_rows_that_are_not_contiguous_are_stored_right(store: Store) -> None:
    wide = vectors(5, 8)
    await store.write(rows(["a", "b", "c"], wide[::2, ::2]))
    assert np.stack([row.vector for row in await every(store)]).tolist() == wide[::2, ::2].tolist()


async def test_stale_rows_are_those_of_the_source_that_are_not_kept(store: Store) -> None:
    await store.write(rows(["a", "b", "c"], source="one"))
    await store.write(rows(["d"], source="two"))
    await store.write(rows(["e"]))
    assert await store.stale("one", {"b"}) == ["a", "c"]
    assert await store.stale("three", set()) == []


async def test_delete_counts_the_rows_that_were_there(store: Store) -> None:
    await store.write(rows(["a", "b", "c"]), [REFUSAL])
    assert await store.delete(["a", "c", "nobody", "poison"]) == 2
    assert [row.id for row in await every(store)] == ["b"]
    assert await store.refusals() == []
    assert await store.delete([]) == 0


async def test_rows_come_in_id_order_over_many_pages(store: Store) -> None:
    ids = [f"{i:04d}" for i in range(450)]
    await store.write(rows(ids[::-1]))
    held = await every(store)
    assert [row.id for row in held] == ids
    assert [row.index for row in held] == list(range(450))


async def test_rows_may_be_deleted_while_they_are_read(store: Store) -> None:
    await store.write(rows([f"{i:04d}" for i in range(450)]))
    seen = 0
    async for row in store.rows():
        await store.delete([row.id])
        seen += 1
    assert seen == 450
    assert (await store.info()).rows == 0


async def test_info_counts(store: Store) -> None:
    await store.write(rows(["a", "b"], source="one"), [REFUSAL])
    await store.write(rows(["c"]))
    info = await store.info()
    assert (info.rows, info.space, info.failures, dict(info.sources)) == (3, SPACE, 1, {"one": 2})
    assert info.size_bytes > 3 * 4 * 4


async def test_the_last_run_is_kept_without_its_failures(store: Store) -> None:
    failure = Failure("a", 0, InputError("empty"))
    await store.finish(Report(inputs=3, stored=2, failed=1, cost_usd=0.5, failures=(failure,)))
    last = (await store.info()).last_run
    assert last is not None
    assert (last["inputs"], last["stored"], last["failed"], last["cost_usd"]) == (3, 2, 1, 0.5)
    assert "failures" not in last


async def test_a_store_closes_twice(store: Store) -> None:
    await store.aclose()
    await store.aclose()


# Spaces


async def test_prepare_fills_in_the_dimensions(store: Store) -> None:
    await store.write(rows(["a"]))
    assert await store.prepare(Space("fake", "letters")) == SPACE
    assert await store.prepare(SPACE) == SPACE


async def test_unknown_dimensions_are_not_kept(empty: Store) -> None:
    unknown = Space("fake", "letters")
    assert await empty.prepare(unknown) == unknown
    assert await empty.prepare(SPACE) == SPACE


@pytest.mark.parametrize(
    "other",
    [
        Space("openai", "letters", 4),
        Space("fake", "words", 4),
        Space("fake", "letters", 8),
        Space("fake", "letters", 4, "http://localhost:8080/v1"),
        Space("fake", "words"),
    ],
    ids=str,
)
async def test_i16_rows_of_another_space_are_refused(store: Store, other: Space) -> None:
    await store.write(rows(["a"]))
    with pytest.raises(SpaceMismatchError) as caught:
        await store.prepare(other)
    assert str(SPACE) in str(caught.value)
    assert str(other) in str(caught.value)
    assert await store.prepare(SPACE) == SPACE


async def test_a_store_without_rows_may_change_its_space(store: Store) -> None:
    other = Space("fake", "words", 3)
    assert await store.prepare(other) == other
    await store.write(rows(["a"], vectors(1, 3)))
    assert (await store.info()).space == other


async def test_rows_of_another_width_are_refused(store: Store) -> None:
    with pytest.raises(SpaceMismatchError, match="4 dimensions; these have 3"):
        await store.write(rows(["a"], vectors(1, 3)))
    assert (await store.info()).rows == 0


# Any text goes in and comes out


@pytest.mark.parametrize(
    "record",
    [
        Record("\ud800", "text"),
        Record("id", "text \udfff"),
        Record("id", "text", source="\ud800"),
        Record("id", "text", {"key": "\ud800"}),
        Record("id", "text", {"when": object()}),
        Record("id", "text", {"n": float("nan")}),
        Record("id", "text", [1]),  # type: ignore[arg-type]
    ],
    ids=["id", "text", "source", "metadata", "object", "nan", "list"],
)
async def test_i7_a_record_that_cannot_be_written_is_rejected(store: Store, record: Record) -> None:
    assert isinstance(store.reject(record), InputError)
    assert store.reject(Record("id\n", "text \U0001f600", {"list": [None, 1.5, {"deep": True}], "\\u0000": 1})) is None


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e15, 1e15) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def batches(draw: st.DrawFn) -> Rows:
    ids = draw(st.lists(TEXT, unique=True, min_size=1, max_size=6))
    n, width = len(ids), draw(st.integers(1, 5))

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=n, max_size=n))

    values = draw(st.lists(FLOATS, min_size=n * width, max_size=n * width))
    matrix: Matrix = np.array(values, dtype=np.float32).reshape(n, width)
    metadata, sources = column(st.none() | st.dictionaries(TEXT, JSON, max_size=3)), column(st.none() | TEXT)
    return Rows(ids, column(TEXT), metadata, sources, column(st.binary(max_size=9)), column(st.binary()), matrix)


def accepted(batch: Rows, store: Store) -> Rows:
    """Without the rows that the store rejects before they are paid for."""
    records = map(Record, batch.ids, batch.texts, batch.metadata, batch.sources)
    kept = [i for i, record in enumerate(records) if store.reject(record) is None]
    columns = (batch.ids, batch.texts, batch.metadata, batch.sources, batch.fingerprints, batch.digests)
    return Rows(*([column[i] for i in kept] for column in columns), batch.matrix[kept])


@pytest.mark.parametrize("scheme", SCHEMES)
@settings(max_examples=50, deadline=None)
@given(batch=batches())
async def test_every_bit_comes_back(new_place: NewPlace, scheme: str, batch: Rows) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(new_place(scheme, Path(folder)))
        batch = accepted(batch, store)
        await store.prepare(Space("fake", "letters", batch.matrix.shape[1]))
        await store.write(batch)
        held = {row.id: row for row in await every(store)}
        known = await store.known(dict(zip(batch.ids, batch.digests, strict=True)), {})
        paid = await store.vectors(set(batch.fingerprints))
        await store.aclose()
    assert list(held) == sorted(batch.ids)
    assert known == Known(frozenset(batch.ids))
    assert set(paid) == set(batch.fingerprints)
    for id, text, metadata, source, vector in zip(
        batch.ids, batch.texts, batch.metadata, batch.sources, batch.matrix, strict=True
    ):
        row = held[id]
        assert (row.text, row.metadata, row.source) == (text, metadata, source)
        assert row.vector.tobytes() == vector.tobytes()
