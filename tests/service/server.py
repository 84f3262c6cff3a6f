"""A simulated OpenAI embeddings service over real sockets, with a ledger that judges its clients.

    async with Server(limits=RateLimits.of("fixed", 3_000, 1_000_000)) as server:
        ...                     # server.url is the base URL of a client, server.ledger the judge

    python -m tests.service.server --port 0 --latency 1      # its first line is the base URL

`POST /v1/embeddings`, `GET /v1/models`, the batch API (tests/service/batches); and for tests `GET /ledger`,
`GET /ledger/texts` (how often each text was billed) and `POST /script` (tests/service/control.py has its fields). Their
URL is the base URL without `/v1`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import signal
import ssl
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import msgspec

from tests.service import refusals
from tests.service.batches.delivery import deliver_answer
from tests.service.batches.openai import OpenAIWire
from tests.service.batches.provider import Batches
from tests.service.batches.wire import Answer, Request
from tests.service.connection import Connection, Head
from tests.service.control import apply, apply_to_batches
from tests.service.delivery import deliver, intact, message
from tests.service.faults import Faults, Script
from tests.service.ledger import Ledger
from tests.service.limits import RateLimits
from tests.service.service import Exchange, Rules, Service, above
from tests.service.windows import WINDOWS

_SAVE_EVERY = 1.0


@dataclass(frozen=True, slots=True)
class Latency:
    """`scale` 1 is the real service as recorded: 78 ms + 22 us a token. `sigma` spreads it lognormally (`fixed` alone
    unless `tokens_vary`), by the seed and by how many requests came since the one with the number `first`."""

    scale: float = 0.0
    fixed: float = 0.078
    per_token: float = 22e-6
    sigma: float = 0.0
    seed: int = 0
    first: int = 0
    tokens_vary: bool = True

    def seconds(self, tokens: int, number: int) -> float:
        fixed, rest = self.scale * self.fixed, self.scale * self.per_token * tokens
        if not self.sigma:
            return fixed + rest
        drawn = math.exp(Random(self.seed * 1_000_003 + number - self.first).gauss(0.0, self.sigma))
        return fixed * drawn + rest * (drawn if self.tokens_vary else 1.0)


class Server:
    """Listens while its context is open. Script, limits and latency may be changed at any time."""

    def __init__(
        self,
        *,
        rules: Rules | None = None,
        limits: RateLimits | None = None,
        script: Script | None = None,
        latency: Latency = Latency(),
        rate_headers: bool = True,
        retry_after: bool = True,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.service = Service(rules or Rules(), limits, script, rate_headers=rate_headers, retry_after=retry_after)
        self.batches = Batches(self.service.rules, lambda: self.service.ledger, epoch=time.time())
        self.batch_wire = OpenAIWire(self.batches)
        self.latency = latency
        self.host, self.port, self._tls = host, port, tls
        self._answering: dict[Connection, asyncio.Task[None]] = {}
        self._open: set[Connection] = set()
        self._batch_answers = 0

    @property
    def ledger(self) -> Ledger:
        return self.service.ledger

    @property
    def root(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """What a client takes as its base URL."""
        return f"{self.root}/v1"

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._open)

    async def __aenter__(self) -> Server:
        loop = asyncio.get_running_loop()
        self.batches.epoch = time.time() - loop.time()
        self._listener = await loop.create_server(self._accept, self.host, self.port, ssl=self._tls, backlog=1_024)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        answering = list(self._answering.values())
        for connection in list(self._open):
            if connection.is_made:
                connection.transport.abort()
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)
        await self._listener.wait_closed()

    def _accept(self) -> Connection:
        connection = Connection(self._received, self._gone)
        self._open.add(connection)
        return connection

    def _gone(self, connection: Connection) -> None:
        self._open.discard(connection)
        if task := self._answering.get(connection):
            task.cancel()

    def _received(self, connection: Connection, head: Head, body: bytes) -> None:
        if head.method == "POST" and head.path == "/v1/embeddings":
            self._embed(connection, head, body)
            return
        request = Request.of(head.method, head.path, head.headers, body)
        if found := self.batch_wire.routes.answer(request, asyncio.get_running_loop().time()):
            self._deliver_batch(connection, head, found)
            return
        code, answer = self._answer(head, body)
        connection.transport.write(message(answer, code))
        connection.finish(keep_alive=head.keeps_alive)

    def _embed(self, connection: Connection, head: Head, body: bytes) -> None:
        exchange = self.service.receive(head.headers, body, asyncio.get_running_loop().time())
        tokens = exchange.tokens if exchange.billed else 0
        seconds = self.latency.seconds(tokens, exchange.number)
        task = asyncio.create_task(deliver(connection, exchange, seconds))
        self._answering[connection] = task
        task.add_done_callback(partial(self._delivered, connection, exchange, head.keeps_alive))

    def _deliver_batch(self, connection: Connection, head: Head, answer: Answer) -> None:
        self._batch_answers += 1
        task = asyncio.create_task(deliver_answer(connection, answer, self._batch_answers))
        self._answering[connection] = task

        def ended(task: asyncio.Task[None]) -> None:
            del self._answering[connection]
            if task.cancelled() or isinstance(task.exception(), ConnectionError):
                connection.close()
            elif answer.cut_after is None:
                connection.finish(keep_alive=head.keeps_alive)

        task.add_done_callback(ended)

    def _delivered(
        self, connection: Connection, exchange: Exchange, keep_alive: bool, task: asyncio.Task[None]
    ) -> None:
        del self._answering[connection]
        abandoned = task.cancelled() or isinstance(task.exception(), ConnectionError)
        self.ledger.abandoned += abandoned
        self.service.leave(exchange, intact=not abandoned and intact(exchange.fault))
        if abandoned:
            connection.close()
        elif error := task.exception():
            connection.close()
            raise error
        else:
            connection.finish(keep_alive=keep_alive)

    def _answer(self, head: Head, body: bytes) -> tuple[int, bytes]:
        match head.method, head.path:
            case "GET", "/v1/models":
                listed = [{"id": name, "object": "model", "owned_by": "openai"} for name in self.service.rules.models]
                return 200, msgspec.json.encode({"object": "list", "data": listed})
            case "GET", "/ledger":
                return 200, msgspec.json.encode(self.ledger.summary())
            case "GET", "/ledger/texts":
                return 200, msgspec.json.encode(self.ledger.texts())
            case "POST", "/script":
                return self._scripted(body)
            case method, path:
                return 404, msgspec.json.encode(refusals.error(f"Invalid URL ({method} {path})"))

    def _scripted(self, body: bytes) -> tuple[int, bytes]:
        try:
            changes = msgspec.json.decode(body)
            latency = changes.pop("latency", None)
            self.batch_wire = apply_to_batches(self.batches, self.batch_wire, changes)
            apply(self.service, changes, asyncio.get_running_loop().time())
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return 400, msgspec.json.encode(refusals.error(f"{type(error).__name__}: {error}"))
        if latency is not None:
            given = latency if isinstance(latency, dict) else {"scale": latency}
            self.latency = Latency(**given, first=self.service.received)
        return 200, b"{}"

    def save(self, path: Path) -> None:
        """The ledger as JSON; a reader never sees half of it."""
        whole = path.with_name(f"{path.name}.new")
        whole.write_bytes(msgspec.json.encode(self.ledger.summary()))
        whole.replace(path)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.service.server", description="A simulated embeddings service."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key", help="the only key it takes; default: any")
    parser.add_argument("--latency", type=float, default=0.0, help="1: 78 ms + 22 us a token; default 0: none")
    parser.add_argument("--seconds", type=float, default=Latency().fixed, help="of any request")
    parser.add_argument(
        "--seconds-per-token", type=float, default=Latency().per_token, help="beside them, at latency 1"
    )
    parser.add_argument("--sigma", type=float, default=0.0, help="spread of the latency, lognormal")
    parser.add_argument("--seed", type=int, default=0, help="of the latency's spread and of the faults")
    parser.add_argument("--fault-rate", type=float, default=0.0, help="share of requests that fail somehow")
    parser.add_argument("--window", choices=sorted(WINDOWS), default="fixed", help="how the limits are counted")
    parser.add_argument("--requests-per-minute", type=float)
    parser.add_argument("--tokens-per-minute", type=float)
    parser.add_argument("--overcount", type=float, default=0.0, help="0.005: counts 0.5 %% more than bytes / 4")
    parser.add_argument("--no-rate-headers", action="store_true")
    parser.add_argument("--ledger-file", type=Path, help="rewritten every second and at the end")
    parser.add_argument("--certificate", type=Path, help="serve TLS with this PEM file (certificate and key)")
    return parser.parse_args()


def _server(options: argparse.Namespace) -> Server:
    tls = None
    if options.certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options.certificate)
    return Server(
        rules=Rules(key=options.key, counts=above(options.overcount) if options.overcount else None),
        limits=RateLimits.of(options.window, options.requests_per_minute, options.tokens_per_minute),
        script=Faults(options.seed, options.fault_rate) if options.fault_rate else None,
        latency=Latency(
            options.latency, options.seconds, options.seconds_per_token, sigma=options.sigma, seed=options.seed
        ),
        rate_headers=not options.no_rate_headers,
        host=options.host,
        port=options.port,
        tls=tls,
    )


async def serve(options: argparse.Namespace) -> None:
    """Until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C ends the process without the last save
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with _server(options) as server:
        print(server.url, flush=True)
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _SAVE_EVERY)
            if options.ledger_file:
                server.save(options.ledger_file)


if __name__ == "__main__":
    asyncio.run(serve(_options()))
