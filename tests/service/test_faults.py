from __future__ import annotations

import asyncio
import gzip
import json
import math
from collections.abc import Mapping
from random import Random
from typing import Any

import numpy as np
import pybase64
import pytest

from tests.service.faults import (
    Always,
    Body,
    Cut,
    Drip,
    Fault,
    Faults,
    First,
    Flood,
    Hang,
    Late,
    Mutate,
    Outage,
    Plan,
    Request,
    Status,
    Truncate,
    gzip_bomb,
    html,
)
from tests.service.mutations import BROKEN, HARMLESS, wrong
from tests.service.refusals import HiddenInputCap, HiddenTokenCap, Poison, quota_exhausted
from tests.service.server import Server
from tests.service.vectors import vector_of
from tests.service.wire import Wire, WireReply

TEXTS = ["one", "two", "three"]


async def answer(fault: Fault | None, encoding_format: str = "base64") -> tuple[WireReply, Server]:
    async with Server(script=Plan(fault)) as server, Wire(server.url) as wire:
        reply = await wire.embed(TEXTS, dimensions=96, encoding_format=encoding_format)
        assert server.ledger.in_flight == 0
    return reply, server


def request(number: int = 0, at: float = 0.0, texts: list[str] | None = None, tokens: int = 1) -> Request:
    return Request(number, at, "m", texts or ["a"], tokens)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 408, 409, 413, 429, 500, 502, 503, 504, 529])
async def test_a_status_has_openais_body_and_costs_nothing(code: int) -> None:
    reply, server = await answer(Status(code))
    assert reply.status == code
    assert reply.json()["error"].keys() == {"message", "type", "param", "code"}
    assert server.ledger.billed_tokens == 0
    assert sum(server.ledger.refused.values()) == 1
    assert server.ledger.faults == {"Status": 1}


async def test_a_status_with_its_own_body_and_headers() -> None:
    async with Server(script=Always(html(502))) as server, Wire(server.url) as wire:
        page = await wire.embed(TEXTS)
    assert (page.status, page.headers["content-type"]) == (502, "text/html")
    headers = [("retry-after", "1"), ("retry-after", "2"), ("date", "Tue, 01 Jan 2030 00:00:00 GMT")]
    async with Server(script=Always(Status(429, {"detail": "slow down"}, headers))) as server, Wire(server.url) as wire:
        await wire.send(
            "POST", "/v1/embeddings", json.dumps({"model": "text-embedding-3-small", "input": "a"}).encode()
        )
        head = (await wire.reader.readuntil(b"\r\n\r\n")).decode().lower()
    assert head.count("retry-after: ") == 2
    assert [line for line in head.split("\r\n") if line.startswith("date: ")] == ["date: tue, 01 jan 2030 00:00:00 gmt"]
    assert server.ledger.refused == {"429": 1}


@pytest.mark.parametrize("with_code", [True, False])
async def test_an_exhausted_quota_is_not_a_rate_limit(with_code: bool) -> None:
    reply, server = await answer(quota_exhausted(with_code=with_code))
    assert reply.status == 429
    assert reply.json()["error"]["type"] == "insufficient_quota"
    assert server.ledger.refused == {"429 insufficient_quota": 1}
    assert server.ledger.rate_limited == 0


async def test_a_hang_says_nothing_for_as_long_as_the_client_stays() -> None:
    async with Server(script=Always(Hang())) as server, Wire(server.url) as wire:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wire.embed("one"), 0.1)
        assert server.ledger.in_flight == 1
    assert (server.ledger.in_flight, server.ledger.abandoned, server.ledger.billed_tokens) == (0, 1, 0)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("after_bytes", [0, 1, 250, 1_000])
async def test_a_cut_reply_is_billed_and_lost(after_bytes: int, framing: Any) -> None:
    async with Server(script=Plan(Cut(after_bytes, framing=framing))) as server:
        async with Wire(server.url) as wire:
            await wire.send("POST", "/v1/embeddings", _body())
            assert len(await wire.reader.read()) == after_bytes
        async with Wire(server.url) as wire:
            assert (await wire.request("POST", "/v1/embeddings", _body())).status == 200
    assert (server.ledger.billed_tokens, server.ledger.lost_tokens, server.ledger.tokens_again) == (6, 3, 3)


