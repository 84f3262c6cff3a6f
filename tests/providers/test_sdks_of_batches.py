"""The services' own SDKs do a whole batch round trip against the simulated batch API, as test_sdks.py has it.

voyageai 0.5.0 has no batches: Voyage's words are tried by openai's client, which sends and gives back what it does not
know as it is.
"""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pybase64
import pytest

from tests.service.batches.faults import Course, Plans
from tests.service.batches.services import WIRES
from tests.service.server import Server
from tests.service.service import Rules
from tests.service.vectors import vector_of

openai = pytest.importorskip("openai")
mistralai = pytest.importorskip("mistralai.client")
voyageai = pytest.importorskip("voyageai")
genai = pytest.importorskip("google.genai")

KEY = "sk-sdk-0123456789abcdef"
TEXTS = {"first": "Rust values memory safety", "second": "记忆安全", "third": 'a "quoted"\ttext'}
HOUR = 3_600

# What the SDKs themselves warn of is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


@asynccontextmanager
async def service(name: str) -> AsyncIterator[Server]:
    """One line of three is cancelled or fails where a course says so; else all goes well within two hours."""
    async with Server(rules=Rules(key=KEY)) as server:
        server.batches.plans = Plans(usual=Course(running=HOUR))
        server.batch_wire = WIRES[name](server.batches)
        yield server


