"""The SDK's client beside ours, against one server. `nox -s integrations` installs it and runs this."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from functools import partial
from math import ceil
from typing import Any

import numpy as np
import pytest

from aembed import ConfigError, Embedder, FakeProvider, InputError, PartialError
from tests.service.own_process import KEY, Service, serving
from tests.service.vectors import vector_of

sdk = pytest.importorskip("openai")
from aembed.integrations.openai import AsyncOpenAI, OpenAI  # noqa: E402

pytestmark = pytest.mark.timeout(300)
NAME = "text-embedding-3-small"


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with serving("--key", KEY) as running:
        yield running


ASKED: list[dict[str, Any]] = [
    {"input": ["one", "two", "three"]},
    {"input": ["one", "two"], "encoding_format": "base64"},
    {"input": ["one", "two"], "dimensions": 256, "encoding_format": "float"},
    {"input": "one"},
    {"input": "one", "encoding_format": "base64", "user": "somebody"},
    {"input": ["one"], "dimensions": sdk.omit, "encoding_format": sdk.omit, "user": sdk.omit, "timeout": sdk.not_given},
]


# The SDK warns of its own strings where numbers are declared.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: ",".join(asked))
async def test_the_reply_is_that_of_the_sdk(asked: dict[str, Any], service: Service) -> None:
    given = {"api_key": KEY, "base_url": service.url}
    async with sdk.AsyncOpenAI(**given) as theirs, AsyncOpenAI(**given) as ours:
        right = await theirs.embeddings.create(model=NAME, **asked)
        found = await ours.embeddings.create(model=NAME, **asked)
        with OpenAI(**given) as client:
            blocking = await asyncio.to_thread(lambda: client.embeddings.create(model=NAME, **asked))
    assert type(found) is type(right)
    assert type(found.data[0]) is type(right.data[0])
    assert found.model_dump() == right.model_dump()
    assert blocking == found
    assert (client.base_url, ours.base_url) == (service.url, service.url)
    assert found.to_json() == right.to_json()


async def test_a_list_of_any_length_is_right_by_place(service: Service) -> None:
    texts = [f"text {n}" for n in range(5_000)]
    async with AsyncOpenAI(api_key=KEY, base_url=service.url) as client:
        reply = await client.embeddings.create(model=NAME, input=texts)
        assert [item.index for item in reply.data] == [*range(5_000)]
        found = np.array([item.embedding for item in reply.data], np.float32)
        assert np.array_equal(found, [vector_of(text) for text in texts])
        ledger = await service.ledger()
        assert reply.usage.total_tokens == ledger["billed_tokens"]
        assert ledger["requests"] <= 8


async def test_questions_of_all_threads_share_requests(service: Service) -> None:
    client, found = OpenAI(api_key=KEY, base_url=service.url), dict[int, Any]()

    def ask(number: int) -> None:
        found[number] = client.embeddings.create(model=NAME, input=f"question {number}").data[0].embedding

    def ask_all() -> None:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    await asyncio.to_thread(ask_all)
    assert all(np.array_equal(np.float32(found[number]), vector_of(f"question {number}")) for number in range(200))
    assert (await service.ledger())["requests"] <= 100
    await asyncio.to_thread(client.close)


async def test_it_is_made_of_an_embedder_whose_model_alone_it_takes() -> None:
    provider = FakeProvider("x", 8)
    async with Embedder(provider) as embedder:
        client = AsyncOpenAI(embedder)
        for name in ("x", "fake:x"):
            reply = await client.embeddings.create(model=name, input=["a"], dimensions=8)
            assert (reply.model, len(reply.data[0].embedding)) == ("x", 8)
        with pytest.raises(ConfigError, match="model='y' is not that of this client's Embedder, fake:x"):
            await client.embeddings.create(model="y", input="a")
        with pytest.raises(ConfigError, match="dimensions=9"):
            await client.embeddings.create(model="x", input="a", dimensions=9)
        await client.close()
        assert (await embedder.embed_query("still open")).shape == (8,)
    with pytest.raises(ConfigError, match="concurrency="):
        OpenAI(embedder, concurrency=2)


async def test_calls_of_one_text_share_requests(service: Service) -> None:
    async with AsyncOpenAI(api_key=KEY, base_url=service.url) as client:
        create = partial(client.embeddings.create, model="text-embedding-3-small")
        replies = await asyncio.gather(*(create(input=[f"text {n}"]) for n in range(500)))
        whole = await create(input=[f"text {n}" for n in range(500)])
    assert [reply.data[0].embedding for reply in replies] == [item.embedding for item in whole.data]
    assert all(reply.usage.total_tokens == ceil(len(f"text {n}") / 4) for n, reply in enumerate(replies))
    assert (await service.ledger())["requests"] <= 20


@pytest.mark.parametrize("name", ["max_retries", "organization", "default_headers", "nonsense"])
def test_an_option_that_is_not_embedders_is_refused_at_once(name: str) -> None:
    options: dict[str, Any] = {name: 3}
    with pytest.raises(ConfigError, match=f"{name}= is not known here; "):
        OpenAI(**options)
    options[name] = None  # as a framework gives what its own user left out
    assert OpenAI(**options).embeddings.create(model="fake:x", input="a").data


@pytest.mark.parametrize("ids", [[1, 2, 3], [[1, 2], [3]]], ids=repr)
async def test_token_ids_are_refused_with_what_to_do(ids: Any) -> None:
    said = r"token ids.*check_embedding_ctx_length=False"
    with pytest.raises(InputError, match=said):
        OpenAI().embeddings.create(model="fake:x", input=ids)
    with pytest.raises(InputError, match=said):
        await AsyncOpenAI().embeddings.create(model="fake:x", input=ids)


async def test_what_cannot_go_with_one_call_is_refused_and_a_bad_text_raises() -> None:
    client = AsyncOpenAI()
    with pytest.raises(ConfigError, match="extra_headers= cannot go with one call"):
        await client.embeddings.create(model="fake:x", input=["a"], extra_headers={"a": "b"})
    reply = await client.embeddings.create(model="fake:x", input=["a"], extra_headers=None, extra_body=sdk.omit)
    assert len(reply.data) == 1
    with pytest.raises(PartialError, match="1 of 2 texts failed"):
        await client.embeddings.create(model="fake:x", input=["a", ""])
    with pytest.raises(InputError):
        await client.embeddings.create(model="fake:x", input="")
