"""OpenTelemetry: a span for each job and each request, and metrics, by its conventions for generative AI.

    telemetry = Telemetry()                                    # the providers that the program has set
    embedder = Embedder("openai:text-embedding-3-small", on_event=telemetry)
    telemetry.watch(embedder)                                  # the queue, requests in flight, the cache

The span of a job is current while the job runs, so that what it does is below it; a request of queries is below the
span that was current where its first query was asked. The names are those of version 0.1.0 of the conventions: a
request is a `gen_ai.client.embeddings` span, with its duration and its tokens in the two metrics that embeddings have
there. What they have no name for begins with `aembed.`. No text, vector, key or id is in any of it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextvars import Token
from time import time_ns
from typing import Any, TypeAlias
from weakref import ref

from opentelemetry import context, metrics, trace
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from aembed.embedder import Embedder
from aembed.events import (
    BatchCollected,
    BatchSubmitted,
    Event,
    JobBegan,
    JobEnded,
    OutageBegan,
    OutageEnded,
    RequestAnswered,
    RequestFailed,
    RequestRefused,
    RequestRetried,
    RequestStarted,
)
from aembed.results import Stats

Attributes: TypeAlias = dict[str, str | int]
Place: TypeAlias = tuple[str, str, str, int | None]
"""Provider, model, address and port."""

# As the conventions name them; all others are named as aembed names them.
PROVIDERS = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
}
# Those that the conventions ask for.
SECONDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
TOKENS = [4**power for power in range(14)]
COUNTS = ("inputs", "stored", "unchanged", "failed", "pending", "submitted", "requests", "retries", "billed_tokens")
"""What the span of a job has of its report."""


class Telemetry:
    """An `on_event` that makes spans and metrics. Without arguments it uses the global providers of OpenTelemetry.

    One may serve any number of Embedders of one event loop.
    """

    def __init__(
        self, *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self._tracer = trace.get_tracer("aembed", tracer_provider=tracer_provider)
        meter = self._meter = metrics.get_meter("aembed", meter_provider=meter_provider)
        self._open = dict[int, list[tuple[int, RequestStarted | RequestRetried]]]()
        """Of each request: how it began, and when it was retried (nanoseconds since 1970)."""
        self._jobs = dict[int, tuple[Span, Token[context.Context]]]()
        self._watched = list[ref[Embedder]]()
        self._known = dict[Place, Attributes]()
        self._known_answers = dict[tuple[Place, str], Attributes]()
        self._duration = meter.create_histogram(
            "gen_ai.client.embeddings.duration",
            "s",
            "GenAI client embeddings operation duration.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.embeddings.operation.input_tokens",
            "{token}",
            "The number of input tokens used per embeddings operation.",
            explicit_bucket_boundaries_advisory=TOKENS,
        )
        # It is summed up here, since the SDK takes 20 us to add a number.
        self._costs = defaultdict[Place, float](float)
        meter.create_observable_counter(
            "aembed.client.cost", [self._observe_costs], "{USD}", "What requests and batches have cost."
        )
        self._refused = meter.create_counter("aembed.client.refusals", "{request}", "Tries that a limit has refused.")
        self._retried = meter.create_counter("aembed.client.retries", "{request}", "Requests that were sent again.")
        self._outages = meter.create_up_down_counter("aembed.client.outages", "{address}", "Addresses that are away.")
        self._batches = meter.create_counter("aembed.client.batches", "{batch}", "Batches, by what became of them.")

    def __call__(self, event: Event) -> None:
        match event:
            case RequestStarted():
                if event.try_number == 1:
                    self._open[event.request] = [(time_ns(), event)]
            case RequestAnswered():
                self._end_answered(event)
            case RequestRefused():
                self._refused.add(1, self._of(event))
            case RequestRetried():
                self._retried.add(1, {**self._of(event), "error.type": event.error})
                if event.request in self._open:
                    self._open[event.request].append((time_ns(), event))
            case RequestFailed():
                known = {**self._of(event), "error.type": event.error}
                self._duration.record(event.total_seconds, known)
                self._make_span(event, known, _status(event))
            case JobBegan():
                self._begin_job(event)
            case JobEnded():
                self._end_job(event)
            case OutageBegan():
                self._outages.add(1, self._of(event))
            case OutageEnded():
                self._outages.add(-1, self._of(event))
            case BatchSubmitted():
                self._batches.add(1, {**self._of(event), "aembed.batch.status": "submitted"})
            case BatchCollected():
                self._batches.add(1, {**self._of(event), "aembed.batch.status": event.status})
                self._costs[_place(event)] += event.cost_usd or 0.0

    def watch(self, embedder: Embedder) -> None:
        """Measures the queue, the requests in flight and the cache of that Embedder, as long as it is there."""
        self._watched.append(ref(embedder))
        if len(self._watched) > 1:
            return
        meter = self._meter
        for name, value, unit, told in (
            ("queue.size", lambda stats: stats.waiting, "{query}", "Queries that are not on their way yet."),
            ("requests.in_flight", lambda stats: stats.in_flight, "{request}", "Requests that are on their way."),
        ):
            meter.create_observable_up_down_counter(f"aembed.client.{name}", [self._observe(value)], unit, told)
        for name, value, unit, told in (
            ("cache.hits", lambda stats: stats.cache.hits, "{query}", "Queries whose vector was in memory."),
            ("cache.misses", lambda stats: stats.cache.misses, "{query}", "Queries whose vector was not in memory."),
        ):
            meter.create_observable_counter(f"aembed.client.{name}", [self._observe(value)], unit, told)

    def _observe(self, value: Callable[[Stats], int]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        """Of the Embedders of one model the sum, as they have the same attributes."""

        def observed(_: CallbackOptions) -> Iterable[Observation]:
            found = Counter[tuple[str, str]]()
            for watched in [*self._watched]:
                if embedder := watched():
                    found[embedder.space.provider, embedder.space.model] += value(embedder.stats())
            return [
                Observation(
                    number,
                    {"gen_ai.provider.name": PROVIDERS.get(provider, provider), "gen_ai.request.model": model},
                )
                for (provider, model), number in found.items()
            ]

        return observed

    # requests

    def _end_answered(self, event: RequestAnswered) -> None:
        key = _place(event), event.response_model
        if key not in self._known_answers:
            told_model = {"gen_ai.response.model": event.response_model} if event.response_model else {}
            self._known_answers[key] = {**self._of(event), **told_model}
        known = self._known_answers[key]
        self._duration.record(event.total_seconds, known)
        self._tokens.record(event.billed_tokens, known)
        told: dict[str, Any] = {
            "gen_ai.usage.input_tokens": event.billed_tokens,
            "gen_ai.embeddings.dimension.count": event.dimensions,
        }
        if event.cost_usd is not None:
            self._costs[_place(event)] += event.cost_usd
            told["aembed.cost_usd"] = event.cost_usd
        self._make_span(event, known, told)

    def _make_span(self, event: RequestAnswered | RequestFailed, known: Attributes, told: Mapping[str, Any]) -> None:
        """Makes it at its end, with all that it has: half as dear as to begin it and to add to it later."""
        (began, started), *retries = self._open.pop(event.request, [(time_ns(), event)])
        waited = started.waited if isinstance(started, RequestStarted) else 0.0
        span = self._tracer.start_span(
            f"embeddings {event.model}",
            kind=SpanKind.CLIENT,
            start_time=began,
            attributes={
                **known,
                **told,
                "aembed.input_type": event.input_type,
                "aembed.texts": event.texts,
                "aembed.tries": event.try_number,
                "aembed.waited": waited,
            },
        )
        for at, retry in retries:
            if isinstance(retry, RequestRetried):
                told = {"error.type": retry.error, "aembed.pause": retry.pause, **_status(retry)}
                span.add_event("aembed.retry", told, at)
        if isinstance(event, RequestFailed):
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    # jobs

    def _begin_job(self, event: JobBegan) -> None:
        known = {**self._of(event), "aembed.verb": event.verb}
        del known["gen_ai.operation.name"]  # or its requests would be counted once more
        span = self._tracer.start_span(f"{event.verb} {event.model}", attributes=known)
        self._jobs[event.job] = span, context.attach(trace.set_span_in_context(span))

    def _end_job(self, event: JobEnded) -> None:
        if event.job not in self._jobs:
            return
        span, token = self._jobs.pop(event.job)
        context.detach(token)
        span.set_attributes({f"aembed.{name}": getattr(event.counts, name) for name in COUNTS})
        if event.counts.cost_usd is not None:
            span.set_attribute("aembed.cost_usd", event.counts.cost_usd)
        if event.error:
            span.set_attribute("error.type", event.error)
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    # attributes

    def _observe_costs(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(cost, self._known_at(place)) for place, cost in [*self._costs.items()]]

    def _of(self, event: Event) -> Attributes:
        return self._known_at(_place(event))

    def _known_at(self, place: Place) -> Attributes:
        """What all spans and metrics of an address have; one dict for each address, which nobody changes."""
        if (known := self._known.get(place)) is None:
            provider, model, address, port = place
            known = self._known[place] = {
                "gen_ai.operation.name": "embeddings",
                "gen_ai.provider.name": PROVIDERS.get(provider, provider),
                "gen_ai.request.model": model,
            }
            if address:
                known["server.address"] = address
            if port:
                known["server.port"] = port
        return known


def _place(event: Event) -> Place:
    return event.provider, event.model, event.address, event.port


def _status(event: RequestRetried | RequestFailed) -> dict[str, int]:
    return {} if event.status is None else {"http.response.status_code": event.status}
