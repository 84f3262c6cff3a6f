"""Jobs and queries of one Embedder that want equal texts at once: one input each. The provider's ledger judges."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from aembed import BadRequestError, Embedder, FakeProvider, MemoryStore, RetryPolicy
from aembed.types import InputType, Reply
from tests.jobs import records, vector_of, words


def texts_sent(provider: FakeProvider) -> Counter[str]:
    return Counter(text for sent in provider.ledger.log for text in sent.texts)


def slow(**options: Any) -> FakeProvider:
    return FakeProvider(latency=0.1, keep_texts=True, **options)


async def test_t8_five_jobs_with_equal_texts_are_billed_once() -> None:
    provider, texts = slow(), words(100)
    async with Embedder(provider) as embedder:
        found = await asyncio.gather(*[embedder.embed_documents(texts) for _ in range(5)])
    assert max(texts_sent(provider).values()) == 1
    assert provider.ledger.texts == 100
    assert sum(each.report.billed_tokens for each in found) == provider.ledger.billed_tokens
    for embeddings in found:
        assert np.array_equal(embeddings.vectors, np.stack([vector_of(text) for text in texts]))


async def test_t8_jobs_that_overlap_share_what_they_have_in_common() -> None:
    """In other batches, in another order, beside texts of their own."""
    provider, stores = slow(), [MemoryStore(), MemoryStore()]
    async with Embedder(provider, max_batch_size=10) as embedder:
        first, second, third = await asyncio.gather(
            embedder.embed_into(stores[0], records(words(80))),
            embedder.embed_into(stores[1], records(reversed(words(40)))),
            embedder.embed_documents(words(50, start=60)),
        )
    assert (first.stored, second.stored, len(third)) == (80, 40, 50)
    sent = texts_sent(provider)
    assert set(sent) == set(words(110))
    assert sent.total() < 80 + 40 + 50, "what was on its way was not sent again"
    assert np.array_equal(third[0], vector_of("text 60"))
    for store in stores:
        assert all([np.array_equal(row.vector, vector_of(row.text or "")) async for row in store.rows()])


async def until_sent(provider: FakeProvider) -> None:
    for _ in range(10_000):
        if provider.ledger.in_flight:
            return
        await asyncio.sleep(0)
    raise AssertionError("nothing was sent")


async def test_t8_a_query_waits_for_the_job_that_has_sent_its_text() -> None:
    provider = slow()
    async with Embedder(provider) as embedder:
        job = asyncio.create_task(embedder.embed_documents(words(20)))
        await until_sent(provider)
        vectors = await asyncio.gather(*[embedder.embed_query("text 3") for _ in range(5)])
        await job
    assert provider.ledger.texts == 20
    assert all(np.array_equal(vector, vector_of("text 3")) for vector in vectors)
    vectors[0][:] = 0.0
    assert np.array_equal(vectors[1], vector_of("text 3")), "each caller's vector is its own"


async def test_t8_a_job_waits_for_the_query_that_has_its_text() -> None:
    provider = slow()
    async with Embedder(provider) as embedder:
        query = asyncio.create_task(embedder.embed_query("text 3"))
        await until_sent(provider)
        found, vector = await embedder.embed_documents(words(20)), await query
    assert provider.ledger.texts == 20
    assert np.array_equal(found[3], vector)


class Apart(FakeProvider):
    """It embeds queries otherwise than documents."""

    embeds_alike = False

    async def embed(self, texts: Sequence[str], *, input_type: InputType) -> Reply:
        return await super().embed([f"{input_type}: {text}" for text in texts], input_type=input_type)


async def test_t8_a_provider_that_tells_queries_from_documents_is_asked_for_both() -> None:
    provider = Apart(latency=0.1, keep_texts=True)
    async with Embedder(provider) as embedder:
        job = asyncio.create_task(embedder.embed_documents(["text"]))
        await until_sent(provider)
        vector, found = await embedder.embed_query("text"), await job
    assert set(texts_sent(provider)) == {"query: text", "document: text"}
    assert not np.array_equal(found[0], vector)


async def test_t8_what_was_to_be_shared_and_was_not_sent_is_sent_by_the_other() -> None:
    """The first job is cancelled while its text waits for a slot, or ends by an error of its own."""
    provider = slow()
    async with Embedder(provider, concurrency=1, max_batch_size=1) as embedder:
        blocks = asyncio.create_task(embedder.embed_documents(["something else"]))
        await until_sent(provider)
        leaving = asyncio.create_task(embedder.embed_documents(["text 0"]))
        await asyncio.sleep(0.02)
        staying = asyncio.create_task(embedder.embed_documents(["text 0"]))
        await asyncio.sleep(0.02)
        leaving.cancel()
        found = await staying
        await blocks
    assert np.array_equal(found[0], vector_of("text 0"))
    assert texts_sent(provider)["text 0"] == 1


async def test_t8_a_job_that_is_cancelled_on_its_way_leaves_its_answers_to_the_others() -> None:
    provider = slow()
    async with Embedder(provider) as embedder:
        leaving = asyncio.create_task(embedder.embed_documents(words(10)))
        await until_sent(provider)
        staying = asyncio.create_task(embedder.embed_documents(words(10)))
        await asyncio.sleep(0.02)
        leaving.cancel()
        found = await staying
    assert len(found.vectors) == 10
    assert provider.ledger.texts == 10


async def test_t8_a_refused_text_is_refused_for_all_who_wait_for_it() -> None:
    def script(number: int, texts: Sequence[str]) -> Exception | float | None:
        return BadRequestError("not this one", status_code=400) if "text 3" in texts else 0.05

    provider = slow(script=script)
    async with Embedder(provider, retry=RetryPolicy(max_retries=0)) as embedder:
        found = await asyncio.gather(*[embedder.embed_documents(words(8)) for _ in range(3)])
    for embeddings in found:
        assert [failure.id for failure in embeddings.failures] == ["3"]
    assert texts_sent(provider)["text 0"] < 3


async def test_t8_whoever_reads_a_stream_slowly_holds_up_nobody_who_wants_its_texts() -> None:
    """Its reader is the very one who waits for the other job."""
    provider = slow()
    embedder = Embedder(provider, max_batch_size=5, concurrency=2)
    async with asyncio.timeout(20), embedder, embedder.stream(words(60)) as results:
        async for _ in results:
            assert len((await embedder.embed_documents(words(60))).vectors) == 60
            break


@pytest.mark.parametrize("kind", ["documents", "store"])
async def test_t8_closing_ends_those_who_wait_for_others(kind: str) -> None:
    provider = FakeProvider(latency=0.3)
    embedder = Embedder(provider)
    jobs: list[asyncio.Task[Any]] = []
    for _ in range(3):
        store: Any = embedder.embed_into
        verb: Any = store(MemoryStore(), records(words(5))) if kind == "store" else embedder.embed_documents(words(5))
        jobs.append(asyncio.create_task(verb))
    await until_sent(provider)
    query = asyncio.create_task(embedder.embed_query("text 1"))
    await asyncio.sleep(0.02)
    await embedder.aclose()
    ended = await asyncio.gather(*jobs, query, return_exceptions=True)
    assert provider.ledger.texts == 5
    assert not any(isinstance(each, asyncio.CancelledError) for each in ended), ended
