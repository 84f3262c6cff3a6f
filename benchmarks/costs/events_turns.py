"""One contestant of events.py, in a process of its own and maybe of an earlier build: it imports nothing but aembed.

It reads how many requests to make, and writes how many seconds of CPU time that took, until it is ended.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import count
from time import process_time
from typing import Any

import numpy as np

from aembed import Embedder, FakeProvider, Reply, Usage
from aembed.types import InputType

DIMENSIONS = 1_536
numbers = count()


class Instant(FakeProvider):
    """Its vectors are none of the texts, and are made once."""

    vectors = np.random.default_rng(1).standard_normal((1, DIMENSIONS), np.float32)

    async def embed(self, texts: Sequence[str], *, input_type: InputType) -> Reply:
        return Reply(self.vectors.copy(), self.space.model, Usage(4))


def listener(kind: str) -> Any:
    """The function that is told, as a program would make it."""
    if kind == "counts":
        seen = Counter[type]()

        def note(event: object) -> None:
            seen[type(event)] += 1

        return note
    from aembed.integrations.otel import Telemetry

    if kind == "otel without SDK":
        return Telemetry()
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Drops(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(Drops()))
    return Telemetry(tracer_provider=tracers, meter_provider=MeterProvider([InMemoryMetricReader()]))


async def ask(embedder: Embedder, requests: int) -> None:
    for _ in range(requests):
        await embedder.embed_query(f"question {next(numbers)}")


async def fill(embedder: Embedder, requests: int) -> None:
    assert not (await embedder.embed_documents([f"text {next(numbers)}" for _ in range(requests)])).failures


async def main(part: str, kind: str) -> None:
    options: dict[str, Any] = {} if kind == "none" else {"on_event": listener(kind)}
    model = Instant(dimensions=DIMENSIONS) if part == "bulk" else "openai:text-embedding-3-small"
    work = fill if part == "bulk" else ask
    async with Embedder(model, max_batch_size=1, **options) as embedder:
        while asked := await asyncio.to_thread(sys.stdin.readline):
            began = process_time()
            await work(embedder, int(asked))
            print(process_time() - began, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
