"""A search of one store: by the vector, or by the vector and the exact names of the question."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aembed.core.fusing import DEPTH, fuse, with_ranks
from aembed.errors import ConfigError
from aembed.protocols import Backlog, SearchesWords, Store
from aembed.types import Match, Matrix, Metadata, Vector

# Chosen: as many as SQLite answers in one pass (MOST_AT_ONCE). Larger, they would wait in its queue for each other.
SEARCHES_AT_ONCE = 64


async def prepare_hybrid(store: Store | Backlog) -> SearchesWords:
    """The store as one that finds words. Raises ConfigError for one that does not."""
    if not isinstance(store, SearchesWords):
        raise ConfigError(
            f"hybrid=True: {type(store).__name__} does not find words; leave hybrid out, or give it the two methods of "
            "aembed.SearchesWords"
        )
    await store.prepare_words()
    return store


async def search_store(
    store: Store | Backlog, words: SearchesWords | None, text: str, vector: Vector, k: int, where: Metadata | None
) -> list[Match]:
    """`words` is the same store, where the search is hybrid. Each ranking is of one snapshot; of a row that is in both
    the later one is told."""
    if words is None:
        return with_ranks(await store.search(vector, k, where=where))
    depth = max(k, DEPTH)
    nearest = await store.search(vector, depth, where=where)
    return fuse(nearest, await words.search_words(text, vector, depth, where=where), k)


async def search_all(
    store: Store | Backlog,
    words: SearchesWords | None,
    texts: Sequence[str],
    vectors: Matrix,
    k: int,
    where: Metadata | None,
) -> list[list[Match]]:
    """Many at a time, for the store to answer together, and not all of them: others search, too."""
    found: list[list[Match]] = []
    for start in range(0, len(vectors), SEARCHES_AT_ONCE):
        some = slice(start, start + SEARCHES_AT_ONCE)
        pairs = zip(texts[some], vectors[some], strict=True)
        searches = (search_store(store, words, text, vector, k, where) for text, vector in pairs)
        for answer in await asyncio.gather(*searches, return_exceptions=True):
            if isinstance(answer, BaseException):
                raise answer
            found.append(answer)
    return found
