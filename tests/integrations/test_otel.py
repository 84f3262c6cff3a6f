"""The spans and metrics that OpenTelemetry's own SDK gets from ours. `nox -s integrations` runs this, too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from aembed import BadRequestError, Embedder, FakeProvider, Hints, MemoryStore, RateLimitError, UnavailableError
from tests.jobs import records, words
from tests.service.server import Server
from tests.stage.clock import run_virtual

sdk = pytest.importorskip("opentelemetry.sdk")
from opentelemetry.sdk.metrics import MeterProvider  # noqa: E402
from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: E402
from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402
from opentelemetry.trace import SpanKind, StatusCode, get_current_span  # noqa: E402

from aembed.integrations.otel import Telemetry  # noqa: E402

SECRET = "sk-nobody-may-see-this"


class Seen:
    """What the SDK has got."""

    def __init__(self) -> None:
        self._exporter, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader])
        self.telemetry = Telemetry(tracer_provider=self.tracers, meter_provider=self.meters)

    def spans(self, name: str = "") -> list[Any]:
        return [span for span in self._exporter.get_finished_spans() if span.name.startswith(name)]

    def metrics(self) -> dict[str, list[Any]]:
        """The data points of each metric, by its name."""
        data: Any = self._reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def seen() -> Iterator[Seen]:
    seen = Seen()
    yield seen
    seen.tracers.shutdown()
    seen.meters.shutdown()


async def test_a_request_and_its_metrics_are_as_the_conventions_have_them(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Server() as server:
        options: dict[str, Any] = {"api_key": SECRET, "base_url": server.url, "on_event": seen.telemetry}
        async with Embedder("openai:text-embedding-3-small", **options) as embedder:
            await embedder.embed_query("a query that nobody may see")
        billed, port = server.ledger.billed_tokens, int(server.url.rpartition(":")[2].partition("/")[0])
    known = {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "text-embedding-3-small",
        "server.address": "127.0.0.1",
        "server.port": port,
    }
    (span,) = seen.spans()
    assert (span.name, span.kind) == ("embeddings text-embedding-3-small", SpanKind.CLIENT)
    assert known.items() <= span.attributes.items()
    assert span.attributes["gen_ai.usage.input_tokens"] == billed
    assert span.attributes["gen_ai.embeddings.dimension.count"] == 1_536
    assert span.attributes["gen_ai.response.model"] == "text-embedding-3-small"
    assert span.status.status_code is StatusCode.UNSET
    metrics = seen.metrics()
    (duration,), (tokens,) = (
        metrics["gen_ai.client.embeddings.duration"],
        metrics["gen_ai.client.embeddings.operation.input_tokens"],
    )
    answered = {**known, "gen_ai.response.model": "text-embedding-3-small"}
    assert dict(duration.attributes) == dict(tokens.attributes) == answered
    assert duration.count == 1
    assert duration.sum == pytest.approx((span.end_time - span.start_time) / 1e9, abs=0.02)
    assert duration.explicit_bounds[:3] == (0.01, 0.02, 0.04)
    assert (tokens.sum, tokens.explicit_bounds[:3]) == (billed, (1, 4, 16))
    assert span.attributes["aembed.waited"] >= 0.0
    shown = f"{span.to_json()} {metrics}"
    assert SECRET not in shown
    assert "nobody may see" not in shown


def test_a_request_that_is_retried_is_one_span_and_one_that_fails_has_its_error(seen: Seen) -> None:
    refusal = RateLimitError("slow down", status_code=429, hints=Hints(retry_after=2.0))

    def script(number: int, texts: Any) -> Exception | None:
        if number == 0:
            return refusal
        return BadRequestError(f"no {texts}", status_code=400) if "bad" in texts else None

    provider = FakeProvider(latency=0.5, price_usd=1_000.0, script=script)

    async def test() -> None:
        async with Embedder(provider, on_event=seen.telemetry) as embedder:
            await embedder.embed_documents(words(3))
            assert len((await embedder.embed_documents(["bad", "good"])).failures) == 1

    run_virtual(test)
    retried, *others = seen.spans("embeddings")
    (event,) = retried.events
    assert (event.name, event.attributes["error.type"]) == ("aembed.retry", "RateLimitError")
    assert event.attributes["http.response.status_code"] == 429
    assert event.attributes["aembed.pause"] >= 2.0
    assert (retried.attributes["aembed.tries"], retried.status.status_code) == (2, StatusCode.UNSET)
    failed = [span for span in others if span.status.status_code is StatusCode.ERROR]
    assert {span.attributes["error.type"] for span in failed} == {"BadRequestError"}
    assert all("bad" not in span.to_json() for span in seen.spans())
    metrics = seen.metrics()
    assert metrics["aembed.client.refusals"][0].value == metrics["aembed.client.retries"][0].value == 1
    durations = {
        point.attributes.get("error.type"): point.count for point in metrics["gen_ai.client.embeddings.duration"]
    }
    assert durations["BadRequestError"] == len(failed)
    assert sum(durations.values()) == len(seen.spans("embeddings")) == provider.ledger.requests - 1
    assert metrics["aembed.client.cost"][0].value == pytest.approx(provider.ledger.billed_tokens / 1_000)


async def test_requests_are_below_their_job_and_that_below_the_span_of_its_caller(seen: Seen) -> None:
    provider, tracer = FakeProvider(), seen.tracers.get_tracer("the program's")
    async with Embedder(provider, on_event=seen.telemetry, max_batch_size=5) as embedder:
        with tracer.start_as_current_span("import") as caller:
            report = await embedder.embed_into(MemoryStore(), records(words(20)))
            assert get_current_span() is caller
            async with embedder.stream(words(3)) as results:
                assert len([result async for result in results]) == 3
        with tracer.start_as_current_span("GET /search") as asking:
            await embedder.embed_query("a query")
        assert not get_current_span().get_span_context().is_valid
    (job,), (stream,) = seen.spans("embed_into"), seen.spans("stream")
    assert job.parent.span_id == stream.parent.span_id == caller.get_span_context().span_id
    assert job.kind is SpanKind.INTERNAL
    assert (job.attributes["aembed.stored"], job.attributes["aembed.requests"]) == (20, report.requests)
    assert "gen_ai.operation.name" not in job.attributes
    parents = [span.parent.span_id for span in seen.spans("embeddings")]
    assert parents.count(job.context.span_id) == 4
    assert parents.count(stream.context.span_id) == 1
    assert parents.count(asking.get_span_context().span_id) == 1
    assert {span.context.trace_id for span in seen.spans("embeddings")} == {
        caller.get_span_context().trace_id,
        asking.get_span_context().trace_id,
    }


def test_a_job_that_stops_and_an_outage_are_seen(seen: Seen) -> None:
    provider = FakeProvider(latency=0.1, script=lambda number, texts: UnavailableError("away") if number < 20 else None)
    during = list[int]()

    async def test() -> None:
        def note(event: Any) -> None:
            seen.telemetry(event)
            if type(event).__name__.startswith("Outage"):
                during.append(seen.metrics()["aembed.client.outages"][0].value)

        async with Embedder(provider, on_event=note, max_batch_size=2) as embedder:
            assert not (await embedder.embed_documents(words(20))).failures
            provider.script = lambda number, texts: ValueError("a mistake of the provider's own")
            with pytest.raises(Exception, match="unexpected ValueError"):
                await embedder.embed_documents(["text"])

    run_virtual(test)
    assert during == [1, 0]
    well, stopped = seen.spans("embed_documents")
    assert (well.status.status_code, stopped.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)
    assert stopped.attributes["error.type"] == "AembedError"


async def test_the_queue_and_the_cache_are_measured_while_the_embedder_is_there(seen: Seen) -> None:
    provider = FakeProvider()
    embedder, other = (Embedder(provider, on_event=seen.telemetry, cache_bytes=1_000_000) for _ in range(2))
    seen.telemetry.watch(embedder)
    seen.telemetry.watch(other)
    await other.embed_query("the same")
    for _ in range(3):
        await embedder.embed_query("the same")
    await embedder.aclose()
    await other.aclose()
    metrics = seen.metrics()
    assert metrics["aembed.client.cache.hits"][0].value == 2
    assert metrics["aembed.client.cache.misses"][0].value == 2  # of both
    assert metrics["aembed.client.queue.size"][0].value == 0
    assert metrics["aembed.client.requests.in_flight"][0].value == 0
    assert dict(metrics["aembed.client.queue.size"][0].attributes) == {
        "gen_ai.provider.name": "fake",
        "gen_ai.request.model": "fake",
    }
    del embedder, other
    assert "aembed.client.queue.size" not in seen.metrics()


async def test_without_any_provider_nothing_is_made_and_nothing_breaks() -> None:
    async with Embedder(FakeProvider(), on_event=Telemetry()) as embedder:
        assert not (await embedder.embed_documents(words(5))).failures
