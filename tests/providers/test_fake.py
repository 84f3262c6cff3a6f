from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from aembed.errors import BadRequestError, ConfigError, ProviderError, RateLimitError
from aembed.protocols import Provider
from aembed.providers.fake import LIMITS, FakeProvider, Sent, fake_vectors


async def test_a_vector_is_made_from_its_text_alone() -> None:
    first = await FakeProvider().embed(["a", "b", "é"], input_type="document")
    second = await FakeProvider("other").embed(["b", "a"], input_type="query")
    assert first.matrix.shape == (3, 64)
    assert first.matrix.dtype == np.float32
    assert np.array_equal(first.matrix[:2], second.matrix[::-1])
    assert np.allclose(np.linalg.norm(first.matrix, axis=1), 1)


@pytest.mark.parametrize("dimensions", [1, 3, 64, 1_536])
async def test_any_dimension(dimensions: int) -> None:
    reply = await FakeProvider(dimensions=dimensions).embed(["a", "b"], input_type="document")
    assert reply.matrix.shape == (2, dimensions)


def test_no_two_of_many_texts_are_close() -> None:
    matrix = fake_vectors([str(i).encode() for i in range(2_000)], 64)
    similarities = matrix @ matrix.T - np.eye(2_000)
    assert similarities.max() < 0.75


async def test_the_ledger_counts_what_was_sent_and_billed() -> None:
    fake = FakeProvider(keep_texts=True)
    assert isinstance(fake, Provider)
    reply = await fake.embed(["12345678", "1234"], input_type="query")
    ledger = fake.ledger
    assert reply.usage.tokens == 3
    assert (ledger.requests, ledger.texts, ledger.billed_tokens, ledger.in_flight, ledger.max_in_flight) == (
        1,
        2,
        3,
        0,
        1,
    )
    assert ledger.log == [Sent(0, 2, 3, "query", "answered", ("12345678", "1234"))]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "0 inputs"),
        (["a"] * 2_049, "2049 inputs, max 2048"),
        (["a", ""], "empty string"),
        (["x" * 1_200_000, "yyyy"], "requested 300001 tokens, max 300000 tokens per request"),
    ],
    ids=["none", "too many", "empty", "tokens"],
)
async def test_it_refuses_what_openai_refuses(texts: list[str], message: str) -> None:
    fake = FakeProvider()
    with pytest.raises(BadRequestError, match=message) as raised:
        await fake.embed(texts, input_type="document")
    assert raised.value.offender == (1 if "" in texts else None)
    assert (fake.ledger.requests, fake.ledger.billed_tokens) == (1, 0)
    assert fake.ledger.log[0].outcome == "BadRequestError"


async def test_it_accepts_what_openai_accepts() -> None:
    fake = FakeProvider()
    await fake.embed(["x" * 1_200_000], input_type="document")
    await fake.embed(["é"] * 2_048, input_type="document")
    assert fake.ledger.billed_tokens == 300_000 + 1_024


async def test_a_script_of_faults_in_order() -> None:
    fake = FakeProvider(script=[RateLimitError("429"), None, 0.0])
    with pytest.raises(RateLimitError):
        await fake.embed(["a"], input_type="document")
    for _ in range(3):
        await fake.embed(["a"], input_type="document")
    assert [sent.outcome for sent in fake.ledger.log] == ["RateLimitError", "answered", "answered", "answered"]
    assert fake.ledger.texts == 3


async def test_a_script_that_looks_at_the_texts() -> None:
    fake = FakeProvider(script=lambda number, texts: BadRequestError("poison") if "poison" in texts else None)
    with pytest.raises(ProviderError):
        await fake.embed(["a", "poison"], input_type="document")
    await fake.embed(["a"], input_type="document")
    assert fake.ledger.texts == 1


async def test_requests_in_flight_are_counted_and_a_cancelled_one_is_billed() -> None:
    arrived = asyncio.Event()
    fake = FakeProvider(latency=60.0, script=lambda number, texts: arrived.set() if number == 2 else None)
    tasks = [asyncio.create_task(fake.embed(["a"], input_type="document")) for _ in range(3)]
    await arrived.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (fake.ledger.in_flight, fake.ledger.max_in_flight, fake.ledger.texts) == (0, 3, 3)
    await fake.aclose()


def test_dimensions_of_none() -> None:
    with pytest.raises(ConfigError):
        FakeProvider(dimensions=0)


async def test_it_embeds_100000_short_texts_a_second() -> None:
    fake = FakeProvider()
    texts = [f"short text number {i}" for i in range(LIMITS.max_batch_size)]
    start = time.process_time()
    for _ in range(10):
        await fake.embed(texts, input_type="document")
    assert 10 * len(texts) / (time.process_time() - start) > 100_000


class Subclass(str):
    pass


@pytest.mark.parametrize(
    ("bad", "error"), [(Subclass("a"), TypeError), (np.str_("a"), TypeError), ("\ud800", BadRequestError)], ids=repr
)
async def test_what_json_does_not_carry_is_not_sent(bad: str, error: type[Exception]) -> None:
    fake = FakeProvider()
    with pytest.raises(error):
        await fake.embed(["a", bad], input_type="document")
    assert fake.ledger.requests == 0


async def test_vectors_that_are_given_are_answered() -> None:
    fake = FakeProvider(dimensions=2, vectors={"cat": [0.6, 0.8]})
    matrix = (await fake.embed(["dog", "cat"], input_type="document")).matrix
    assert matrix[1].tolist() == np.array([0.6, 0.8], np.float32).tolist()
    assert matrix[0].tolist() == fake_vectors([b"dog"], 2)[0].tolist()
    with pytest.raises(ConfigError, match="'cat' has 2 numbers"):
        FakeProvider(dimensions=3, vectors={"cat": [0.6, 0.8]})
    for width in (3, 0):
        with pytest.raises(ConfigError, match=f"dimensions={width}"):
            fake.named("other", width)
