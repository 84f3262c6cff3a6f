"""What both type checkers refuse, a line each: those that end in `# refused`. Nothing else may be refused."""

from __future__ import annotations

from collections.abc import Sequence

import aembed
from aembed import Budget, Embedder, Embeddings, InputType, MemoryStore, Provider, Record, Reply, RetryPolicy
from aembed.integrations.blocking import BlockingEmbedder


class WithoutClosing:
    """No Provider: it lacks `aclose`."""

    price_usd = None
    space = aembed.Space("mine", "m", 3)
    limits = aembed.Limits(1, 1, 1)

    async def embed(self, texts: Sequence[str], *, input_type: InputType) -> Reply:
        raise NotImplementedError


class OfBytes:
    """No Provider: it takes bytes."""

    price_usd = None
    space = aembed.Space("mine", "m", 3)
    limits = aembed.Limits(1, 1, 1)

    async def embed(self, texts: Sequence[bytes], *, input_type: InputType) -> Reply:
        raise NotImplementedError

    async def aclose(self) -> None: ...


async def options() -> None:
    Embedder("fake:fake", concurency=8)  # refused
    Embedder("fake:fake", concurrency="8")  # refused
    Embedder("fake:fake", too_long="shorten")  # refused
    Embedder("fake:fake", retry=3)  # refused
    Embedder("fake:fake", budget=5.0)  # refused
    Embedder("fake:fake", timeout=None)  # refused
    Embedder("fake:fake", max_queue_size=None)
    Embedder(5)  # refused
    Embedder(WithoutClosing())  # refused
    Embedder(OfBytes())  # refused
    RetryPolicy(max_retry=3)  # refused
    Budget("5 dollars")  # refused
    aembed.ProgressBar(5)  # refused
    BlockingEmbedder("fake:fake", concurency=8)  # refused
    BlockingEmbedder("fake:fake").embed_documents("one text", on_progress=print)  # refused
    aembed.FakeProvider(vectors={"one": "two"})  # refused


async def methods(embedder: Embedder) -> None:
    await embedder.embed_documents("one text", on_progres=print)  # refused
    await embedder.embed_documents([1, 2, 3])  # refused
    await embedder.embed_documents(["one"], on_progress=3)  # refused
    await embedder.embed_query(5)  # refused
    await embedder.embed_document("one", timeout=5)  # refused
    await embedder.embed_query("one", timeout="5")  # refused
    await embedder.embed_into(MemoryStore(), [1, 2])  # refused
    await embedder.embed_into(5, ["one"])  # refused
    await embedder.backfill(MemoryStore())  # refused
    await embedder.backfill("notes", limit=3)  # refused
    await embedder.search(MemoryStore(), "one", k="5")  # refused
    await embedder.search(MemoryStore(), "one", where=["page"])  # refused
    await embedder.search_many(MemoryStore(), [1])  # refused
    await embedder.aclose(timeout="30")  # refused
    embedder.embed("one")  # refused


async def functions() -> None:
    await aembed.embed_documents(["one"])  # refused
    await aembed.embed_documents(["one"], model="fake:fake", concurency=8)  # refused
    await aembed.embed_documents(["one"], model="fake:fake", concurrency="8")  # refused
    await aembed.embed_documents(["one"], model="fake:fake", retry_failed=True)  # refused
    await aembed.embed_query("one", model="fake:fake", timeout="5")  # refused
    await aembed.embed_query("one", model="fake:fake", max_que_size=5)  # refused
    await aembed.embed_into(MemoryStore(), ["one"], model="fake:fake", retry_failed="yes")  # refused
    await aembed.embed_into(MemoryStore(), ["one"], model="fake:fake", on_failed=print)  # refused
    await aembed.search(MemoryStore(), "one", model="fake:fake", k=None)  # refused
    async with aembed.stream(["one"], model="fake:fake", dimension=5) as results:  # refused
        assert results


async def results(embeddings: Embeddings) -> None:
    embeddings[0].shape  # refused
    first = embeddings[0]
    assert first is not None
    first.shape.append(5)  # refused
    embeddings["one"]  # refused
    shorter: list[list[float]] = embeddings[:2]  # refused
    assert shorter
    embeddings.vector  # refused


async def records() -> None:
    Record("a")  # refused
    Record("a", 5)  # refused
    Record(1.5, "text")  # refused
    Record("a", "text", "metadata")  # refused
    Record("a", "text").txt  # refused
    aembed.Unknown  # refused
    aembed.PostgresStor  # refused


def of_another_kind(provider: Provider) -> None:
    provider.space = None  # refused
    provider.embed("one")  # refused
