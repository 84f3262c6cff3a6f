"""Those who look on as requests go out: hooks and auth of a user's client, instrumentations, mocks. Real sockets."""

from __future__ import annotations

import base64
import gzip
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import httpx2
import pytest
import respx
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aembed import Embedder, NotFoundError, ProviderError, UnavailableError
from aembed.providers._http import HTTP, HTTPReply
from aembed.providers._http._watching import is_watched
from tests.hostile.jobs import at, embed, numbers
from tests.hostile.jobs import serving as simulated
from tests.providers.clients import Watched
from tests.providers.raw_server import RawServer, reply, serving, then_close
from tests.service.faults import Plan, Status

MB = 1_000_000
HEADERS = {"content-type": "application/json", "authorization": "Bearer sk-ours"}
both_libraries = pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])


async def post(made: HTTP, server: RawServer) -> HTTPReply:
    return await made.post(f"{server.url}/embeddings", HEADERS, b"{}", most_bytes=MB)


@asynccontextmanager
async def own() -> AsyncIterator[HTTP]:
    made = HTTP(concurrency=4)
    try:
        yield made
    finally:
        await made.aclose()


@both_libraries
async def test_the_hooks_of_a_client_see_each_request_and_each_reply(library: Any) -> None:
    seen: list[str] = []

    async def asked(request: Any) -> None:
        seen.append(f"{request.method} {request.url.path}")

    async def answered(response: Any) -> None:
        seen.append(f"{response.status_code}")

    hooks = {"request": [asked], "response": [answered]}
    async with serving(reply(b"fine"), reply(b"no", 500)) as server, library.AsyncClient(event_hooks=hooks) as client:
        made = HTTP(concurrency=2, http_client=client)
        assert (await post(made, server)).body == b"fine"
        assert (await post(made, server)).body == b"no"
    assert seen == ["POST /v1/embeddings", "200", "POST /v1/embeddings", "500"]


@both_libraries
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_a_hook_that_reads_the_reply_takes_it_from_nobody(library: Any, encoding: str) -> None:
    read: list[bytes] = []

    async def answered(response: Any) -> None:
        read.append(await response.aread())

    body = b'{"data": []}' * 50_000
    said = reply(gzip.compress(body) if encoding == "gzip" else body, headers={"content-encoding": encoding})
    async with serving(said) as server, library.AsyncClient(event_hooks={"response": [answered]}) as client:
        assert (await post(HTTP(concurrency=2, http_client=client), server)).body == body
    assert read == [body]


@both_libraries
async def test_a_hook_that_raises_is_not_taken_for_the_network(library: Any) -> None:
    async def refuse(request: Any) -> None:
        raise RuntimeError("not today")

    async with serving(reply()) as server, library.AsyncClient(event_hooks={"request": [refuse]}) as client:
        with pytest.raises(RuntimeError, match="not today"):
            await post(HTTP(concurrency=2, http_client=client), server)
        assert server.requests == []


@both_libraries
async def test_the_auth_of_a_client_may_send_a_request_again(library: Any) -> None:
    class Refreshed(library.Auth):  # type: ignore[misc]
        requires_response_body = True

        def auth_flow(self, request: Any) -> Generator[Any, Any, None]:
            request.headers["authorization"] = "Bearer old"
            response = yield request
            if response.status_code == 401:
                request.headers["authorization"] = f"Bearer {response.text}"
                yield request

    async with serving(reply(b"new", 401), reply(b"fine")) as server, library.AsyncClient(auth=Refreshed()) as client:
        got = await post(HTTP(concurrency=2, http_client=client), server)
    assert (got.status, got.body) == (200, b"fine")
    assert [sent.headers["authorization"] for sent in server.requests] == ["Bearer old", "Bearer new"]
    assert [sent.body for sent in server.requests] == [b"{}", b"{}"]


@both_libraries
async def test_the_headers_parameters_and_user_of_a_client_are_sent(library: Any) -> None:
    options: dict[str, Any] = {"headers": {"x-team": "search"}, "params": {"api-version": "1"}, "auth": ("me", "pass")}
    async with serving(reply(b"fine")) as server, library.AsyncClient(**options) as client:
        await post(HTTP(concurrency=2, http_client=client), server)
    (sent,) = server.requests
    assert (sent.target, sent.headers["x-team"]) == ("/v1/embeddings?api-version=1", "search")
    assert sent.headers["authorization"] == f"Basic {base64.b64encode(b'me:pass').decode()}"


@both_libraries
async def test_a_client_that_answers_by_itself_is_taken_at_its_word(library: Any) -> None:
    def answer(request: Any) -> Any:
        return library.Response(200, json={"said": request.url.path})

    async with library.AsyncClient(transport=library.MockTransport(answer)) as client:
        made = HTTP(concurrency=1, http_client=client)
        got = await made.post("https://api.test/v1/embeddings", HEADERS, b"{}", most_bytes=MB)
    assert got.body.replace(b" ", b"") == b'{"said":"/v1/embeddings"}'


