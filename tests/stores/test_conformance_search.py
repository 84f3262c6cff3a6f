"""How every store searches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aembed.errors import ConfigError, InputError, SpaceMismatchError
from aembed.protocols import Store
from aembed.types import Space
from tests.stores.samples import rows, unit, vectors


async def test_the_score_is_the_cosine_and_the_best_comes_first(store: Store) -> None:
    matrix = np.array([[2, 0, 0, 0], [1, 1, 0, 0], [0, 3, 0, 0], [-1, 0, 0, 0]], dtype=np.float32)
    await store.write(rows(["same", "near", "far", "opposite"], matrix, metadata=[{"n": 1}, None, None, None]))
    matches = await store.search(unit(7, 0, 0, 0), 10)
    assert [match.id for match in matches] == ["same", "near", "far", "opposite"]
    assert [match.score for match in matches] == [1.0, pytest.approx(2**-0.5), 0.0, -1.0]
    assert (matches[0].text, matches[0].metadata, matches[1].metadata) == ("text 1 of same", {"n": 1}, None)


async def test_equal_scores_come_in_id_order(store: Store) -> None:
    ids = [f"{i:03d}" for i in range(300)]
    await store.write(rows(ids[::-1], np.tile(vectors(1), (300, 1))))
    matches = await store.search(vectors(1, seed=5)[0], 7)
    assert [match.id for match in matches] == ids[:7]
    assert len({match.score for match in matches}) == 1


async def test_a_zero_vector_scores_zero(store: Store) -> None:
    await store.write(rows(["a", "b", "c"], np.array([[0] * 4, [1, 0, 0, 0], [-1, 0, 0, 0]], dtype=np.float32)))
    assert [(match.id, match.score) for match in await store.search(unit(1, 0, 0, 0), 3)] == [
        ("b", 1.0),
        ("a", 0.0),
        ("c", -1.0),
    ]
    assert [match.score for match in await store.search(unit(0, 0, 0, 0), 3)] == [0.0] * 3
    assert [match.id for match in await store.search(unit(1, 0, 0, 0), 1)] == ["b"]


async def test_search_agrees_with_plain_numpy(empty: Store) -> None:
    await empty.prepare(Space("fake", "letters", 33))
    matrix, query = vectors(700, 33), vectors(1, 33, seed=9)[0]
    await empty.write(rows([f"{i:04d}" for i in range(700)], matrix))
    wide = matrix.astype(np.float64)
    cosines = wide @ query / np.linalg.norm(wide, axis=1) / np.linalg.norm(query.astype(np.float64))
    matches = await empty.search(query, 25)
    assert [int(match.id) for match in matches] == np.argsort(-cosines)[:25].tolist()
    assert [match.score for match in matches] == pytest.approx(np.sort(cosines)[::-1][:25], abs=1e-7)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
async def test_very_small_and_very_large_vectors_are_compared(store: Store, scale: float) -> None:
    await store.write(rows(["a", "b"], np.array([[1, 1, 0, 0], [1, 0, 0, 0]], dtype=np.float32) * np.float32(scale)))
    matches = await store.search(unit(scale, 0, 0, 0), 2)
    assert [(match.id, match.score) for match in matches] == [("b", 1.0), ("a", pytest.approx(2**-0.5))]


async def test_very_small_and_very_large_vectors_are_compared_with_others(store: Store) -> None:
    """Their squares are no more, or not precisely, float32 numbers."""
    scales = [1e-40, 1e-30, 1e-22, 3e-20, 1e-18, 1.0, 1e18, 1e20, 1e37]
    near = np.array([[100, 1, 0, 0]], np.float32)
    far = np.array([[100, 3, 0, 0]]) * np.array([[1e-32], [1.0]])[np.arange(200) % 2]
    scaled = np.array([[scale] for scale in scales]) * near / 100
    await store.write(rows([f"near {i}" for i in range(len(scales))], scaled.astype(np.float32)))
    await store.write(rows([f"far {i}" for i in range(200)], far.astype(np.float32)))
    found = {match.id for match in await store.search(unit(100, 1, 0, 0), len(scales))}
    assert found == {f"near {i}" for i in range(len(scales))}


async def test_search_sees_what_was_written_and_deleted_since(store: Store) -> None:
    query = unit(1, 0, 0, 0)
    await store.write(rows(["a"], unit(0, 1, 0, 0)[None]))
    assert [match.id for match in await store.search(query, 1)] == ["a"]
    await store.write(rows(["b"], query[None]))
    assert [match.id for match in await store.search(query, 1)] == ["b"]
    await store.write(rows(["a"], query[None]))
    assert [match.id for match in await store.search(query, 1)] == ["a"]
    await store.delete(["a"])
    assert [match.id for match in await store.search(query, 5)] == ["b"]


METADATA: list[dict[str, Any] | None] = [
    {"lang": "en", "n": 1},
    {"lang": "de", "n": 1.5},
    {"lang": "en", "flag": True},
    {"n": True, "flag": False},
    {"n": "1", 'odd "name"\'': "yes", "": 2},
    {"gone": None, "list": [1], "lang": ["en"]},
    None,
]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"lang": "en"}, "02"),
        ({"lang": "en", "n": 1}, "0"),
        ({"n": 1}, "0"),
        ({"n": 1.0}, "0"),
        ({"n": 1.5}, "1"),
        ({"n": True}, "3"),
        ({"n": "1"}, "4"),
        ({"flag": False}, "3"),
        ({"gone": None}, "5"),
        ({"missing": None}, ""),
        ({'odd "name"\'': "yes"}, "4"),
        ({"": 2}, "4"),
        ({"list": "[1]"}, ""),
        ({"lang') OR 1=1 --": "en"}, ""),
        ({}, "0123456"),
    ],
    ids=str,
)
async def test_where_keeps_rows_with_these_values(store: Store, where: dict[str, Any], expected: str) -> None:
    await store.write(rows([str(i) for i in range(len(METADATA))], metadata=METADATA))
    matches = await store.search(vectors(1)[0], 100, where=where)
    assert "".join(sorted(match.id for match in matches)) == expected


@pytest.mark.parametrize("value", [[[1]], {"a": 1}, b"bytes", 2**70])
async def test_where_refuses_what_is_no_filter(store: Store, value: object) -> None:
    with pytest.raises(ConfigError, match="'name'"):
        await store.search(vectors(1)[0], 1, where={"name": value})


async def test_search_refuses_what_it_cannot_compare(store: Store) -> None:
    await store.write(rows(["a"]))
    with pytest.raises(SpaceMismatchError, match="4 dimensions; the query has 3"):
        await store.search(unit(1, 0, 0), 1)
    with pytest.raises(InputError, match="NaN"):
        await store.search(unit(1, 0, 0, np.nan), 1)
    with pytest.raises(ConfigError, match="k=0"):
        await store.search(unit(1, 0, 0, 0), 0)
