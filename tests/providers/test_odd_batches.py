"""Batch APIs that speak OpenAI's wire in words and shapes of their own."""

from __future__ import annotations

import gzip
import json
from contextlib import aclosing
from typing import Any

import numpy as np
import pybase64
import pytest

from aembed import open_provider
from aembed.batch_protocols import BatchLine, BatchState
from aembed.errors import BadRequestError, NotFoundError, ProviderError, UnavailableError
from tests.providers.raw_server import RawServer, json_reply, serving

pytestmark = pytest.mark.anyio

BATCH: dict[str, Any] = {
    "id": "b",
    "status": "completed",
    "output_file_id": "out",
    "created_at": 1_760_000_000,
    "metadata": {"aembed_key": "ours"},
}
STATES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"status": "canceled"}, {"status": "cancelled"}),
    ({"status": "Succeeded"}, {"status": "completed"}),
    ({"status": "error", "output_file_id": ""}, {"status": "failed", "output_file": None}),
    ({"status": "timed_out"}, {"status": "expired"}),
    ({"status": "a word of its own"}, {"status": "in_progress"}),
    ({"status": None}, {"status": "in_progress"}),
    ({"request_counts": {"total": None, "completed": "2", "failed": []}}, {"total": 0, "completed": 2, "failed": 0}),
    ({"request_counts": []}, {"total": 0}),
    ({"created_at": 1_760_000_000_000}, {"created_at": 1_760_000_000.0, "expires_at": 1_760_086_400.0}),
    ({"created_at": "2025-10-09T08:53:20.123456789Z"}, {"created_at": 1_760_000_000.123456}),
    ({"created_at": "2025-10-09T08:53:20"}, {"created_at": 1_760_000_000.0}),
    ({"created_at": "yesterday", "expires_at": True}, {"created_at": 0.0, "expires_at": None}),
    ({"usage": {"total_tokens": "12"}}, {"tokens": 12}),
    ({"usage": [], "metadata": []}, {"tokens": None, "key": None}),
    ({"output_file_id": {"id": "there"}, "error_file_id": ["this"]}, {"output_file": "there", "error_file": "this"}),
    ({"errors": {"data": None}}, {"faults": ()}),
]
ERRORS = ["too much", [{"code": 400, "message": "too much"}], {"message": "too much", "line": "7"}]


def provider_of(raw: RawServer) -> Any:
    options: dict[str, Any] = {"headers": {"x-own": "a secret of the user's"}, "dimensions": 8}
    return open_provider("openai:text-embedding-3-small", api_key="sk-key", base_url=raw.url, **options)


@pytest.mark.parametrize(("said", "meant"), STATES, ids=lambda each: json.dumps(each)[:60])
async def test_g10_a_state_in_other_words_and_numbers(said: dict[str, Any], meant: dict[str, Any]) -> None:
    async with serving(json_reply({**BATCH, **said})) as raw:
        provider = provider_of(raw)
        state = await provider.get_batch("b")
        await provider.aclose()
    assert {name: getattr(state, name) for name in meant} == meant


@pytest.mark.parametrize("errors", ERRORS)
async def test_g10_the_reasons_of_a_failure_in_any_form(errors: Any) -> None:
    said = {"status": "failed", "output_file_id": None, "errors": {"data": errors} if errors is ERRORS[1] else errors}
    async with serving(json_reply({**BATCH, **said})) as raw:
        provider = provider_of(raw)
        (fault,) = (await provider.get_batch("b")).faults
        await provider.aclose()
    assert fault.message == "too much"


async def test_g10_batches_of_others_that_cannot_be_read_hide_none_of_ours() -> None:
    page = {"data": [{"kind": "of another program"}, BATCH, {"id": 7}], "has_more": False}
    async with serving(json_reply(page)) as raw:
        provider = provider_of(raw)
        assert [state.key async for state in provider.list_batches()] == ["ours"]
        await provider.aclose()


def vector(number: int) -> Any:
    values = np.random.default_rng(number).standard_normal(8).astype("<f4")
    return values / np.linalg.norm(values)


def item(index: int, number: int, **changes: Any) -> dict[str, Any]:
    return {"index": index, "embedding": pybase64.b64encode(vector(number).tobytes()).decode(), **changes}


def line(name: str, *items: dict[str, Any], **response: Any) -> dict[str, Any]:
    body = {"object": "list", "data": items, "model": "m", "usage": {"total_tokens": 2}}
    return {"custom_id": name, "response": {"status_code": 200, "body": body, **response}, "error": None}


ONE, TWO = line("key-0", item(0, 1), item(1, 2)), line("key-1", item(0, 3))
BODY = ONE["response"]["body"]


def lines(*given: dict[str, Any], end: str = "\n") -> bytes:
    return "".join(json.dumps(each) + end for each in given).encode()


