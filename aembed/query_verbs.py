"""The verbs of questions: the vector of one, and the rows that are near to it."""

from __future__ import annotations

from collections.abc import Iterable

from aembed.coalesce import embed_queries
from aembed.core.filters import parse_filter
from aembed.engine import Engine
from aembed.engines import AnyStore, Engines
from aembed.pipeline.reading import refuse_what_is_no_list
from aembed.pipeline.searching import prepare_hybrid, search_all, search_store
from aembed.protocols import Backlog
from aembed.ranges import check_seconds, check_whole_number
from aembed.types import Match, Metadata, Vector

# Chosen: people do not wait for longer. Larger, callers would hold on to requests of web apps that are given up.
QUERY_TIMEOUT = 10.0
"""Seconds within which a query has its vector, where nothing else is said."""
# Chosen: a tenth of the queue, so that the queries of others find room there. Smaller, a provider that takes few texts
# in a request would have fewer requests in flight.
QUERIES_AT_ONCE = 1_000


class QueryVerbs:
    """What an Embedder does for people who wait."""

    _engine: Engine
    _engines: Engines

    async def embed_query(self, text: str, *, timeout: float = QUERY_TIMEOUT) -> Vector:
        """The vector of one query, the caller's own; shape (dimensions,).

        Calls that come together share requests, equal texts share one input. Cancelled, or after `timeout` seconds,
        it leaves the others alone. Raises InputError or what the provider said of this text; UnavailableError with
        `.retry_after` where there is no vector in time, at once where the provider asks to wait for longer;
        OverloadedError at once where `max_queue_size` queries wait.
        """
        return await self._engine.query_vector(self._engine.preparing.own, text, check_seconds("timeout", timeout))

    async def search(
        self,
        store: AnyStore | Backlog,
        text: str,
        *,
        k: int = 5,
        where: Metadata | None = None,
        hybrid: bool = False,
    ) -> list[Match]:
        """The k rows nearest to the text, best first; `Match.score` is the cosine similarity, 1 is equal.

        `where` is a filter of the rows' metadata, in a column of a table of its columns: {"lang": "en"} for equal, a
        list for any of its values, {"year": {"gte": 2000, "lt": 2020}} for a range; docs/searching.md has all of it.
        With `hybrid` rows that hold exact names of the text (options, functions, error codes) come first, too, and
        `Match.rank` is the order; a store of aembed's own builds the index for it at the first such search. An
        empty store gives an empty list, without a request. Raises ConfigError for what is no filter and where the store
        finds no words, SpaceMismatchError for a store of another model, and what `embed_query` raises.
        """
        k = check_whole_number("k", k, 1)
        parse_filter(where)
        async with self._engines.use_searched(store) as (engine, opened, space):
            if space is None:
                return []
            words = await prepare_hybrid(opened) if hybrid else None
            vector = await engine.query_vector(space.preparation, text, QUERY_TIMEOUT)
            engine.preparing.note(opened, space)
            return await search_store(opened, words, text, vector, k, where)

    async def search_many(
        self,
        store: AnyStore | Backlog,
        texts: Iterable[str],
        *,
        k: int = 5,
        where: Metadata | None = None,
        hybrid: bool = False,
    ) -> list[list[Match]]:
        """For each text, in their order, what `search` finds. The texts share requests, and the searches passes.

        A text that fails, as an empty one, is a PartialError with `.embeddings`, before any search, and costs the
        others nothing: those have their vectors there. Raises what stopped them all, with `.embeddings`, and what
        `search` raises; a text of which there is no vector within `timeout` of the Embedder is an UnavailableError.
        """
        refuse_what_is_no_list(texts)
        k, asked = check_whole_number("k", k, 1), list(texts)
        parse_filter(where)
        with self._engine.run_verb():
            async with self._engines.use_searched(store) as (engine, opened, space):
                if space is None or not asked:
                    return [[] for _ in asked]
                words = await prepare_hybrid(opened) if hybrid else None
                options = engine.options
                at_once = max(QUERIES_AT_ONCE, engine.limits.max_batch_size)
                embeddings = await embed_queries(
                    asked,
                    lambda text: engine.query_vector(space.preparation, text, max(QUERY_TIMEOUT, options.timeout)),
                    min(at_once, options.max_queue_size or at_once),
                )
                engine.preparing.note(opened, space)
                return await search_all(opened, words, asked, embeddings.vectors, k, where)
