"""The services' own SDKs against the scripted servers of services/, which so are right about the wire.

`nox -s sdks` installs them and runs this; it is no part of the usual tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pybase64
import pytest

from tests.providers.services import ScriptedService
from tests.providers.services._scripted import KEY, WAIT, Answer, running
from tests.providers.services.azure import Azure, AzureDated
from tests.providers.services.dashscope import DashScope
from tests.providers.services.mistral import Codestral, Mistral
from tests.providers.services.nvidia import Nvidia
from tests.providers.services.openai import OpenAI
from tests.providers.services.openrouter import OpenRouter
from tests.providers.services.perplexity import Perplexity
from tests.providers.services.together import Together
from tests.providers.services.vllm import VLLM
from tests.providers.services.voyage import Voyage

voyageai = pytest.importorskip("voyageai")
mistralai = pytest.importorskip("mistralai.client")
errors = pytest.importorskip("mistralai.client.errors")
openai = pytest.importorskip("openai")

TEXTS = ["Rust values memory safety", "记忆安全", 'a "quoted"\ttext']

# What the SDKs themselves warn of is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


def is_right(service: ScriptedService, found: Any, input_type: str = "document", width: int | None = None) -> bool:
    return np.allclose(np.asarray(found, np.float32), service.right(TEXTS, input_type, width), atol=1e-6)


def vectors(reply: Any) -> Sequence[Any]:
    return [item.embedding for item in reply.data]


async def test_voyageai() -> None:
    async with running(Voyage) as service:
        client = voyageai.AsyncClient(api_key=KEY)
        client._params["base_url"] = service.url
        for words in ("document", "query"):
            found = await client.embed(TEXTS, model=service.model, input_type=words, truncation=False)
            assert is_right(service, found.embeddings, words)
        found = await client.embed(TEXTS, model=service.model, input_type="document", output_dimension=256)
        assert is_right(service, found.embeddings, "document", 256)
        assert [asked.uncut for asked in service.ledger.decoded] == [True, True, False]
        refusals = [
            (service.too_long(0, 40_000), voyageai.error.InvalidRequestError),
            (service.rate_limited(), voyageai.error.RateLimitError),
            (service.outage(), voyageai.error.ServiceUnavailableError),
            (service.wrong_key(KEY), voyageai.error.AuthenticationError),
        ]
        for answer, error in refusals:
            service.script = {service.ledger.requests: answer}
            with pytest.raises(error):
                await client.embed(TEXTS, model=service.model)


async def test_mistralai() -> None:
    async with running(Mistral) as service, running(Codestral) as codestral:
        address = service.url.removesuffix("/v1")
        async with mistralai.Mistral(api_key=KEY, server_url=address) as client:
            reply = await client.embeddings.create_async(model=service.model, inputs=TEXTS)
            assert is_right(service, vectors(reply))
            assert reply.usage.total_tokens == service.ledger.billed_tokens
            for answer in (service.rate_limited(), service.too_many_inputs(300), service.wrong_key(KEY)):
                service.script = {service.ledger.requests: answer}
                with pytest.raises(errors.MistralError) as refusing:
                    await client.embeddings.create_async(model=service.model, inputs=TEXTS)
                assert refusing.value.status_code == answer.status
        async with mistralai.Mistral(api_key=KEY, server_url=codestral.url.removesuffix("/v1")) as client:
            reply = await client.embeddings.create_async(model=codestral.model, inputs=TEXTS, output_dimension=64)
            assert is_right(codestral, vectors(reply), width=64)


@pytest.mark.parametrize("kind", [OpenAI, OpenRouter, Nvidia, DashScope, VLLM], ids=lambda kind: kind.__name__)
async def test_openai(kind: type[ScriptedService]) -> None:
    """Of services that tell their users to take this SDK, by `base_url` and `extra_body`."""
    async with running(kind) as service, openai.AsyncOpenAI(api_key=KEY, base_url=service.url, max_retries=0) as client:
        texts = [service.prefixes[0] + text for text in TEXTS]
        word = next((word for word, meant in service.input_types.items() if meant == "document"), None)
        more = {"extra_body": {service.input_type_field: word}} if word else {}
        forms = {"encoding_format": "float"} if "base64" not in service.encodings.values() else {}
        reply = await client.embeddings.create(model=service.model, input=texts, **forms, **more)
        assert is_right(service, vectors(reply))
        assert reply.usage.total_tokens == service.ledger.billed_tokens
        if service.shorter:
            shorter = {"dimensions": service.shorter, **forms, **more}
            reply = await client.embeddings.create(model=service.model, input=texts, **shorter)
            assert is_right(service, vectors(reply), width=service.shorter)
        refusals: list[tuple[Answer, type[Exception]]] = [
            (service.too_long(0, 99_999), openai.BadRequestError),
            (service.wrong_key(KEY), openai.AuthenticationError),
            (service.unknown_model("x"), (openai.NotFoundError, openai.BadRequestError)),
        ]
        for answer, error in refusals:
            service.script = {service.ledger.requests: answer}
            with pytest.raises(error):
                await client.embeddings.create(model=service.model, input=texts, **forms, **more)


async def test_openai_waits_as_the_words_of_a_429_say() -> None:
    async with running(OpenAI) as service:
        service.script = {0: service.rate_limited()}
        async with openai.AsyncOpenAI(api_key=KEY, base_url=service.url, max_retries=1) as client:
            assert is_right(service, vectors(await client.embeddings.create(model=service.model, input=TEXTS)))
        assert service.ledger.requests == 2
        assert WAIT < 1


async def test_openai_of_azure() -> None:
    async with running(Azure) as service, running(AzureDated) as dated:
        async with openai.AsyncOpenAI(api_key=KEY, base_url=service.url, default_headers={"api-key": KEY}) as client:
            assert is_right(service, vectors(await client.embeddings.create(model=service.model, input=TEXTS)))
        options = {"api_key": KEY, "azure_endpoint": dated.url, "api_version": dated.options["api_version"]}
        async with openai.AsyncAzureOpenAI(**options, max_retries=0) as client:
            model = dated.options["deployment"]
            assert is_right(dated, vectors(await client.embeddings.create(model=model, input=TEXTS)))
            dated.script = {1: dated.wrong_key(KEY)}
            with pytest.raises(openai.AuthenticationError):
                await client.embeddings.create(model=model, input=TEXTS)


async def test_together() -> None:
    together = pytest.importorskip("together")
    async with (
        running(Together) as service,
        together.AsyncTogether(api_key=KEY, base_url=f"http://127.0.0.1:{service.port}", max_retries=0) as client,
    ):
        reply = await client.embeddings.create(model=service.model, input=TEXTS)
        assert is_right(service, vectors(reply))
        service.script = {1: service.rate_limited()}
        with pytest.raises(together.RateLimitError):
            await client.embeddings.create(model=service.model, input=TEXTS)


async def test_perplexityai() -> None:
    perplexity = pytest.importorskip("perplexity")
    async with (
        running(Perplexity) as service,
        perplexity.AsyncPerplexity(api_key=KEY, base_url=f"http://127.0.0.1:{service.port}", max_retries=0) as client,
    ):
        for encoding in ({}, {"encoding_format": "base64_int8"}):
            reply = await client.embeddings.create(model=service.model, input=TEXTS, **encoding)
            rows = [np.frombuffer(pybase64.b64decode(item.embedding), np.int8) for item in reply.data]
            assert np.array_equal(rows, service.right(TEXTS, ""))
            assert reply.usage.cost.total_cost > 0
        service.script = {2: service.rate_limited()}
        with pytest.raises(perplexity.RateLimitError):
            await client.embeddings.create(model=service.model, input=TEXTS)
