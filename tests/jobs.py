"""What tests of jobs begin with and end with."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from typing import Any

import numpy as np

from aembed import Embedded, Record, Store
from aembed.core.changes import Item, UnstoredEntries
from aembed.providers.fake import fake_vectors
from aembed.sources import Source
from aembed.types import Vector

DIMENSIONS = 64
"""Of FakeProvider()."""


def records(texts: Iterable[str], **fields: Any) -> list[Record]:
    return [Record(f"id{index}", text, **fields) for index, text in enumerate(texts)]


def words(n: int, start: int = 0) -> list[str]:
    return [f"text {number}" for number in range(start, start + n)]


def item_of(*pieces: str, tokens: float = 1.0, weights: tuple[float, ...] = (1.0,)) -> Item:
    """One text, sent as these pieces."""
    return Item(UnstoredEntries().make_entry(0, Record("an id", "".join(pieces))), pieces, tokens, weights)


async def one_by_one(values: Iterable[Any]) -> AsyncIterator[Any]:
    for value in values:
        yield value


async def all_of(values: AsyncIterable[Any]) -> list[Any]:
    return [value async for value in values]


def vector_of(text: str, dimensions: int = DIMENSIONS) -> Vector:
    """What FakeProvider answers for that text."""
    vector: Vector = fake_vectors([text.encode()], dimensions)[0]
    return vector


def is_right(row: Embedded) -> bool:
    """Whether the vector was made from the text beside it."""
    assert row.text is not None
    return np.array_equal(row.vector, vector_of(row.text, len(row.vector)))


async def rows_of(store: Store) -> dict[str, Embedded]:
    rows = await all_of(store.rows())
    assert all(is_right(row) for row in rows)
    return {row.id: row for row in rows}


def ids_of(results: Sequence[Any]) -> list[str]:
    return [result.id for result in results]


def resolve_ids(source: Source) -> None:
    """Reads all of it, until no two files have one id, as the command does. Raises ConfigError for one id twice."""
    again = True
    while again:
        reading = source.records()
        for _ in reading:
            pass
        again = reading.check_ids()
