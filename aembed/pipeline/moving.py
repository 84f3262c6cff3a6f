"""This module finds out whether another name or address gives the vectors that a store holds, by a few of its texts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import islice

import numpy as np

from aembed.core.spaces import space_after_move
from aembed.errors import ConfigError, SpaceMismatchError
from aembed.pipeline.reading import iterate
from aembed.pipeline.store_calls import await_store
from aembed.preparation import document_part
from aembed.protocols import Backlog, Moves, MovesColumn, Store
from aembed.results import Embeddings
from aembed.types import Embedded, Matrix, Space, Vector

# Chosen: texts of another model agree by chance in none of eight; more would cost more, and prove no more.
SAMPLE = 8
"""So many texts are embedded again."""
# Chosen: a store may hold long texts first; reading on through all of it could take minutes.
MOST_READ = 200
"""Texts for the sample are looked for among so many rows."""
# Chosen: a longer text may have been cut, or embedded in pieces, by options that are not known here.
LONGEST = 2_000
"""A text of more characters is not used for the sample."""
# Measured in recorded replies: the same text twice has a cosine of 0.9999 at least, also by way of another service.
# int8 leaves about 0.99; another model, or another prompt, far less.
LEAST_SIMILARITY = 0.99
"""The least cosine at which two vectors of a text are taken to be the same."""


async def move(
    store: Store | Backlog, space: Space, embed: Callable[[Sequence[str], Space], Awaitable[Embeddings]]
) -> float:
    """Makes the store, or the column, one of `space` where a few of its texts have the same vectors there.

    A preparation that was asked for may differ from the store's own in what is done to queries alone. Returns the least
    cosine similarity that was seen. Raises SpaceMismatchError where the vectors differ.
    """
    if not isinstance(store, MovesColumn) and (isinstance(store, Backlog) or not isinstance(store, Moves)):
        raise ConfigError(f"{type(store).__name__} cannot be moved: it has no method move(space)")
    held = await _read_space(store)
    after = space_after_move(held, space)
    # Vectors of a text with a prefix and without it may be as near to each other as this test could tell.
    if document_part(after.preparation) != document_part(held.preparation):
        raise SpaceMismatchError(
            f"the texts of {held} were prepared otherwise than those of {space}, so that their vectors cannot be "
            "compared: leave out the options that prepare texts, or embed the texts anew"
        )
    sample = await _sample(store)
    if not sample:
        raise ConfigError(f"no row has a vector and a text of at most {LONGEST:,} characters, which could be compared")
    embeddings = await embed(list(sample), after)
    embeddings.raise_for_failures()
    least = _least_similarity(list(sample.values()), embeddings.vectors)
    if least < LEAST_SIMILARITY:
        edited = isinstance(store, Backlog)
        raise SpaceMismatchError(
            f"{space} gives other vectors than those that are held, of {held}: of {len(sample)} texts that were "
            f"embedded again one has a cosine similarity of {least:.3f} to its stored vector; embed the texts anew"
            + (" (or the text of that row was edited after it was filled)" if edited else "")
        )
    await await_store(store.move(after))
    return least


async def _read_space(store: Store | Backlog) -> Space:
    if isinstance(store, MovesColumn):
        held: Space | None = await await_store(store.space())
        if held is None:
            raise ConfigError("it is not known which vectors the column is for, so there is nothing to move: fill it")
        return held
    assert isinstance(store, Store)
    held = (await await_store(store.info())).space
    if held is None:
        raise ConfigError("the store holds no rows, so there is nothing to move: fill it with the model that you want")
    return held


async def _sample(store: Store | Backlog) -> dict[str, Vector]:
    """A few texts of the store, each with its vector."""
    if isinstance(store, MovesColumn):
        found: list[Embedded] = await await_store(store.sample(MOST_READ))
    else:
        assert isinstance(store, Store)
        found = []
        async with iterate(store.rows()) as rows:
            async for row in rows:
                found.append(row)
                if len(found) >= MOST_READ:
                    break
    short = ((row.text, row.vector) for row in found if row.text and len(row.text) <= LONGEST)
    return dict(islice(short, SAMPLE))


def _least_similarity(sample: Sequence[Vector], new: Matrix) -> float:
    held = np.array(sample)
    if held.shape != new.shape:
        raise SpaceMismatchError(f"the store has {held.shape[1]} dimensions, the model gives vectors of {new.shape[1]}")
    lengths = np.linalg.norm(held, axis=1) * np.linalg.norm(new, axis=1)
    return float((np.einsum("ij,ij->i", held, new) / lengths).min())