def file_of(lines: list[Mapping[str, Any]]) -> io.BytesIO:
    return io.BytesIO(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def vectors_in(content: bytes, width: int) -> dict[str, Any]:
    """By custom id, as everybody reads such a file: with json and numpy."""
    found = {}
    for line in map(json.loads, content.splitlines()):
        for item in line["response"]["body"]["data"]:
            held = item["embedding"]
            vector = np.frombuffer(pybase64.b64decode(held), "<f4") if isinstance(held, str) else np.asarray(held)
            assert len(vector) == width
            found[line["custom_id"]] = vector
    return found


def are_right(found: Mapping[str, Any], width: int) -> bool:
    return found.keys() == TEXTS.keys() and all(
        np.allclose(found[id], vector_of(text, width), atol=1e-6) for id, text in TEXTS.items()
    )


@pytest.mark.parametrize("encoding", ["base64", "float"])
async def test_openai(encoding: str) -> None:
    lines = [
        {
            "custom_id": id,
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": "text-embedding-3-small", "input": text, "encoding_format": encoding},
        }
        for id, text in TEXTS.items()
    ]
    async with service("openai") as server, openai.AsyncOpenAI(api_key=KEY, base_url=server.url) as client:
        lives = {"anchor": "created_at", "seconds": HOUR}
        file = await client.files.create(file=("a.jsonl", file_of(lines)), purpose="batch", expires_after=lives)
        assert (file.status, file.expires_at) == ("processed", file.created_at + HOUR)
        made = {"endpoint": "/v1/embeddings", "completion_window": "24h", "metadata": {"key": "k"}}
        batch = await client.batches.create(input_file_id=file.id, **made)
        assert (batch.status, batch.metadata) == ("validating", {"key": "k"})
        server.batches.advance(2 * HOUR)
        batch = await client.batches.retrieve(batch.id)
        assert (batch.status, batch.request_counts.completed, batch.error_file_id) == ("completed", 3, None)
        assert batch.usage.total_tokens == server.ledger.billed_tokens
        assert are_right(vectors_in((await client.files.content(batch.output_file_id)).content, 1_536), 1_536)
        assert [each.id async for each in client.batches.list(limit=1)] == [batch.id]
        assert (await client.files.delete(batch.output_file_id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.files.content(batch.output_file_id)


async def test_openai_cancels_and_reads_both_files() -> None:
    lines = [
        {
            "custom_id": id,
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": "text-embedding-3-small", "input": [text]},
        }
        for id, text in TEXTS.items()
    ]
    async with service("openai") as server, openai.AsyncOpenAI(api_key=KEY, base_url=server.url) as client:
        file = await client.files.create(file=("a.jsonl", file_of(lines)), purpose="batch")
        batch = await client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
        server.batches.advance(0.5 * HOUR)
        assert (await client.batches.cancel(batch.id)).status == "cancelling"
        server.batches.advance(HOUR)
        batch = await client.batches.retrieve(batch.id)
        assert batch.status == "cancelled"
        assert vectors_in((await client.files.content(batch.output_file_id)).content, 1_536).keys() == {"first"}
        failed = [json.loads(line) for line in (await client.files.content(batch.error_file_id)).content.splitlines()]
        assert [line["error"]["code"] for line in failed] == ["batch_cancelled"] * 2
        with pytest.raises(openai.ConflictError):
            await client.batches.cancel(batch.id)


async def test_voyage_by_the_client_of_openai() -> None:
    lines = [{"custom_id": id, "body": {"input": [text]}} for id, text in TEXTS.items()]
    parameters = {"model": "voyage-4", "input_type": "document", "output_dimension": 512}
    async with service("voyage") as server, openai.AsyncOpenAI(api_key=KEY, base_url=server.url) as client:
        file = await client.files.create(file=("a.jsonl", file_of(lines)), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/embeddings",
            completion_window="12h",
            extra_body={"request_params": parameters},
        )
        assert batch.expires_at - batch.created_at == 12 * HOUR
        server.batches.advance(2 * HOUR)
        batch = await client.batches.retrieve(batch.id)
        assert batch.status == "completed"
        assert are_right(vectors_in((await client.files.content(batch.output_file_id)).content, 512), 512)
        assert not hasattr(voyageai.AsyncClient(api_key=KEY), "batches")


async def test_mistralai() -> None:
    lines = [{"custom_id": id, "body": {"input": [text]}} for id, text in TEXTS.items()]
    async with service("mistral") as server, mistralai.Mistral(api_key=KEY, server_url=server.root) as client:
        file = await client.files.upload_async(
            file={"file_name": "a.jsonl", "content": file_of(lines)}, purpose="batch"
        )
        job = await client.batch.jobs.create_async(
            input_files=[file.id], endpoint="/v1/embeddings", model="mistral-embed", metadata={"key": "k"}
        )
        assert (job.status, job.metadata) == ("QUEUED", {"key": "k"})
        server.batches.advance(2 * HOUR)
        job = await client.batch.jobs.get_async(job_id=job.id)
        assert (job.status, job.succeeded_requests, job.failed_requests) == ("SUCCESS", 3, 0)
        content = await (await client.files.download_async(file_id=job.output_file)).aread()
        assert are_right(vectors_in(content, 1_024), 1_024)
        assert [each.id for each in (await client.batch.jobs.list_async()).data] == [job.id]
        other = await client.batch.jobs.create_async(
            input_files=[file.id], endpoint="/v1/embeddings", model="mistral-embed"
        )
        assert (await client.batch.jobs.cancel_async(job_id=other.id)).status == "CANCELLATION_REQUESTED"
        assert (await client.files.delete_async(file_id=file.id)).deleted


@pytest.mark.parametrize("inline", [False, True])
async def test_google_genai(inline: bool, tmp_path: Path) -> None:
    types = genai.types
    async with service("gemini") as server:
        client = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=server.root)).aio
        contents = [types.Content(parts=[types.Part(text=text)]) for text in TEXTS.values()]
        if inline:
            source: dict[str, Any] = {"inlined_requests": {"contents": contents}}
        else:
            lines = [{"key": id, "request": {"content": {"parts": [{"text": text}]}}} for id, text in TEXTS.items()]
            path = tmp_path / "a.jsonl"
            path.write_bytes(file_of(lines).read())
            uploaded = await client.files.upload(file=path, config={"mime_type": "application/jsonl"})
            source = {"file_name": uploaded.name}
        job = await client.batches.create_embeddings(
            model="gemini-embedding-001", src=source, config={"display_name": "k"}
        )
        assert (job.state.name, job.display_name) == ("JOB_STATE_PENDING", "k")
        server.batches.advance(2 * HOUR)
        job = await client.batches.get(name=job.name)
        assert job.state.name == "JOB_STATE_SUCCEEDED"
        if inline:
            answers = job.dest.inlined_embed_content_responses
            found = {id: each.response.embedding.values for id, each in zip(TEXTS, answers, strict=True)}
        else:
            content = await client.files.download(file=job.dest.file_name)
            read = [json.loads(line) for line in content.splitlines()]
            found = {line["key"]: line["response"]["embedding"]["values"] for line in read}
        assert are_right({id: np.asarray(values) for id, values in found.items()}, 3_072)
        assert [each.name async for each in await client.batches.list()] == [job.name]
        other = await client.batches.create_embeddings(model="gemini-embedding-001", src=source)
        await client.batches.cancel(name=other.name)
        server.batches.advance(HOUR)
        assert (await client.batches.get(name=other.name)).state.name == "JOB_STATE_CANCELLED"
