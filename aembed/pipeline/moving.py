"""This module finds out whether another name or address gives the vectors that a store holds, by a few of its texts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from aembed.core.spaces import moved
from aembed.errors import ConfigError, SpaceMismatchError
from aembed.pipeline.store_sinks import guarded
from aembed.protocols import Moves, Store
from aembed.results import Embeddings
from aembed.types import Matrix, Space, Vector

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


async def move(store: Store, space: Space, embed: Callable[[Sequence[str]], Awaitable[Embeddings]]) -> float:
    """Makes the store one of `space` where a few of its texts have the same vectors there.

    Returns the least cosine similarity that was seen. Raises SpaceMismatchError where the vectors differ.
    """
    held = (await guarded(store.info())).space
    if held is None:
        raise ConfigError("the store holds no rows, so there is nothing to move: fill it with the model that you want")
    if not isinstance(store, Moves):
        raise ConfigError(f"{type(store).__name__} cannot be moved: it has no method move(space)")
    sample = await _sample(store)
    if not sample:
        raise ConfigError(f"no row of the store has a text of at most {LONGEST:,} characters, which could be compared")
    embeddings = await embed(list(sample))
    embeddings.raise_for_failures()
    least = _least_similarity(list(sample.values()), embeddings.vectors)
    if least < LEAST_SIMILARITY:
        raise SpaceMismatchError(
            f"{space} gives other vectors than the store holds, those of {held}: of {len(sample)} texts that were "
            f"embedded again one has a cosine similarity of {least:.3f} to its stored vector; embed the texts anew"
        )
    await guarded(store.move(moved(held, space)))
    return least


async def _sample(store: Store) -> dict[str, Vector]:
    """A few texts of the store, each with its vector."""
    sample, rows, read = dict[str, Vector](), store.rows(), 0
    try:
        async for row in rows:
            read += 1
            if row.text and len(row.text) <= LONGEST:
                sample[row.text] = row.vector
            if read >= MOST_READ or len(sample) >= SAMPLE:
                break
    finally:
        if close := getattr(rows, "aclose", None):
            await close()
    return sample


def _least_similarity(sample: Sequence[Vector], new: Matrix) -> float:
    held = np.array(sample)
    if held.shape != new.shape:
        raise SpaceMismatchError(f"the store has {held.shape[1]} dimensions, the model gives vectors of {new.shape[1]}")
    lengths = np.linalg.norm(held, axis=1) * np.linalg.norm(new, axis=1)
    return float((np.einsum("ij,ij->i", held, new) / lengths).min())
