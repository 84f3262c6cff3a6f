from __future__ import annotations

import asyncio
import json
import shutil
import signal
import ssl
import sys
from asyncio.subprocess import PIPE
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pybase64
import pytest

from tests.service.limits import RateLimits
from tests.service.server import Latency, Server
from tests.service.service import Rules, Service
from tests.service.vectors import digest, vector_of
from tests.service.windows import WindowKind
from tests.service.wire import Wire, WireReply

ROOT = Path(__file__).parents[2]
BYTES_FOR_ALL_TOKENS = 300_000 * 4
LONGEST = "x" * 8_192 * 4


def rows(reply: WireReply) -> np.ndarray[Any, Any]:
    data = reply.json()["data"]
    assert [row["index"] for row in data] == list(range(len(data)))
    decoded = [row["embedding"] for row in data]
    if isinstance(decoded[0], str):
        decoded = [np.frombuffer(pybase64.b64decode(row), dtype="<f4") for row in decoded]
    return np.asarray(decoded, dtype=np.float32)


def reason(reply: WireReply) -> Mapping[str, Any]:
    error: Mapping[str, Any] = reply.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize("encoding_format", ["base64", "float"])
@pytest.mark.parametrize("dimensions", [1, 8, 256, 1_536])
async def test_each_vector_follows_from_its_text(encoding_format: str, dimensions: int) -> None:
    texts = ["one", "two", "ein Fluß", "one"]
    async with Server() as server, Wire(server.url) as wire:
        reply = await wire.embed(texts, encoding_format=encoding_format, dimensions=dimensions)
    matrix = rows(reply)
    assert matrix.shape == (4, dimensions)
    assert all(np.array_equal(row, vector_of(text, dimensions)) for row, text in zip(matrix, texts, strict=True))
    assert np.linalg.norm(matrix, axis=1) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dimensions", [8, 256, 1_536, 3_072])
def test_vectors_of_different_texts_differ(dimensions: int) -> None:
    assert len({vector_of(f"text {n}", dimensions).tobytes() for n in range(500)}) == 500


async def test_a_large_reply_is_whole() -> None:
    texts = [f"section {n}" for n in range(2_048)]
    async with Server() as server, Wire(server.url) as wire:
        matrix = rows(await wire.embed(texts))
        assert (await wire.embed("again")).status == 200
    assert matrix.shape == (2_048, 1_536)
    assert all(np.array_equal(matrix[n], vector_of(texts[n])) for n in (0, 63, 64, 1_000, 2_047))


@pytest.mark.parametrize(
    ("model", "dimensions", "answers_as"),
    [
        ("text-embedding-3-small", 1_536, "text-embedding-3-small"),
        ("text-embedding-3-large", 3_072, "text-embedding-3-large"),
        ("text-embedding-ada-002", 1_536, "text-embedding-ada-002-v2"),
    ],
)
async def test_models(model: str, dimensions: int, answers_as: str) -> None:
    async with Server() as server, Wire(server.url) as wire:
        reply = await wire.embed("one", model=model)
        listed = (await wire.request("GET", "/v1/models")).json()
    assert rows(reply).shape == (1, dimensions)
    assert reply.json()["model"] == answers_as
    assert model in [row["id"] for row in listed["data"]]


