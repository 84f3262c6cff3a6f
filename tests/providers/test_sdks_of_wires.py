"""The SDKs of services with formats of their own against the scripted servers of services/, as test_sdks.py has it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.providers.services import ScriptedService
from tests.providers.services._scripted import KEY, running
from tests.providers.services.bedrock import (
    ACCESS_KEY,
    REGION,
    SECRET_KEY,
    CohereOnBedrock,
    CohereV3OnBedrock,
    Nova,
    Titan,
)
from tests.providers.services.cohere import Cohere, CohereV3
from tests.providers.services.gemini import Gemini, Gemini2
from tests.providers.services.ollama_native import OllamaNative

cohere = pytest.importorskip("cohere")
genai = pytest.importorskip("google.genai")
ollama = pytest.importorskip("ollama")
botocore = pytest.importorskip("botocore.session")

TEXTS = ["Rust values memory safety", "记忆安全", 'a "quoted"\ttext']

# What the SDKs themselves warn of is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


def is_right(service: ScriptedService, found: Any, input_type: str = "document") -> bool:
    return np.allclose(np.asarray(found, np.float32), service.right(TEXTS, input_type), atol=1e-6)


def host(service: ScriptedService) -> str:
    return f"http://127.0.0.1:{service.port}"


@pytest.mark.parametrize("kind", [Cohere, CohereV3])
async def test_cohere(kind: type[Cohere]) -> None:
    async with running(kind) as service:
        client = cohere.AsyncClientV2(api_key=KEY, base_url=host(service))
        asked: dict[str, Any] = {"model": service.model, "embedding_types": ["float"], "truncate": "NONE"}
        reply = await client.embed(texts=TEXTS, input_type="search_document", **asked)
        assert is_right(service, reply.embeddings.float_)
        assert reply.meta.billed_units.input_tokens == service.ledger.billed_tokens
        reply = await client.embed(texts=TEXTS, input_type="search_query", **asked)
        assert is_right(service, reply.embeddings.float_, "query")
        with pytest.raises(cohere.BadRequestError, match="TOO_MANY_TOKENS"):
            await client.embed(texts=["safe " * 200_000], input_type="search_query", **asked)
        with pytest.raises(cohere.UnauthorizedError):
            await cohere.AsyncClientV2(api_key="wrong", base_url=host(service)).embed(
                texts=TEXTS, input_type="search_query", **asked
            )
        # By default it does not ask to refuse: the end is cut off.
        await client.embed(model=service.model, texts=["safe " * 200_000], input_type="search_query")
        assert service.ledger.cut == 1


@pytest.mark.parametrize("kind", [Gemini, Gemini2])
async def test_google_genai(kind: type[Gemini]) -> None:
    async with running(kind) as service:
        types = genai.types
        options = types.HttpOptions(base_url=host(service))
        client = genai.Client(api_key=KEY, http_options=options)
        single = [types.Content(parts=[types.Part(text=f"{service.prefixes[0]}{text}")]) for text in TEXTS]
        typed = types.EmbedContentConfig(task_type="RETRIEVAL_DOCUMENT") if service.input_types else None
        reply = await client.aio.models.embed_content(model=service.model, contents=single, config=typed)
        assert is_right(service, [each.values for each in reply.embeddings])
        assert service.ledger.requests == 1
        with pytest.raises(genai.errors.ClientError, match="API_KEY_INVALID"):
            await genai.Client(api_key="wrong", http_options=options).aio.models.embed_content(
                model=service.model, contents=TEXTS
            )
        service.script = {2: service.rate_limited()}
        with pytest.raises(genai.errors.ClientError, match="RESOURCE_EXHAUSTED"):
            await client.aio.models.embed_content(model=service.model, contents=single)
        assert service.ledger.requests == 3


async def test_google_genai_makes_one_item_of_several_strings_for_gemini_embedding_2() -> None:
    async with running(Gemini2) as service:
        client = genai.Client(api_key=KEY, http_options=genai.types.HttpOptions(base_url=host(service)))
        reply = await client.aio.models.embed_content(model=service.model, contents=TEXTS)
        assert len(reply.embeddings) == 1


async def test_ollama() -> None:
    async with running(OllamaNative) as service:
        client = ollama.AsyncClient(host=host(service))
        texts = [f"{service.prefixes[0]}{text}" for text in TEXTS]
        reply = await client.embed(model=service.model, input=texts, truncate=False)
        assert is_right(service, reply.embeddings)
        assert reply.prompt_eval_count == service.ledger.billed_tokens
        with pytest.raises(ollama.ResponseError, match="exceeds the context length"):
            await client.embed(model=service.model, input=["safe " * 5_000], truncate=False)
        await client.embed(model=service.model, input=["safe " * 5_000])
        assert service.ledger.cut == 1
        assert (await client.show(service.model)).modelinfo["nomic-bert.context_length"] == 2_048


def bodies(kind: type[ScriptedService]) -> list[dict[str, Any]]:
    if kind is Titan:
        return [{"inputText": text, "normalize": True} for text in TEXTS]
    if kind is Nova:
        purpose = {"embeddingPurpose": "GENERIC_INDEX"}
        given = [{**purpose, "text": {"truncationMode": "NONE", "value": text}} for text in TEXTS]
        return [{"taskType": "SINGLE_EMBEDDING", "singleEmbeddingParams": each} for each in given]
    return [{"texts": TEXTS, "input_type": "search_document", "truncate": "NONE"}]


def vectors(reply: dict[str, Any]) -> Sequence[Any]:
    if "embedding" in reply:
        return [reply["embedding"]]
    held = reply["embeddings"]
    held = held["float"] if isinstance(held, dict) else held
    return [each["embedding"] if isinstance(each, dict) else each for each in held]


@pytest.mark.parametrize("kind", [Titan, Nova, CohereOnBedrock, CohereV3OnBedrock])
async def test_botocore(kind: type[ScriptedService], monkeypatch: pytest.MonkeyPatch) -> None:
    """It signs, and the server of the tests finds its signature right."""
    for name, value in {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_BEARER_TOKEN_BEDROCK", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)

    def invoke(url: str, body: dict[str, Any]) -> Any:
        made = botocore.Session().create_client("bedrock-runtime", region_name=REGION, endpoint_url=url)
        return json.loads(made.invoke_model(modelId=kind.model, body=json.dumps(body))["body"].read())

    async with running(kind) as service:
        replies = [await asyncio.to_thread(invoke, host(service), body) for body in bodies(kind)]
        assert is_right(service, [vector for reply in replies for vector in vectors(reply)])
        with pytest.raises(Exception, match="ValidationException"):
            await asyncio.to_thread(invoke, host(service), {"other": 1})
