"""Providers with a batch API against the simulated service over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aembed import open_provider
from aembed.batch_protocols import BatchLine, BatchProvider, BatchState
from aembed.errors import (
    AuthenticationError,
    BadRequestError,
    InvalidReplyError,
    NotFoundError,
    ProviderError,
    RateLimitError,
    UnavailableError,
)
from aembed.preparation import Preparation
from aembed.providers import _batch_provider, prefixes
from tests.providers.clients import every_client, http_client
from tests.providers.raw_server import json_reply, serving
from tests.service.batches.faults import AT_ONCE, Course, CutOff, EndsEarly, Hangs, LineFault, Lost, Plans, Refuse
from tests.service.batches.services import WIRES
from tests.service.server import Server
from tests.service.service import Rules
from tests.service.vectors import vector_of

KEY = "sk-batches-0123456789abcdef"
PLAIN = Preparation()
NAMES = {
    "openai": "openai:text-embedding-3-small",
    "voyage": "voyage:voyage-4",
    "mistral": "mistral:mistral-embed",
    "dashscope": "dashscope:text-embedding-v4",
    "gemini": "gemini:gemini-embedding-001",
}
ONE_A_LINE = {"0": ["a cat on a mat"], "1": ["three"], "2": ["四"]}
LINES = {"0": ["a cat on a mat", "a dog in the fog"], "1": ["three"], "2": ["四", "five", "six"]}


@asynccontextmanager
async def batching(
    service: str = "openai", plans: Plans | None = None, *, key: str = KEY, **options: Any
) -> AsyncIterator[tuple[Server, BatchProvider]]:
    """The simulated service in the words of that one, and a provider of it. Batches are completed at once."""
    async with Server(rules=Rules(key=KEY)) as server:
        server.batches.plans = plans or Plans(usual=AT_ONCE)
        server.batch_wire = WIRES[service](server.batches)
        url = f"{server.root}/v1beta" if service == "gemini" else server.url
        provider = open_provider(NAMES[service], api_key=key, base_url=url, **options)
        assert isinstance(provider, BatchProvider)
        try:
            yield server, provider
        finally:
            await provider.aclose()


async def upload(provider: BatchProvider, folder: Path, lines: Mapping[str, Sequence[str]] = LINES) -> str:
    path = folder / "lines"
    path.write_bytes(b"".join(provider.batch_line(id, texts, preparation=PLAIN) for id, texts in lines.items()))
    return await provider.upload_batch_file(path, "key/1")


async def submit(provider: BatchProvider, folder: Path, lines: Mapping[str, Sequence[str]] = LINES) -> BatchState:
    created = await provider.create_batch(await upload(provider, folder, lines), "key/1", preparation=PLAIN)
    return await provider.get_batch(created.id)


async def read_into(
    found: list[BatchLine], provider: BatchProvider, state: BatchState, lines: Mapping[str, Sequence[str]]
) -> None:
    read = provider.batch_results(state, {id: len(texts) for id, texts in lines.items()})
    assert isinstance(read, AsyncGenerator)
    async with aclosing(read):
        async for line in read:
            found.append(line)


async def results(
    provider: BatchProvider, state: BatchState, lines: Mapping[str, Sequence[str]] = LINES
) -> list[BatchLine]:
    found: list[BatchLine] = []
    await read_into(found, provider, state, lines)
    return found


def are_right(found: Sequence[BatchLine], lines: Mapping[str, Sequence[str]] = LINES) -> bool:
    """Every line, with the vectors of its own texts."""
    width = {line.reply.matrix.shape[1] for line in found if line.reply}.pop()
    return {line.custom_id for line in found} == set(lines) and all(
        np.allclose(line.reply.matrix, [vector_of(text, width) for text in lines[line.custom_id]], atol=1e-6)
        for line in found
        if line.custom_id and line.reply
    )


@pytest.mark.parametrize("service", NAMES)
async def test_g5_files_that_are_gone(service: str, tmp_path: Path) -> None:
    async with batching(service) as (_, provider):
        state = await submit(provider, tmp_path, ONE_A_LINE)
        for file in (state.input_file, state.output_file):
            assert file is not None
            await provider.delete_batch_file(file)
            await provider.delete_batch_file(file)  # what is gone is no error
        with pytest.raises(NotFoundError):
            await results(provider, state, ONE_A_LINE)


@every_client
async def test_a_batch_goes_out_and_comes_back_over_every_client(client: str, tmp_path: Path) -> None:
    async with http_client(client) as given, batching(http_client=given) as (server, provider):
        state = await submit(provider, tmp_path)
        assert (state.status, state.key, state.total, state.completed) == ("completed", "key/1", 3, 3)
        assert state.is_over
        assert are_right(await results(provider, state))
        assert state.tokens == server.ledger.billed_tokens > 0
        assert server.connections <= 1


@pytest.mark.parametrize(
    ("service", "encoding"),
    [*((service, "float") for service in NAMES), *((service, "base64") for service in ("openai", "voyage", "mistral"))],
)
async def test_a_batch_of_every_service(service: str, encoding: str, tmp_path: Path) -> None:
    lines = ONE_A_LINE if service == "gemini" else LINES
    async with batching(service, encoding=encoding) as (server, provider):
        state = await submit(provider, tmp_path, lines)
        assert (state.status, state.key, state.total) == ("completed", "key/1", 3)
        found = await results(provider, state, lines)
        assert are_right(found, lines)
        assert [state.id async for state in provider.list_batches()] == [state.id]
        told = sum(line.reply.usage.tokens or 0 for line in found if line.reply)
        assert told == server.ledger.billed_tokens > 0


@pytest.mark.parametrize("service", NAMES)
async def test_g4_a_batch_that_ends_otherwise(service: str, tmp_path: Path) -> None:
    plans = Plans([Course(cancelling=60), Course(stops_at=0.4), Course(fails="token_limit_exceeded")])
    async with batching(service, plans) as (server, provider):
        cancelled, expired, failed = [await submit(provider, tmp_path, ONE_A_LINE) for _ in range(3)]
        assert not cancelled.is_over
        server.batches.advance(60 + 400)
        # Gemini has no word for it.
        assert (await provider.cancel_batch(cancelled.id)).status in ("cancelling", "in_progress")
        server.batches.advance(3_600)
        cancelled = await provider.cancel_batch(cancelled.id)  # one that is over is no error
        assert cancelled.status == "cancelled"
        found = await results(provider, cancelled, ONE_A_LINE)
        assert {line.custom_id: (line.reply is not None, line.unrun) for line in found} == {
            "0": (True, ""),
            "1": (True, ""),
            "2": (False, "cancelled"),
        }
        failed = await provider.get_batch(failed.id)
        assert failed.status == "failed"
        assert "token_limit_exceeded" in failed.faults[0].code + failed.faults[0].message
        assert await results(provider, failed) == []
        server.batches.advance(49 * 3_600)
        expired = await provider.get_batch(expired.id)
        assert provider.batch_terms is not None
        assert expired.expires_at == expired.created_at + provider.batch_terms.window_seconds
        assert expired.status == "expired"
        assert sorted((line.custom_id, line.unrun) for line in await results(provider, expired, ONE_A_LINE)) == [
            ("0", ""),
            ("1", "expired"),
            ("2", "expired"),
        ]


@pytest.mark.parametrize("service", ["openai", "mistral"])
async def test_g1_g2_what_becomes_of_a_line_is_what_it_would_be_live(service: str, tmp_path: Path) -> None:
    faults: dict[int, LineFault] = {
        0: "neither file",
        1: "status 0",
        2: "500",
        3: "refused",
        4: "doubled",
        5: "null id",
        6: "wrong width",
        7: "not JSON",
    }
    lines = {str(n): [f"text {n}", f"more {n}"] for n in range(9)}
    async with batching(service, Plans(usual=Course(0, 0, 0, lines=faults, order="shuffled"))) as (_, provider):
        state = await submit(provider, tmp_path, lines)
        found = await results(provider, state, lines)
        kinds = (UnavailableError, BadRequestError, InvalidReplyError)
        failed = {(line.custom_id, kind) for line in found for kind in kinds if isinstance(line.error, kind)}
        assert failed == {
            ("1", UnavailableError),
            ("2", UnavailableError),
            ("3", BadRequestError),
            (None, InvalidReplyError),
            ("6", InvalidReplyError),
            ("7", InvalidReplyError),
        }
        right = [line for line in found if line.reply is not None]
        assert sorted(str(line.custom_id) for line in right) == ["4", "4", "8"]
        assert are_right(right, {id: lines[id] for id in ("4", "8")})


@pytest.mark.parametrize("encoding", ["base64", "float"])
@pytest.mark.parametrize("cut", [CutOff(100_000), EndsEarly(0.4)])
async def test_g3_a_file_that_is_cut_off_gives_its_whole_lines(cut: Any, encoding: str, tmp_path: Path) -> None:
    lines = {str(n): [f"text {n}", "more", "and more"] for n in range(8)}
    async with batching(encoding=encoding) as (server, provider):
        state = await submit(provider, tmp_path, lines)
        server.batches.plans.add("content", cut)
        found: list[BatchLine] = []
        with pytest.raises(UnavailableError):
            await read_into(found, provider, state, lines)
        assert 0 < len(found) < 8
        assert all(line.reply for line in found)
        assert are_right(await results(provider, state, lines), lines)


async def test_g6_answers_that_are_lost_or_never_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with batching() as (server, provider):
        file = await upload(provider, tmp_path)
        server.batches.plans.add("create", Lost(took_effect=False), Lost(), Refuse(503), Hangs())
        monkeypatch.setattr(_batch_provider, "CALL_SECONDS", 0.2)
        for _ in range(4):
            with pytest.raises(UnavailableError) as lost:
                await provider.create_batch(file, "k", preparation=PLAIN)
            assert not lost.value.unsent
        assert str(lost.value) == "openai did not answer within 0.2 s (POST /batches)"
        assert [(state.key, state.input_file) async for state in provider.list_batches()] == [("k", file)]


async def test_g6_results_that_never_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with batching() as (server, provider):
        state = await submit(provider, tmp_path)
        server.batches.plans.add("content", Hangs())
        monkeypatch.setattr(_batch_provider, "CALL_SECONDS", 0.2)
        with pytest.raises(UnavailableError, match="nothing more came"):
            async with asyncio.timeout(5):
                await results(provider, state)
        assert are_right(await results(provider, state))


async def test_the_list_has_pages_and_the_youngest_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aembed.providers._batch_wires.PAGE", 2)
    for service in NAMES:
        async with batching(service) as (server, provider):
            made = []
            for _ in range(5):
                made.append((await submit(provider, tmp_path, ONE_A_LINE)).id)
                server.batches.advance(1)
            assert [state.id async for state in provider.list_batches()] == made[::-1], service


@pytest.mark.parametrize("service", ["openai", "mistral", "gemini"])
async def test_g9_a_list_that_has_no_pages_ends(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aembed.providers._batch_wires.PAGE", 1)
    said: dict[str, dict[str, Any]] = {
        "openai": {"data": [{"id": "x", "status": "completed"}], "has_more": True},
        "mistral": {"data": [{"id": "x", "status": "SUCCESS"}]},
        "gemini": {"operations": [{"name": "x", "metadata": {"state": ""}}], "nextPageToken": "next"},
    }
    async with serving(json_reply(said[service])) as raw:
        provider = open_provider(NAMES[service], api_key=KEY, base_url=raw.url)
        assert isinstance(provider, BatchProvider)
        assert [state.id async for state in provider.list_batches()] == ["x"]
        await provider.aclose()
    assert len(raw.requests) == 2


async def test_g7_a_full_queue_is_a_limit_of_rate() -> None:
    said = {"error": {"message": "Enqueued token limit reached for x.", "code": "token_limit_exceeded"}}
    for status in (400, 429):
        async with serving(json_reply(said, status)) as raw:
            provider = open_provider("openai:text-embedding-3-small", api_key=KEY, base_url=raw.url)
            assert isinstance(provider, BatchProvider)
            with pytest.raises(RateLimitError, match="Enqueued token limit"):
                await provider.create_batch("file-1", "k", preparation=PLAIN)
            await provider.aclose()


async def test_a_refused_key_is_told_and_never_shown(tmp_path: Path) -> None:
    wrong = "sk-wrong-0123456789abcdef"
    async with batching(key=wrong, record=tmp_path / "record") as (server, provider):
        server.batches.plans.add("get", Refuse(401, {"error": {"message": f"Incorrect API key: {wrong}"}}))
        with pytest.raises(AuthenticationError) as refused:
            await provider.get_batch("batch_1")
        assert wrong not in f"{refused.value!r} {refused.value.body}"
        (recorded,) = (tmp_path / "record").iterdir()
        assert wrong not in recorded.read_text()


async def test_a_token_that_is_refused_is_asked_for_anew_once() -> None:
    tokens = [f"token-{n}" for n in range(5)]

    async def token() -> str:
        return tokens.pop(0)

    refusal, batch = json_reply({}, 401), json_reply({"id": "x", "status": "completed"})
    async with serving(refusal, batch, refusal, refusal, batch) as raw:
        provider = open_provider("openai:text-embedding-3-small", api_key=token, base_url=raw.url)
        assert isinstance(provider, BatchProvider)
        assert (await provider.get_batch("x")).is_over
        with pytest.raises(AuthenticationError):
            await provider.get_batch("x")
        assert (await provider.get_batch("x")).is_over
        await provider.aclose()
    sent = [request.headers["authorization"] for request in raw.requests]
    assert sent == [f"Bearer token-{n}" for n in (0, 1, 1, 2, 3)]


async def test_a_text_that_utf8_cannot_carry_is_named() -> None:
    async with batching() as (_, provider):
        with pytest.raises(BadRequestError) as refused:
            provider.batch_line("0", ["good", "bad \ud800"], preparation=PLAIN)
        assert refused.value.offender == 1


def test_what_a_batch_may_carry() -> None:
    with_batches = {}
    for prefix in prefixes():
        try:
            provider = open_provider(f"{prefix}:model", api_key="k" * 20, base_url="http://127.0.0.1:1/v1")
        except Exception:
            continue
        if isinstance(provider, BatchProvider) and (terms := provider.batch_terms):
            with_batches[prefix] = (terms.max_texts_per_line, terms.price_factor, terms.window_seconds)
            assert terms.max_tokens_per_line <= provider.limits.max_tokens_per_batch
    assert with_batches == {
        "azure": (500, 0.5, 86_400),
        "dashscope": (10, 0.5, 86_400),
        "doubleword": (256, 0.5, 86_400),
        "parasail": (256, 0.5, 86_400),
        "gemini": (1, 0.5, 172_800),
        "mistral": (256, 0.5, 86_400),
        "openai": (500, 0.5, 86_400),
        "voyage": (500, 0.67, 43_200),
    }


async def test_a_service_without_batches_says_so(tmp_path: Path) -> None:
    provider = open_provider("together:model", api_key=KEY, base_url="http://127.0.0.1:1/v1")
    assert isinstance(provider, BatchProvider)
    assert provider.batch_terms is None
    with pytest.raises(NotFoundError, match="together has no batches"):
        await provider.get_batch("1")


async def test_g8_ids_of_a_service_cannot_lead_elsewhere() -> None:
    async with serving(json_reply({"id": "x", "status": "completed"})) as raw:
        provider = open_provider("openai:text-embedding-3-small", api_key=KEY, base_url=raw.url)
        assert isinstance(provider, BatchProvider)
        await provider.get_batch("../models?x=1#y")
        await provider.aclose()
        assert raw.requests[0].target == "/v1/batches/..%2Fmodels%3Fx%3D1%23y"


async def test_replies_that_are_none() -> None:
    cases: list[tuple[Any, type[ProviderError]]] = [
        ({"object": "batch"}, InvalidReplyError),
        ([], InvalidReplyError),
        ({"error": {"message": "The server is overloaded", "code": "overloaded"}}, RateLimitError),
    ]
    for body, kind in cases:
        async with serving(json_reply(body)) as raw, asyncio.timeout(5):
            provider = open_provider("openai:text-embedding-3-small", api_key=KEY, base_url=raw.url)
            assert isinstance(provider, BatchProvider)
            with pytest.raises(kind):
                await provider.get_batch("x")
            await provider.aclose()


async def test_g8_a_file_goes_to_no_other_server_than_the_one_that_was_chosen(tmp_path: Path) -> None:
    """Gemini says where an upload goes to."""
    async with serving(json_reply({}, headers={"x-goog-upload-url": "http://127.0.0.2:9/upload"})) as raw:
        provider = open_provider("gemini:gemini-embedding-001", api_key=KEY, base_url=raw.url)
        assert isinstance(provider, BatchProvider)
        with pytest.raises(InvalidReplyError, match="where a file is uploaded"):
            await upload(provider, tmp_path, ONE_A_LINE)
        await provider.aclose()


async def test_the_place_where_anybody_could_upload_a_file_is_not_told(tmp_path: Path) -> None:
    async with serving() as raw:
        place = {"x-goog-upload-url": f"{raw.url}/files?upload_id=a-secret-place"}
        raw.answers = [json_reply({}, headers=place), json_reply({}, 404)]
        provider = open_provider("gemini:gemini-embedding-001", api_key=KEY, base_url=raw.url)
        assert isinstance(provider, BatchProvider)
        with pytest.raises(NotFoundError, match=r"\(POST .*/files\)") as refused:
            await upload(provider, tmp_path, ONE_A_LINE)
        await provider.aclose()
    assert raw.requests[1].target == "/v1/files?upload_id=a-secret-place"
    assert "a-secret-place" not in f"{refused.value!r} {refused.value.body}"