async def test_usage_and_headers() -> None:
    async with Server(limits=RateLimits.of("fixed", 100, 1_000)) as server, Wire(server.url) as wire:
        replies = [await wire.embed(["abcde", "abcd"]) for _ in range(2)]
    assert replies[0].json()["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert replies[0].headers["x-request-id"] != replies[1].headers["x-request-id"]
    assert int(replies[0].headers["openai-processing-ms"]) >= 0
    seen = {name: value for name, value in replies[1].headers.items() if name.startswith("x-ratelimit-")}
    assert seen.pop("x-ratelimit-reset-requests") == seen.pop("x-ratelimit-reset-tokens") != ""
    assert seen == {
        "x-ratelimit-limit-requests": "100",
        "x-ratelimit-remaining-requests": "98",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "994",
    }


async def test_tokens_are_taken_instead_of_texts() -> None:
    async with Server() as server, Wire(server.url) as wire:
        several = await wire.request("POST", "/v1/embeddings", _json(input=[[1, 2, 3], [4]]))
        single = await wire.request("POST", "/v1/embeddings", _json(input=[1, 2, 3]))
    assert several.json()["usage"]["total_tokens"] == 4
    assert np.array_equal(rows(single)[0], rows(several)[0])


async def in_flight(server: Server, count: int) -> None:
    """Returns at the moment when the server has that many."""
    while server.ledger.in_flight != count:  # noqa: ASYNC110
        await asyncio.sleep(0)


def _json(**fields: Any) -> bytes:
    return json.dumps({"model": "text-embedding-3-small"} | fields).encode()


async def test_what_is_just_allowed_passes() -> None:
    async with Server() as server, Wire(server.url) as wire:
        assert (await wire.embed(["x"] * 2_048, dimensions=8)).status == 200
        assert (await wire.embed([LONGEST], dimensions=8)).status == 200
        full = ["x" * 30_000] * 40
        assert sum(map(len, full)) == BYTES_FOR_ALL_TOKENS
        reply = await wire.embed(full, dimensions=8)
    assert reply.json()["usage"]["total_tokens"] == 300_000


@pytest.mark.parametrize(
    ("fields", "status", "code", "message"),
    [
        ({"input": ["x"] * 2_049}, 400, "array_above_max_length", "maximum length 2048"),
        ({"input": [*["x" * 30_000] * 40, "x"]}, 400, "max_tokens_per_request", "Requested 300001 tokens, max 300000"),
        ({"input": [f"{LONGEST}x"]}, 400, None, "maximum context length is 8192 tokens, however you requested 8193"),
        ({"input": ["a", ""]}, 400, None, "'$.input' is invalid"),
        ({"input": []}, 400, None, "'$.input' is invalid"),
        ({"input": [["a"]]}, 400, None, "'$.input' is invalid"),
        ({"input": [1, 2**40]}, 400, None, "'$.input' is invalid"),
        ({"input": ["a", None]}, 400, None, "'$.input' is invalid"),
        ({}, 400, None, "'$.input' is invalid"),
        ({"input": "a", "truncate": True}, 400, None, "Unrecognized request argument supplied: truncate"),
        ({"input": "a", "encoding_format": "hex"}, 400, None, "encoding_format"),
        ({"input": "a", "dimensions": 1_537}, 400, None, "dimensions"),
        ({"input": "a", "dimensions": True}, 400, None, "dimensions"),
        ({"input": "a", "model": "text-embedding-ada-002", "dimensions": 8}, 400, None, "does not support specifying"),
        ({"input": "a", "model": "gpt-9"}, 404, "model_not_found", "`gpt-9` does not exist"),
        ({"input": "a", "model": None}, 400, None, "model parameter"),
    ],
)
async def test_what_openai_refuses_is_refused_unbilled(
    fields: Mapping[str, Any], status: int, code: str | None, message: str
) -> None:
    async with Server() as server, Wire(server.url) as wire:
        reply = await wire.request("POST", "/v1/embeddings", _json(**fields))
        assert (await wire.embed("the connection lives on")).status == 200
    assert reply.status == status
    assert reason(reply)["code"] == code
    assert message in reason(reply)["message"]
    assert server.ledger.billed_tokens == 6
    assert sum(server.ledger.refused.values()) == 1


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"\xff"', b'{"input": "\\ud800"}', b"[" * 100_000])
async def test_what_is_not_json_is_refused(body: bytes) -> None:
    async with Server() as server, Wire(server.url) as wire:
        reply = await wire.request("POST", "/v1/embeddings", body)
    assert reply.status == 400
    assert "could not parse the JSON" in reason(reply)["message"]


@pytest.mark.parametrize("key", [None, "", "sk-wrong"])
async def test_a_bad_key_is_refused_and_not_repeated(key: str | None) -> None:
    async with Server(rules=Rules(key="sk-right")) as server:
        async with Wire(server.url, key=key) as wire:
            reply = await wire.embed("one")
        async with Wire(server.url, key="sk-right") as wire:
            assert (await wire.embed("one")).status == 200
    assert reply.status == 401
    assert reason(reply)["code"] == "invalid_api_key"
    assert "sk-wrong" not in reason(reply)["message"]
    assert server.ledger.refused == {"401 invalid_api_key": 1}


async def test_unknown_paths_and_unframed_bodies_are_refused() -> None:
    async with Server() as server:
        async with Wire(server.url) as wire:
            assert (await wire.request("POST", "/embeddings", _json(input="a"))).status == 404
            wire.writer.write(b"POST /v1/embeddings HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
            assert (await wire.receive()).status == 411
            assert await wire.reader.read() == b""
        async with Wire(server.url) as wire:
            wire.writer.write(b"nonsense\r\n\r\n")
            assert (await wire.receive()).status == 411
    assert server.ledger.requests == 0


async def test_requests_that_come_in_pieces_or_together() -> None:
    async with Server() as server, Wire(server.url) as wire:
        body = _json(input="one")
        raw = b"POST /v1/embeddings HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        for n in range(0, len(raw), 7):
            wire.writer.write(raw[n : n + 7])
            await asyncio.sleep(0)
        assert (await wire.receive()).status == 200
        wire.writer.write(raw + raw)
        assert [(await wire.receive()).status for _ in range(2)] == [200, 200]
        assert (await wire.request("GET", "/v1/models", headers="Connection: close\r\n")).status == 200
        assert await wire.reader.read() == b""


async def test_an_ordinary_client_is_served() -> None:
    async with Server() as server, httpx.AsyncClient(base_url=server.url) as client:
        reply = await client.post("/embeddings", json={"model": "text-embedding-3-small", "input": ["one"]})
    assert np.array_equal(np.float32(reply.json()["data"][0]["embedding"]), vector_of("one"))


async def test_the_ledger_bills_each_text_and_sees_what_is_sent_again() -> None:
    async with Server() as server, Wire(server.url) as wire:
        await wire.embed(["aaaa", "bbbb"], dimensions=8)
        await wire.embed(["bbbb", "cccc" * 10], dimensions=8)
        await wire.embed(["bbbb"], dimensions=8)
        summary = (await wire.request("GET", "/ledger")).json()
        texts = (await wire.request("GET", "/ledger/texts")).json()
    ledger = server.ledger
    assert (ledger.requests, ledger.accepted, ledger.billed_tokens) == (3, 3, 2 + 11 + 1)
    assert (ledger.texts_again, ledger.tokens_again, ledger.lost_tokens) == (2, 2, 0)
    assert texts == {digest(text).hex(): n for text, n in [(b"aaaa", 1), (b"bbbb", 3), (b"cccc" * 10, 1)]}
    assert {name: summary[name] for name in ("billed_tokens", "texts_again", "max_in_flight", "texts")} == {
        "billed_tokens": 14,
        "texts_again": 2,
        "max_in_flight": 1,
        "texts": 3,
    }
    assert sum(minute[1] for minute in summary["minutes"]) == 3


async def test_the_ledger_tells_projects_apart() -> None:
    async with Server() as server, Wire(server.url) as wire:
        for project in ("one", "two", "two"):
            await wire.request("POST", "/v1/embeddings", _json(input="abcd"), f"OpenAI-Project: {project}\r\n")
    assert server.ledger.tokens_by_project == {"one": 1, "two": 2}


@pytest.mark.parametrize("count", [1, 300])
async def test_in_flight_is_never_more_than_a_disciplined_client_has(count: int) -> None:
    async def client(url: str) -> None:
        async with Wire(url) as wire:
            for _ in range(8):
                assert (await wire.embed([f"text {n}" for n in range(count)])).status == 200

    async with Server(latency=Latency(0.05)) as server:
        await asyncio.gather(*[client(server.url) for _ in range(6)])
        assert server.ledger.in_flight == server.ledger.tokens_in_flight == 0
    assert server.ledger.max_in_flight == 6
    assert server.ledger.abandoned == server.ledger.lost_tokens == 0


async def test_a_client_that_leaves_is_out_of_flight_but_billed() -> None:
    async with Server(latency=Latency(1_000)) as server:
        async with Wire(server.url) as wire:
            await wire.send("POST", "/v1/embeddings", _json(input="abcdefgh"))
            await in_flight(server, 1)
            assert server.ledger.tokens_in_flight == 2
        await in_flight(server, 0)
        ledger = server.ledger
        assert (ledger.abandoned, ledger.billed_tokens, ledger.lost_tokens, ledger.tokens_in_flight) == (1, 2, 2, 0)
    assert server.connections == 0


async def test_closing_ends_what_is_under_way() -> None:
    async with Server(latency=Latency(1_000)) as server:
        wire = await Wire(server.url).__aenter__()
        await wire.send("POST", "/v1/embeddings", _json(input="a"))
        await in_flight(server, 1)
    assert server.ledger.in_flight == 0
    with pytest.raises((EOFError, OSError)):
        await wire.receive()
    await wire.__aexit__()


def test_latency_is_fixed_plus_per_token_and_spread_by_its_seed() -> None:
    assert Latency().seconds(300_000, 1) == 0
    assert Latency(1).seconds(0, 1) == pytest.approx(0.078)
    assert Latency(1).seconds(300_000, 1) == pytest.approx(6.678)
    assert Latency(20).seconds(1_000, 1) == pytest.approx(2.0)
    spread = [Latency(1, sigma=0.3, seed=5).seconds(1_000, n) for n in range(200)]
    assert spread == [Latency(1, sigma=0.3, seed=5).seconds(1_000, n) for n in range(200)]
    assert float(np.median(spread)) == pytest.approx(0.1, rel=0.1)
    assert len(set(spread)) == 200


async def test_latency_is_kept() -> None:
    async with Server(latency=Latency(1, fixed=0.15)) as server, Wire(server.url) as wire:
        began = asyncio.get_running_loop().time()
        reply = await wire.embed("one")
        assert 0.14 < asyncio.get_running_loop().time() - began < 2
        assert int(reply.headers["openai-processing-ms"]) >= 150


@pytest.mark.parametrize("kind", ["fixed", "sliding", "bucket", "gcra", "second"])
def test_every_kind_of_window_refuses_and_says_when(kind: WindowKind) -> None:
    service = Service(limits=RateLimits.of(kind, tokens_per_minute=600))
    now, waits = 0.0, 0
    for n in range(100):
        exchange = service.receive({}, _json(input="x" * 4 * 10), now)
        assert exchange.tokens == 10
        if not exchange.billed:
            wait = service.limits.tokens and service.limits.tokens.wait(10, now)
            assert wait
            now, waits = now + wait, waits + 1
            exchange = service.receive({}, _json(input="x" * 4 * 10), now)
        assert exchange.billed, n
        service.leave(exchange, intact=True)
    ledger = service.ledger
    assert ledger.accepted == 100
    assert ledger.rate_limited == ledger.refused["429 rate_limit_exceeded"] == waits > 0
    assert sum(stretch.tokens for stretch in ledger.stretches()) == ledger.billed_tokens == 1_000
    assert [stretch.seconds for stretch in ledger.stretches()] == [60] * len(ledger.stretches())


@pytest.mark.parametrize(
    ("requests", "tokens", "unit", "short"), [(1, None, "requests", "RPM"), (None, 10, "tokens", "TPM")]
)
async def test_a_rate_limit_is_told_as_openai_tells_it(
    requests: int | None, tokens: int | None, unit: str, short: str
) -> None:
    async with Server(limits=RateLimits.of("sliding", requests, tokens)) as server, Wire(server.url) as wire:
        assert (await wire.embed("x" * 40)).status == 200
        reply = await wire.embed("x" * 40)
    assert reply.status == 429
    assert reason(reply)["type"] == unit
    assert reason(reply)["code"] == "rate_limit_exceeded"
    assert f"on {unit} per min ({short}): Limit" in reason(reply)["message"]
    assert "Please try again in 59." in reason(reply)["message"] or "in 1m0s" in reason(reply)["message"]
    assert 59_000 < int(reply.headers["retry-after-ms"]) <= 60_000
    assert reply.headers["retry-after"] == "60"
    assert server.ledger.accepted == 1
    assert server.ledger.billed_tokens == 10


async def test_a_request_that_can_never_pass_is_told_so() -> None:
    async with Server(limits=RateLimits.of("bucket", None, 1_000)) as server, Wire(server.url) as wire:
        reply = await wire.embed("x" * 404)
    assert reply.status == 429
    assert reason(reply)["message"].startswith("Request too large")
    assert "retry-after" not in reply.headers


async def test_a_service_may_say_nothing_about_its_limits() -> None:
    limits = RateLimits.of("fixed", 1)
    async with Server(limits=limits, rate_headers=False, retry_after=False) as server, Wire(server.url) as wire:
        replies = [await wire.embed("a"), await wire.embed("a")]
    assert [reply.status for reply in replies] == [200, 429]
    assert not [name for reply in replies for name in reply.headers if "ratelimit" in name or "retry" in name]


async def test_a_running_server_takes_other_limits_faults_and_latency() -> None:
    async with Server() as server, Wire(server.url) as wire:

        async def script(**changes: Any) -> int:
            return (await wire.request("POST", "/script", json.dumps(changes).encode())).status

        assert await script(faults=[{"kind": "status", "code": 500}, None, {"kind": "status", "code": 503}]) == 200
        assert [(await wire.embed("a")).status for _ in range(4)] == [500, 200, 503, 200]
        assert await script(always={"kind": "status", "code": 409}) == 200
        assert [(await wire.embed("a")).status for _ in range(2)] == [409, 409]
        assert await script(always=None, limits={"window": "fixed", "requests_per_minute": 1}) == 200
        assert [(await wire.embed("a")).status for _ in range(2)] == [200, 429]
        assert await script(change={"requests_per_minute": 3}) == 200
        assert [(await wire.embed("a")).status for _ in range(3)] == [200, 200, 429]
        assert await script(latency=2, clear_ledger=True) == 200
        assert server.latency == Latency(2, first=server.service.received)
        assert server.ledger.requests == 0
        wrong: dict[str, Any]
        for wrong in ({"fault": []}, {"always": {"kind": "nothing"}}, {"always": {"kind": "hang", "for": 1}}):
            assert await script(**wrong) == 400


async def test_as_its_own_process_it_leaves_its_ledger(tmp_path: Path) -> None:
    ledger_file = tmp_path / "ledger.json"
    options = [
        "--key",
        "sk-right",
        "--window",
        "bucket",
        "--tokens-per-minute",
        "40",
        "--ledger-file",
        str(ledger_file),
    ]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.service.server", *options, cwd=ROOT, stdout=PIPE
    )
    assert process.stdout is not None
    try:
        url = (await process.stdout.readline()).decode().strip()
        async with Wire(url, key="sk-right") as wire:
            statuses = [(await wire.embed("x" * size)).status for size in (16, 16)]
    finally:
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert statuses == [200, 429]
    saved = json.loads(ledger_file.read_bytes())
    assert saved["billed_tokens"] == 4
    assert saved["refused"] == {"429 rate_limit_exceeded": 1}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
async def test_it_speaks_tls(tmp_path: Path) -> None:
    pem = tmp_path / "server.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(pem), "-out", "-"]
    process = await asyncio.create_subprocess_exec(*make, *name, stdout=PIPE, stderr=PIPE)
    certificate, _ = await process.communicate()
    pem.write_bytes(pem.read_bytes() + certificate)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pem)
    async with Server(tls=tls) as server:
        assert server.url.startswith("https://")
        async with Wire(server.url, tls=ssl.create_default_context(cafile=pem)) as wire:
            texts = [f"text {n}" for n in range(500)]
            assert np.array_equal(rows(await wire.embed(texts))[499], vector_of("text 499"))
