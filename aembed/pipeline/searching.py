"""A search of one store: by the vector, or by the vector and the exact names of the question."""

from __future__ import annotations

from aembed.core.fusing import DEPTH, fuse, with_ranks
from aembed.errors import ConfigError
from aembed.protocols import Backlog, SearchesWords, Store
from aembed.types import Match, Metadata, Vector


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