def _body() -> bytes:
    return json.dumps({"model": "text-embedding-3-small", "input": TEXTS}).encode()


async def test_a_cut_may_be_a_reset() -> None:
    async with Server(script=Always(Cut(100, reset=True))) as server, Wire(server.url) as wire:
        with pytest.raises(ConnectionResetError):
            await wire.embed(TEXTS)


async def test_a_cut_after_the_whole_reply_closes_the_kept_connection() -> None:
    async with Server(script=Always(Cut(None))) as server, Wire(server.url) as wire:
        assert (await wire.embed(TEXTS)).status == 200
        assert await wire.reader.read() == b""
    assert server.ledger.billed_tokens == 3
    assert server.ledger.lost_tokens == 0


async def test_a_truncated_body_is_proper_http() -> None:
    reply, server = await answer(Truncate(0.5))
    whole, _ = await answer(None)
    assert reply.status == 200
    assert reply.body == whole.body[: len(whole.body) // 2]
    assert server.ledger.lost_tokens == 3


async def test_slow_replies_are_right_in_the_end() -> None:
    for fault in (Drip(20_000), Late(0.1)):
        began = asyncio.get_running_loop().time()
        reply, server = await answer(fault)
        assert 0.05 < asyncio.get_running_loop().time() - began < 3
        assert len(reply.json()["data"]) == 3
        assert (server.ledger.billed_tokens, server.ledger.lost_tokens) == (3, 0)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_any_body_in_any_framing(framing: Any) -> None:
    reply, server = await answer(Body(b"<p>hello", content_type="text/html", framing=framing))
    assert (reply.status, reply.body, reply.headers["content-type"]) == (200, b"<p>hello", "text/html")
    assert ("content-length" in reply.headers) == (framing == "length")
    assert server.ledger.lost_tokens == 3


async def test_a_gzip_bomb_is_small_on_the_wire() -> None:
    reply, _ = await answer(gzip_bomb())
    assert reply.headers["content-encoding"] == "gzip, gzip"
    assert len(reply.body) < 1_000
    assert len(gzip.decompress(gzip.decompress(reply.body))) == 100_000_000


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_a_flood_goes_on_until_its_size(framing: Any) -> None:
    reply, _ = await answer(Flood(3_000_000, framing=framing))
    assert 3_000_000 <= len(reply.body) < 3_100_000


async def test_a_flood_of_headers_has_no_body() -> None:
    async with Server(script=Always(Flood(500_000, "headers"))) as server, Wire(server.url) as wire:
        await wire.send("POST", "/v1/embeddings", _body())
        received = await wire.reader.read()
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b"\r\n\r\n" not in received
    assert len(received) > 500_000


async def test_a_flood_ends_when_the_client_leaves() -> None:
    async with Server(script=Always(Flood())) as server:
        async with Wire(server.url) as wire:
            await wire.send("POST", "/v1/embeddings", _body())
            await wire.reader.readexactly(1_000_000)
        while server.ledger.in_flight:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert server.ledger.abandoned == 1


@pytest.mark.parametrize("encoding_format", ["base64", "float"])
@pytest.mark.parametrize("name", sorted(BROKEN))
async def test_a_broken_reply_is_not_what_was_asked_for(name: str, encoding_format: str) -> None:
    for seed in range(3):
        reply, server = await answer(Mutate(wrong(name, seed)), encoding_format)
        assert reply.status == 200
        assert not is_right(reply.body)
        assert (server.ledger.billed_tokens, server.ledger.lost_tokens) == (3, 3)


@pytest.mark.parametrize("encoding_format", ["base64", "float"])
@pytest.mark.parametrize("name", sorted(HARMLESS))
async def test_a_harmless_reply_differs_and_still_has_every_vector(name: str, encoding_format: str) -> None:
    usual, _ = await answer(None, encoding_format)
    reply, _ = await answer(Mutate(wrong(name, seed=1)), encoding_format)
    assert reply.body != usual.body
    assert is_right(reply.body)


def is_right(body: bytes) -> bool:
    """A strict reader: every text has its own vector, once, by index or by position."""
    try:
        data = json.loads(body)["data"]
        by_index = any(row.get("index") is not None for row in data)
        indexes = [_index(row) for row in data] if by_index else list(range(len(data)))
        if not all(type(index) is int for index in indexes) or sorted(indexes) != [0, 1, 2]:
            return False
        vectors = {index: _numbers(row["embedding"]) for index, row in zip(indexes, data, strict=True)}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False
    return all(np.array_equal(vectors[i], vector_of(text, 96)) for i, text in enumerate(TEXTS))


def _index(row: dict[str, Any]) -> Any:
    """0 may be left out, and any may be text."""
    index = row.get("index", 0)
    return int(index) if isinstance(index, str) and index.isdecimal() else index


def _numbers(embedding: Any) -> np.ndarray[Any, Any]:
    if isinstance(embedding, str):
        return np.frombuffer(pybase64.b64decode(embedding, validate=True), dtype="<f4")
    return np.array(embedding, dtype=np.float32)


def test_seeded_faults_are_the_same_each_time_and_as_frequent_as_asked() -> None:
    faults = Faults(seed=7, rate=0.05)
    drawn = [faults(request(n)) for n in range(4_000)]
    assert drawn == [Faults(seed=7, rate=0.05)(request(n)) for n in range(4_000)]
    assert drawn != [Faults(seed=8, rate=0.05)(request(n)) for n in range(4_000)]
    assert 0.04 < sum(fault is not None for fault in drawn) / 4_000 < 0.06
    assert {type(fault) for fault in drawn if fault} == {Status, Hang, Cut, Truncate}


def test_scripts_can_be_joined() -> None:
    script = First([Outage(10, 70, Status(500)), Plan(None, Hang())])
    assert script(request(at=0)) is None
    assert script(request(at=10)) == Status(500)
    assert script(request(at=69.9)) == Status(500)
    assert script(request(at=70)) == Hang()
    assert script(request(at=71)) is None


@pytest.mark.parametrize("named", [True, False])
async def test_a_poison_text_refuses_its_whole_request(named: bool) -> None:
    async with Server(script=Poison({"three"}, named=named)) as server, Wire(server.url) as wire:
        reply = await wire.embed(TEXTS)
        assert (await wire.embed(TEXTS[:2])).status == 200
    assert reply.status == 400
    assert ("input[2]" in reply.json()["error"]["message"]) == named
    assert server.ledger.billed_tokens == 2
    assert Poison(str.isupper)(request(texts=["a", "B"])) is not None


async def test_hidden_caps_refuse_what_is_above_them() -> None:
    async with Server(script=First([HiddenTokenCap(3), HiddenInputCap(2, 413)])) as server, Wire(server.url) as wire:
        replies = [await wire.embed(texts) for texts in (["x" * 13], ["a", "b", "c"], ["x" * 8, "b"])]
    assert [reply.status for reply in replies] == [400, 413, 200]
    assert replies[0].json()["error"]["code"] == "max_tokens_per_request"
    assert server.ledger.refused == {"400 max_tokens_per_request": 1, "413": 1}


def test_every_edit_is_the_same_for_the_same_seed() -> None:
    def reply() -> dict[str, Any]:
        rows = [{"object": "embedding", "index": i, "embedding": _floats(i)} for i in range(5)]
        return {"object": "list", "data": rows, "model": "m", "usage": {"prompt_tokens": 5, "total_tokens": 5}}

    for name in BROKEN | HARMLESS:
        assert _shown(wrong(name, 3)(reply())) == _shown(wrong(name, 3)(reply())), name


def _floats(seed: int) -> list[float]:
    random = Random(seed)
    values = [random.gauss(0, 1) for _ in range(8)]
    norm = math.sqrt(sum(value * value for value in values))
    return [value / norm for value in values]


def _shown(value: Mapping[str, Any] | bytes) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()
