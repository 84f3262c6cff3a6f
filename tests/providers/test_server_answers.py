"""What servers of one's own are (row E10): llama-server 0.10434 and infinity-emb 0.0.78, as they answered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aembed import (
    BadRequestError,
    Embedder,
    InputError,
    InvalidReplyError,
    MemoryStore,
    Record,
    RetryPolicy,
    open_provider,
)
from aembed.providers._server_answers import ServerAnswers, read_answers
from tests.core.broken_replies import reply_of, unit_vectors
from tests.providers.clients import every_client, http_client
from tests.providers.raw_server import RawServer, json_reply, reply, serving, then_close

LLAMA = {
    "models": [{"name": "tiny.gguf", "model": "tiny.gguf", "type": "model", "capabilities": ["completion"]}],
    "object": "list",
    "data": [
        {
            "id": "tiny.gguf",
            "aliases": ["tiny.gguf"],
            "object": "model",
            "owned_by": "llamacpp",
            "meta": {"vocab_type": 3, "n_vocab": 77, "n_ctx": 512, "n_ctx_train": 2_048, "n_embd": 8, "size": 110_080},
        }
    ],
}
INFINITY = {
    "object": "list",
    "data": [{"id": "bge", "object": "model", "owned_by": "infinity", "stats": {"batch_size": 32}, "backend": "torch"}],
}
TEXT = "Patient Waldemar Kanarienvogel\nis allergic to “penicillin” & more"
SHORT = "Kanari"


def embedder_of(server: RawServer, model: str = "any", **options: Any) -> Embedder:
    return Embedder(
        open_provider(f"openai:{model}", base_url=server.url, api_key="sk-x", **options),
        retry=RetryPolicy(max_retries=0),
    )


def vectors(count: int) -> bytes:
    return json_reply(reply_of(unit_vectors(1, count, 8), floats=False))


@every_client
async def test_e10_llama_server_tells_its_context_and_its_width_before_anything_is_sent(client: str) -> None:
    async with (
        http_client(client) as given,
        serving(json_reply(LLAMA), vectors(2)) as server,
        embedder_of(server, http_client=given) as embedder,
    ):
        embeddings = await embedder.embed_documents(["one", "word " * 600, "two"])
        assert embedder.space.dimensions == 8
        (failure,) = embeddings.failures
        assert isinstance(failure.error, InputError)
        assert "the limit is 512" in str(failure.error)
        assert [request.target for request in server.requests] == ["/v1/models", "/v1/embeddings"]
        assert server.requests[1].json["input"] == ["one", "two"]
        assert (server.requests[0].body, server.requests[0].headers.get("content-length")) == (b"", None)
        assert server.requests[0].headers["authorization"] == "Bearer sk-x"


async def test_e10_with_a_width_that_is_told_nothing_is_bought_to_learn_it() -> None:
    async with serving(json_reply(LLAMA), vectors(1)) as server, embedder_of(server) as embedder:
        report = await embedder.embed_into(MemoryStore(), [Record("a", "one")])
        assert (report.stored, report.requests) == (1, 1)
        assert (await embedder.embed_into(MemoryStore(), [Record("b", "two")])).stored == 1
        assert [request.target for request in server.requests].count("/v1/models") == 1


@pytest.mark.parametrize(
    "answer",
    [
        reply(b"", 404),
        reply(b"<html>nobody</html>"),
        json_reply({"data": None}),
        json_reply({"error": "no"}, 401),
        then_close(),
        reply(b"x" * 2_000_000),
    ],
)
async def test_e10_a_server_that_tells_nothing_is_used_as_it_is(answer: Any) -> None:
    async with serving(answer, vectors(1)) as server, embedder_of(server) as embedder:
        assert (await embedder.embed_documents(["one"])).report.stored == 1
        assert (embedder.space.dimensions, len(server.requests)) == (8, 2)


async def test_e10_a_server_is_not_asked_what_an_option_says() -> None:
    async with serving(vectors(1)) as server, embedder_of(server, dimensions=8) as embedder:
        await embedder.embed_documents(["one"])
        assert [request.target for request in server.requests] == ["/v1/embeddings"]


async def test_e10_characters_are_not_taken_for_tokens() -> None:
    body = {**reply_of(unit_vectors(1, 1, 8), floats=False), "usage": {"prompt_tokens": 400, "total_tokens": 400}}
    async with serving(json_reply(INFINITY), json_reply(body)) as server, embedder_of(server, "bge") as embedder:
        assert (await embedder.embed_documents(["x" * 400])).report.billed_tokens == 100


async def test_e10_dimensions_that_a_server_ignores_are_named() -> None:
    async with serving(vectors(1)) as server, embedder_of(server, dimensions=4) as embedder:
        with pytest.raises(InvalidReplyError) as stopping:
            await embedder.embed_documents(["one"])
        assert "8 dimensions instead of 4" in str(stopping.value)
        assert "ignores dimensions=" in str(stopping.value)


def refusal(texts: list[str], **more: Any) -> dict[str, Any]:
    """As FastAPI words it: with all that was sent."""
    fault = {"type": "too_long", "loc": ["body", "input"], "msg": "List should have at most 2048 items", "input": texts}
    return {"detail": [fault | more]}


@pytest.mark.parametrize("count", [1, 3, 3_000])
@pytest.mark.parametrize("ascii_only", [False, True])
async def test_e10_what_a_server_echoes_is_in_no_message_and_no_log(
    count: int, ascii_only: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """3,000 of them are more than is read of an error: the JSON ends in the midst of it."""
    caplog.set_level("DEBUG")
    for said in (
        refusal([TEXT, SHORT] * count),
        refusal([TEXT], ctx={"input_value": TEXT, "received": [{"inputs": [SHORT]}]}),
        {"error": {"message": f"cannot embed {TEXT!r}", "input": SHORT}},
        {"message": TEXT * count, "prompt": [TEXT, SHORT]},
    ):
        body = json.dumps(said, ensure_ascii=ascii_only).encode()
        async with serving(reply(body, 422)) as server, embedder_of(server, dimensions=8) as embedder:
            with pytest.raises(BadRequestError) as stopping:
                await embedder.embed_documents([TEXT])
        error = stopping.value
        shown = f"{error!r} {error} {error.body} {caplog.text}"
        assert not any(word in shown for word in ("Waldemar", "Kanari", "allergic", "penicillin"))
        if "detail" in said:
            assert "at most 2048 items" in str(error)
            assert error.max_batch_size == 2_048


async def test_e10_errors_that_each_close_their_connection_stop_nothing() -> None:
    """llama-server says so with each error, infinity with none."""
    closing = json_reply({"error": {"code": 400, "message": "bad", "type": "invalid_request_error"}}, 400, CLOSE)
    async with (
        serving(*([then_close(closing), vectors(1)] * 10)) as server,
        embedder_of(server, dimensions=8) as embedder,
    ):
        for _ in range(10):
            with pytest.raises(BadRequestError):
                await embedder.embed_query("one")
            assert len(await embedder.embed_query("one")) == 8
        assert (len(server.requests), server.connections) == (20, 11)


CLOSE = {"connection": "close"}


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"data": [{"id": "a", "max_model_len": 8_192}, {"id": "b", "max_model_len": 512}]}, ServerAnswers(None, 512)),
        (
            {"data": [{"id": "a", "meta": {"n_embd": 4}}, {"id": "c", "aliases": ["b"], "meta": {"n_embd": 5}}]},
            ServerAnswers(5),
        ),
        ({"data": [{"id": "a", "meta": {"n_embd": 4}}, {"id": "c"}]}, ServerAnswers()),
        ({"data": [{"id": "a", "meta": {"n_embd": True, "n_ctx": "512"}, "max_model_len": -1}]}, ServerAnswers()),
        ({"data": [None, "b", {"id": "b", "meta": []}]}, ServerAnswers()),
        ({"data": {"b": 1}}, ServerAnswers()),
        ([], ServerAnswers()),
        (None, ServerAnswers()),
    ],
)
def test_e10_what_is_read_of_a_list_of_models(said: Any, told: ServerAnswers) -> None:
    assert read_answers(json.dumps(said).encode(), "b") == told
