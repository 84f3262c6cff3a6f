"""What the processes of tests/simulation/batches.py see of the service and of the file, for as long as they live."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from random import Random
from uuid import UUID

import httpx

from aembed import Embedder
from aembed.batch_protocols import BatchTerms
from aembed.core import batch_queue
from aembed.pipeline.batch_jobs import submitting
from aembed.providers._http import _upload
from aembed.providers.openai import OpenAIProvider
from tests.service.batches.openai import OpenAIWire
from tests.service.in_process import DIMENSIONS, KEY, MODEL, InProcess, inline
from tests.service.server import Latency
from tests.service.service import Exchange, Service
from tests.simulation.batches_drawn import DAY
from tests.simulation.files import Process
from tests.simulation.world import ProcessIsDeadError

EPOCH = 1e9
"""What the clocks of jobs, files and service say at moment 0."""
TERMS = BatchTerms(
    max_texts_per_line=4,
    max_tokens_per_line=1_000,
    max_texts_per_file=20,
    max_lines_per_file=100,
    max_bytes_per_file=100_000,
    price_factor=0.5,
    window_seconds=DAY,
)


class Provider(Service):
    """The live half of the service; of what it has billed to whom, it knows what went to a process that was killed."""

    def __init__(self) -> None:
        super().__init__()
        self.sent_by: list[tuple[Process, list[bytes]]] = []

    def lost(self) -> Counter[bytes]:
        return Counter(key for process, keys in self.sent_by if process.is_dead for key in keys)


class OfOneProcess(InProcess):
    """What one process reaches of the service: nothing any more once it is dead."""

    def __init__(self, service: Provider, wire: OpenAIWire, process: Process) -> None:
        super().__init__(_Noting(service, process), Latency(1.0, sigma=0.3), batches=wire)
        self._process = process

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._process.is_dead:
            raise ProcessIsDeadError
        response = await super().handle_async_request(request)
        if self._process.is_dead:
            raise ProcessIsDeadError
        return response


class _Noting(Service):
    def __init__(self, service: Provider, process: Process) -> None:
        super().__init__()
        self._service, self._process = service, process

    def receive(self, headers: Mapping[str, str], body: bytes, now: float) -> Exchange:
        exchange = self._service.receive(headers, body, now)
        if exchange.call and exchange.billed:
            self._service.sent_by.append((self._process, list(exchange.call.digests)))
        return exchange

    def leave(self, exchange: Exchange, *, intact: bool) -> None:
        self._service.leave(exchange, intact=intact)


@asynccontextmanager
async def embedder_of(
    service: Provider, wire: OpenAIWire, process: Process, skew: float, seed: int
) -> AsyncIterator[Embedder]:
    """Its clock is wrong by `skew` seconds."""
    async with httpx.AsyncClient(transport=OfOneProcess(service, wire, process)) as client:
        provider = OpenAIProvider(
            MODEL,
            api_key=KEY,
            base_url="https://in-process.test/v1",
            dimensions=DIMENSIONS,
            http_client=client,
            run_in_thread=inline,
        )
        assert provider.service.batches
        provider.service = replace(provider.service, batches=replace(provider.service.batches, terms=TERMS))
        async with Embedder(provider, concurrency=2, max_batch_size=4) as embedder:
            engine, loop = embedder._engine, asyncio.get_running_loop()
            engine.random, engine.run_in_thread = Random(seed), inline
            engine.clock = lambda: EPOCH + loop.time() + skew
            yield embedder


@contextmanager
def small_world(random: Random) -> Iterator[None]:
    """Files are uploaded in no thread, which virtual time has not; a queue of few tokens is believed; keys are drawn
    from a seed."""
    usual = _upload.run_in_thread, batch_queue.LEAST_QUEUE_TOKENS, submitting.uuid4
    _upload.run_in_thread, batch_queue.LEAST_QUEUE_TOKENS = inline, 10  # type: ignore[assignment]
    submitting.uuid4 = lambda: UUID(int=random.getrandbits(128))
    try:
        yield
    finally:
        _upload.run_in_thread, batch_queue.LEAST_QUEUE_TOKENS, submitting.uuid4 = usual