# what is patched into httpx


@pytest.fixture
def spans() -> Iterator[Callable[[], list[tuple[str, str, int]]]]:
    """OpenTelemetry's instrumentation of httpx, as a program switches it on; and what it has seen."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = HTTPXClientInstrumentor()
    instrumentor.instrument(tracer_provider=provider)

    def seen() -> list[tuple[str, str, int]]:
        finished = exporter.get_finished_spans()
        named = [span.attributes or {} for span in finished]
        return [
            (span.name, str(each["http.url"]), int(str(each.get("http.status_code", 0))))
            for span, each in zip(finished, named, strict=True)
        ]

    yield seen
    instrumentor.uninstrument()


async def test_opentelemetry_sees_every_request(spans: Callable[[], list[tuple[str, str, int]]]) -> None:
    async with simulated(Plan(None, Status(500))) as server, at(server, max_batch_size=50, concurrency=1) as embedder:
        assert (await embed(embedder, numbers(200))).report.stored == 200
        await embedder.embed_query("a query")
        url = f"{server.url}/embeddings"
    assert spans() == [("POST", url, status) for status in (200, 500, 200, 200, 200, 200)]


async def test_respx_answers_in_the_place_of_the_provider() -> None:
    """As in the tests of programs that use aembed."""
    told = {"data": [{"index": 0, "embedding": [1.0] + [0.0] * 7}]}
    async with Embedder("openai:m", api_key="sk-x", base_url="https://api.test/v1", dimensions=8) as embedder:
        with respx.mock(base_url="https://api.test") as mock:
            route = mock.post("/v1/embeddings").respond(json=told)
            assert list(await embedder.embed_query("text")) == [1.0] + [0.0] * 7
            assert route.call_count == 1


async def test_nobody_looks_on_unless_somebody_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_watched()
    with monkeypatch.context() as patch:
        patch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", lambda self, request: None)
        assert is_watched()
    assert not is_watched()


async def test_whatever_is_patched_into_the_client_sees_requests_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first request or after it, and no longer than it is patched."""
    async with simulated() as server, at(server, max_batch_size=50) as embedder:
        await embed(embedder, numbers(50))
        with monkeypatch.context() as patch:
            watched = Watched()
            patch.setattr(httpx.AsyncClient, "send", watched.send)
            assert (await embed(embedder, numbers(200, start=100))).report.stored == 200
            await embedder.embed_query("a query")
        await embedder.embed_query("another")
    assert watched.seen == ["POST /v1/embeddings"] * 5


async def test_whatever_is_patched_into_the_transport_sees_them_and_may_read_replies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, read = httpx.AsyncHTTPTransport.handle_async_request, []

    async def handle(transport: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        assert request.headers["content-type"] == "application/json"
        response = await real(transport, request)
        read.append(await response.aread())
        return response

    body = bytes(range(256)) * 20_000
    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle)
    async with serving(reply(body), then_close(reply(body, length=False))) as server, own() as made:
        for _ in range(2):
            got = await made.post(f"{server.url}/embeddings", HEADERS, b"{}", most_bytes=6 * MB)
            assert got.body == body
        assert server.connections == 1
    assert read == [body, body]


async def test_a_patched_transport_may_answer_in_the_place_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    async def handle(transport: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        return httpx.Response(404, json={"error": {"message": f"no {request.url.path}"}})

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle)
    async with simulated() as server, at(server) as embedder:
        with pytest.raises(NotFoundError, match="no /v1/embeddings"):
            await embedder.embed_documents(["text"])
        assert server.ledger.requests == 0


async def test_errors_come_to_onlookers_as_those_of_httpx(monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = httpx.AsyncHTTPTransport.handle_async_request, []

    async def handle(transport: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        try:
            return await real(transport, request)
        except Exception as error:
            seen.append(type(error))
            raise

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle)
    async with serving(then_close(), then_close(b"SSH-2.0\r\n\r\n")) as server, own() as made:
        for _ in range(2):
            with pytest.raises(UnavailableError, match="broke"):
                await post(made, server)
        with pytest.raises(UnavailableError, match="no connection") as raised:
            await made.post("http://127.0.0.1:1/v1", HEADERS, b"{}", most_bytes=MB)
        with pytest.raises(ProviderError, match="could not be built"):
            await made.post(f"{server.url}/x", {"x-bad": "a\nb"}, b"{}", most_bytes=MB)
    assert raised.value.unsent
    assert seen == [httpx.RemoteProtocolError, httpx.RemoteProtocolError, httpx.ConnectError, httpx.LocalProtocolError]