FILES = {
    "a mark of UTF-8": b"\xef\xbb\xbf" + lines(ONE, TWO),
    "other ends of lines": b"\r\n" + lines(ONE, TWO, end="\r\n\r\n"),
    "bytes behind its end": lines(ONE, TWO) + b"\0\0",
    "a word behind its end": lines(ONE, TWO) + b"[DONE]",
    "one list": b"[" + lines(ONE)[:-1] + b",\n" + lines(TWO)[:-1] + b"]\n",
    "ids in capitals": lines({**ONE, "custom_id": "KEY-0"}, {**TWO, "custom_id": " Key-1 "}),
    "numbers": lines(line("key-0", *(item(i, i + 1, embedding=vector(i + 1).tolist()) for i in (0, 1))), TWO),
    "another order": lines(line("key-0", item(1, 2), item(0, 1)), TWO),
    "a status as text": lines(line("key-0", *BODY["data"], status_code="200"), TWO),
    "no status": lines(line("key-0", *BODY["data"], status_code=None), TWO),
    "a body as text": lines(line("key-0", status_code=200, body=json.dumps(BODY)), TWO),
    "a body alone": lines({"custom_id": "key-0", "response": BODY}, TWO),
    "no usage": lines(line("key-0", body={"data": BODY["data"], "usage": None}), TWO),
    "answered twice": lines(ONE, line("key-0", item(0, 8), item(1, 9)), TWO),
}


async def read(raw: RawServer) -> list[BatchLine]:
    provider, found, state = provider_of(raw), list[BatchLine](), BatchState("b", "completed", output_file="out")
    try:
        async with aclosing(provider.batch_results(state, {"key-0": 2, "key-1": 1})) as results:
            async for each in results:
                found.append(each)
    finally:
        await provider.aclose()
    return found


def reply(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"".join(each + b"\r\n" for each in headers)
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n%b\r\n" % (status, len(body), head) + body


def are_right(found: list[BatchLine]) -> bool:
    first: dict[str | None, Any] = {}
    for each in found:
        if each.reply:
            first.setdefault(each.custom_id, each.reply.matrix)
    right = {"key-0": [vector(1), vector(2)], "key-1": [vector(3)]}
    return first.keys() == right.keys() and all(np.allclose(first[name], right[str(name)]) for name in first)


@pytest.mark.parametrize("kind", FILES)
async def test_g11_results_in_other_forms(kind: str) -> None:
    async with serving(reply(FILES[kind])) as raw:
        assert are_right(await read(raw))


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({"response": {"status_code": "400", "body": {"error": {"message": "bad"}}}}, BadRequestError),
        ({"response": {"status_code": 400, "body": "bad"}}, BadRequestError),
        ({"response": {"error": {"code": 400, "message": "bad"}}}, BadRequestError),
        ({"response": {"status_code": 500, "body": {"error": "away"}}}, UnavailableError),
        ({"response": "bad"}, ProviderError),
        ({"error": [{"code": "bad"}]}, ProviderError),
        ({"error": {"code": "BATCH_EXPIRED"}}, "expired"),
        ({"error": {"code": "batch_canceled", "message": "by whom?"}}, "cancelled"),
    ],
)
async def test_g11_errors_in_other_forms(told: dict[str, Any], kind: Any) -> None:
    async with serving(reply(lines({"custom_id": "key-0", "response": None, "error": None, **told}, TWO))) as raw:
        bad, good = await read(raw)
    assert (bad.custom_id, bad.reply, good.error) == ("key-0", None, None)
    assert bad.unrun == kind if isinstance(kind, str) else isinstance(bad.error, kind)


async def test_g12_a_file_that_is_compressed() -> None:
    packed = gzip.compress(lines(ONE, TWO))
    for headers in ([], [b"content-encoding: gzip"]):
        async with serving(reply(packed, *headers)) as raw:
            assert are_right(await read(raw))
    async with serving(reply(packed[:-20])) as raw:
        with pytest.raises(UnavailableError, match="cut off"):
            await read(raw)


async def test_g12_a_file_that_lies_elsewhere_is_fetched_without_the_key() -> None:
    async with serving(reply(lines(ONE, TWO))) as there:
        place = b"location: http://127.0.0.1:%d/signed?by=them" % there.port
        async with serving(reply(b"", place, status=b"302 Found")) as raw:
            assert are_right(await read(raw))
    assert there.requests[0].target == "/signed?by=them"
    assert not {"authorization", "x-own"} & there.requests[0].headers.keys()
    assert {"authorization", "x-own"} < raw.requests[0].headers.keys()


async def test_g12_a_file_that_lies_nowhere() -> None:
    async with serving(reply(b"", b"location: file:///etc/passwd", status=b"302 Found")) as raw:
        with pytest.raises(NotFoundError, match="redirects are not followed"):
            await read(raw)
    async with serving(reply(b"", b"location: /v1/again", status=b"307 Again")) as raw:
        with pytest.raises(UnavailableError, match="again and again"):
            await read(raw)
    assert len(raw.requests) == 4
