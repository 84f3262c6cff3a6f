"""Rows A21 and A22: vectors in base64 that are no float32 values, and vectors that are not 1 long."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pybase64
import pytest

from aembed import ConfigError, Embedder, InvalidReplyError, MemoryStore, open_provider
from tests.hostile.jobs import KEY, QUICK
from tests.jobs import records, words
from tests.service.faults import Always, Fault, Mutate, Request, Status
from tests.service.server import Server
from tests.service.vectors import vector_of

UNKNOWN = "tei:text-embedding-3-small"
"""A model whose width no row names."""
DOUBLES: dict[str, Callable[[Any], Any]] = {
    "float64": lambda row: row.astype("<f8"),
    "float64 of exact values": lambda row: row.astype("<f8") / 3,
    "float64 of float16": lambda row: row.astype("<f2").astype("<f8"),
}
OTHER_TYPES: dict[str, Callable[[Any], bytes]] = {
    "float16": lambda row: row.astype("<f2").tobytes(),
    "bfloat16": lambda row: (row.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes(),
    "int8": lambda row: np.round(row / np.abs(row).max() * 127).astype(np.int8).tobytes(),
    "uint8": lambda row: (np.round(row / np.abs(row).max() * 127) + 128).astype(np.uint8).tobytes(),
    "big-endian float32": lambda row: row.astype(">f4").tobytes(),
}


def each_vector(change: Callable[[Any], Any]) -> Mutate:
    """`change` gets a float32 row, and gives the bytes or the row that is sent in its place."""

    def edited(reply: dict[str, Any]) -> Any:
        for item in reply["data"]:
            if isinstance(item["embedding"], str):
                made = change(np.frombuffer(pybase64.b64decode(item["embedding"]), "<f4"))
                raw = made if isinstance(made, bytes) else made.astype("<f4").tobytes()
                item["embedding"] = pybase64.b64encode(raw).decode()
            else:
                made = change(np.array(item["embedding"], np.float32))
                item["embedding"] = item["embedding"] if isinstance(made, bytes) else made.tolist()
        return reply

    return Mutate(edited)


def at(server: Server, model: str = UNKNOWN, *, max_batch_size: int | None = None, **options: Any) -> Embedder:
    provider = open_provider(model, base_url=server.url, api_key=KEY, **options)
    return Embedder(provider, retry=QUICK, max_batch_size=max_batch_size)


@pytest.mark.parametrize("length", [1.0, 0.6, 19.0])
@pytest.mark.parametrize("kind", OTHER_TYPES)
async def test_a21_bytes_of_another_type_are_never_read_as_float32(kind: str, length: float) -> None:
    """Numbers say themselves what they are."""
    texts = words(50)
    async with Server(script=Always(each_vector(lambda row: OTHER_TYPES[kind](row * np.float32(length))))) as server:
        async with at(server, normalize=False) as embedder:
            embeddings = await embedder.embed_documents(texts)
        assert all(np.array_equal(row, vector_of(text, 1_536)) for row, text in zip(embeddings, texts, strict=True))
        assert server.ledger.requests <= embeddings.report.requests <= 4


@pytest.mark.parametrize("length", [1.0, 0.6, 19.0, 144.0])
@pytest.mark.parametrize("dimensions", [None, 1_536])
@pytest.mark.parametrize("kind", DOUBLES)
async def test_a21_float64_is_read_and_nothing_is_bought_again(
    kind: str, dimensions: int | None, length: float
) -> None:
    """Each reply that was on its way proves it by itself, whether the width is known or not."""
    texts, change = words(100), DOUBLES[kind]
    script = Always(each_vector(lambda row: change(row * np.float32(length)).tobytes()))
    async with Server(script=script) as server:
        async with at(server, dimensions=dimensions, normalize=False, max_batch_size=5) as embedder:
            embeddings = await embedder.embed_documents(texts)
        assert (server.ledger.requests, server.ledger.texts_again) == (20, 0)
    expected = [change(vector_of(text, 1_536) * np.float32(length)).astype(np.float32) for text in texts]
    assert np.array_equal(embeddings.vectors, expected)


async def test_a21_of_two_servers_behind_one_address_one_may_send_float64() -> None:
    class Every:
        which = 0

        def __call__(self, request: Request) -> Mutate | None:
            return each_vector(lambda row: row.astype("<f8").tobytes()) if request.number % 3 == self.which else None

    texts = words(100)
    for which in (0, 1):
        script = Every()
        script.which = which
        async with Server(script=script) as server, at(server, max_batch_size=5) as embedder:
            embeddings = await embedder.embed_documents(texts)
            assert (server.ledger.requests, server.ledger.texts_again) == (20, 0)
        assert np.array_equal(embeddings.vectors, [vector_of(text, 1_536) for text in texts])


async def test_a21_vectors_twice_as_wide_as_asked_for_are_no_float64() -> None:
    """A server that leaves out the field for the width: its values are float32, and the job stops."""
    script = Always(each_vector(lambda row: np.concatenate([row, row[::-1]])))
    async with Server(script=script) as server, at(server, "openai:text-embedding-3-small") as embedder:
        with pytest.raises(InvalidReplyError, match="3072 dimensions instead of 1536"):
            await embedder.embed_documents(words(20))


@pytest.mark.parametrize("length", [1.0, 0.6, 19.0, 144.0])
async def test_a21_float32_of_any_length_is_proven_by_the_first_reply(length: float) -> None:
    texts = words(50)
    async with Server(script=Always(each_vector(lambda row: row * np.float32(length)))) as server:
        async with at(server, normalize=False) as embedder:
            embeddings = await embedder.embed_documents(texts)
        assert server.ledger.texts_again == 0
        assert np.allclose(np.linalg.norm(embeddings.vectors, axis=1), length, rtol=1e-3)


async def test_a21_where_base64_was_asked_for_by_name_nothing_is_guessed() -> None:
    async with Server(script=Always(each_vector(OTHER_TYPES["int8"]))) as server:
        async with at(server, encoding="base64") as embedder:
            with pytest.raises(InvalidReplyError, match="cannot be float32; they may be float64, float16 or int8"):
                await embedder.embed_into(MemoryStore(), records(words(20)))
        assert server.ledger.requests <= 5


@pytest.mark.parametrize("change", [lambda text: f"{text[:76]}\n{text[76:]}", lambda text: text.replace("A", "-")])
async def test_p21_base64_that_nobody_else_writes_so_is_asked_for_as_numbers(change: Callable[[str], str]) -> None:
    def respell(reply: dict[str, Any]) -> dict[str, Any]:
        return reply | {"data": [item | {"embedding": change(item["embedding"])} for item in reply["data"]]}

    texts = words(200)
    async with Server(script=lambda request: Mutate(respell) if request.base64 else None) as server:
        async with at(server, max_batch_size=10) as embedder:
            embeddings = await embedder.embed_documents(texts)
        # Eight were under way when the first reply came.
        assert server.ledger.requests <= 28
        assert server.ledger.texts_again <= 80
    assert np.array_equal(embeddings.vectors, [vector_of(text, 1_536) for text in texts])


async def test_a21_numbers_are_still_to_be_tried_where_they_met_a_rate_limit() -> None:
    """A limit so low that what is asked for again at once always comes too early."""

    def script(request: Request) -> Fault | None:
        return each_vector(OTHER_TYPES["int8"]) if request.base64 else too_early.pop() if too_early else None

    too_early: list[Fault] = [Status(429, headers=[("retry-after", "0")])]
    async with Server(script=script) as server, at(server) as embedder:
        embeddings = await embedder.embed_documents(words(20))
        assert len(embeddings.failures) == 0
        assert server.ledger.requests == 3


@pytest.mark.parametrize("encoding", ["base64", "float"])
async def test_a22_vectors_that_are_not_1_long_are_told_once(encoding: str, caplog: pytest.LogCaptureFixture) -> None:
    script = Always(each_vector(lambda row: row * np.float32(0.58)))
    async with Server(script=script) as server, at(server, encoding=encoding, max_batch_size=10) as embedder:
        embeddings = await embedder.embed_documents(words(50))
    assert np.allclose(np.linalg.norm(embeddings.vectors, axis=1), 0.58, rtol=1e-3)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [message.split(":")[0] for message in told] == [
        "the vectors of text-embedding-3-small are 0.58 to 0.58 long, not 1"
    ]


@pytest.mark.parametrize("encoding", ["base64", "float"])
async def test_a22_normalize_makes_them_1_long_and_leaves_their_direction(
    encoding: str, caplog: pytest.LogCaptureFixture
) -> None:
    texts, script = words(50), Always(each_vector(lambda row: row * np.float32(0.58)))
    async with Server(script=script) as server, at(server, encoding=encoding, normalize=True) as embedder:
        embeddings = await embedder.embed_documents(texts)
        query = await embedder.embed_query(texts[0])
    expected = np.array([vector_of(text, 1_536) for text in texts])
    assert np.allclose(embeddings.vectors, expected, rtol=1e-5, atol=1e-7)
    assert np.allclose(query, expected[0], rtol=1e-5, atol=1e-7)
    assert not caplog.records


async def test_a22_a_model_that_is_known_to_normalise_costs_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    async with Server() as server, at(server, "openai:text-embedding-3-small", normalize=True) as embedder:
        vector = await embedder.embed_query("one")
    assert np.array_equal(vector, vector_of("one", 1_536))
    assert not caplog.records


@pytest.mark.parametrize("wrong", ["yes", 1, 0.5])
def test_a22_normalize_is_true_false_or_none(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=f"normalize={wrong!r} must be True, False or None"):
        open_provider(UNKNOWN, normalize=wrong)
