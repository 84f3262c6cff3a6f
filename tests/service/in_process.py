"""The simulated service behind an httpx client, without sockets: all but the network is real, and so it can run on
virtual time.

    service = Service(script=Outage(60, 120))
    async with embedder_of(service, Latency(1.0), concurrency=64) as embedder: ...
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import msgspec

from aembed import Embedder
from aembed.providers._address_pool import AddressPool
from aembed.providers.openai import OpenAIProvider
from tests.service import refusals
from tests.service.batches.openai import OpenAIWire
from tests.service.batches.wire import Answer, Request
from tests.service.faults import Body, Cut, Hang, Late, Mutate, Status, Truncate
from tests.service.server import Latency
from tests.service.service import Exchange, Service

MODEL = "text-embedding-3-small"
DIMENSIONS = 48
KEY = "sk-in-process"
AT_ONCE = Latency()


class InProcess(httpx.AsyncBaseTransport):
    """`latency` is that of the server for what it bills; what it does not takes `refusal_seconds`, as does whatever is
    asked of `batches`, where there is a batch API."""

    def __init__(
        self,
        service: Service,
        latency: Latency = AT_ONCE,
        refusal_seconds: float = 0.02,
        batches: OpenAIWire | None = None,
    ) -> None:
        self.service = service
        self.batches = batches
        self.latency = latency
        self._refusal_seconds = refusal_seconds

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        now = asyncio.get_running_loop().time()
        if self.batches and (answer := self._of_batches(request, await request.aread(), now)):
            await asyncio.sleep(self._refusal_seconds)
            return _response(answer)
        exchange = self.service.receive(dict(request.headers), request.content, now)
        intact = False
        try:
            await asyncio.sleep(self._seconds(exchange))
            code, headers, body = await _answer(exchange)
            intact = isinstance(exchange.fault, Late | None) or (
                isinstance(exchange.fault, Mutate) and exchange.fault.intact
            )
        finally:
            self.service.leave(exchange, intact=intact)
        named = {"content-type": "application/json", "x-request-id": f"req_{exchange.number}", **exchange.headers}
        return httpx.Response(code, headers=named | dict(headers), stream=httpx.ByteStream(body))

    def _of_batches(self, request: httpx.Request, body: bytes, now: float) -> Answer | None:
        assert self.batches
        target = request.url.raw_path.decode("ascii")
        return self.batches.routes.answer(Request.of(request.method, target, dict(request.headers), body), now)

    def _seconds(self, exchange: Exchange) -> float:
        if not exchange.billed:
            return self._refusal_seconds
        return self.latency.seconds(exchange.tokens, exchange.number)


def _response(answer: Answer) -> httpx.Response:
    if answer.hangs:
        raise TypeError("what hangs needs a socket")
    if answer.cut_after == 0:
        raise httpx.ReadError("")
    pieces = _cut_pieces(answer) if answer.cut_after else answer.pieces()
    return httpx.Response(answer.status, headers=list(answer.headers), stream=_Pieces(pieces))


def _cut_pieces(answer: Answer) -> Iterator[bytes]:
    yield b"".join(answer.pieces())[: answer.cut_after]
    raise httpx.ReadError("")


class _Pieces(httpx.AsyncByteStream):
    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


async def _answer(exchange: Exchange) -> tuple[int, Mapping[str, str], bytes]:
    match exchange.fault:
        case None:
            return 200, {}, _proper(exchange)
        case Status(code, body, headers):
            content = refusals.usual_body(code) if body is None else body
            return code, dict(headers), content if isinstance(content, bytes) else msgspec.json.encode(content)
        case Body(content, code, content_type, headers):
            return code, {"content-type": content_type, **dict(headers)}, content
        case Late(seconds):
            await asyncio.sleep(seconds)
            return 200, {}, _proper(exchange)
        case Hang():
            await asyncio.Event().wait()
            raise AssertionError
        case Cut():
            raise httpx.ReadError("")
        case Truncate(share):
            body = _proper(exchange)
            return 200, {}, body[: int(len(body) * share)]
        case Mutate(change):
            assert exchange.call is not None
            edited: Any = change(exchange.call.as_json())
            return 200, {}, edited if isinstance(edited, bytes) else msgspec.json.encode(edited)
        case fault:
            raise TypeError(f"{type(fault).__name__} needs a socket")


def _proper(exchange: Exchange) -> bytes:
    assert exchange.call is not None
    return b"".join(exchange.call.pieces())


async def inline(function: Callable[..., Any], *arguments: Any) -> Any:
    """In the place of a thread, which virtual time has not."""
    return function(*arguments)


@asynccontextmanager
async def embedder_of(
    service: Service, latency: Latency = AT_ONCE, *, refusal_seconds: float = 0.02, **options: Any
) -> AsyncIterator[Embedder]:
    """An Embedder whose requests go to that service."""
    async with httpx.AsyncClient(transport=InProcess(service, latency, refusal_seconds)) as client:
        provider = OpenAIProvider(
            MODEL,
            api_key=KEY,
            base_url="https://in-process.test/v1",
            dimensions=DIMENSIONS,
            http_client=client,
            run_in_thread=inline,
        )
        async with Embedder(provider, **options) as embedder:
            embedder._engine.run_in_thread = inline
            yield embedder


@asynccontextmanager
async def embedder_of_pool(
    services: Sequence[Service], latency: Latency = AT_ONCE, *, refusal_seconds: float = 0.02, **options: Any
) -> AsyncIterator[Embedder]:
    """An Embedder for which each of the services is an address: a.test, b.test ..."""
    async with AsyncExitStack() as stack:
        addresses = []
        for number, service in enumerate(services):
            client = httpx.AsyncClient(transport=InProcess(service, latency, refusal_seconds))
            await stack.enter_async_context(client)
            settings: dict[str, Any] = {"http_client": client, "run_in_thread": inline, "dimensions": DIMENSIONS}
            url = f"https://{chr(ord('a') + number)}.test/v1"
            addresses.append(OpenAIProvider(MODEL, api_key=KEY, base_url=url, **settings))
        embedder = await stack.enter_async_context(Embedder(AddressPool(addresses), **options))
        embedder._engine.run_in_thread = inline
        yield embedder
