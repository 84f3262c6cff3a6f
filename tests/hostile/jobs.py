"""One job against the simulated service, on virtual time or over real sockets, and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import pytest

from aembed import AembedError, Embedder, Embeddings, Report, RetryPolicy
from tests.service.faults import Fault, Request, Script
from tests.service.in_process import DIMENSIONS, MODEL, embedder_of
from tests.service.server import Latency, Server
from tests.service.service import Service
from tests.service.vectors import vector_of
from tests.stage.clock import run_virtual

KEY = "sk-canary-Zq81mPxw30TtBv95"
QUICK = RetryPolicy(backoff_base=0.05, backoff_max=0.2)
REAL = Latency(1.0)
"""As recorded: 78 ms + 22 us a token."""
SECOND = Latency(1.0, fixed=1.0, per_token=0.0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """`error` is what stopped the job. Every vector was compared with that of its text."""

    embeddings: Embeddings
    error: AembedError | None
    seconds: float

    @property
    def report(self) -> Report:
        return self.embeddings.report

    @property
    def reasons(self) -> set[str]:
        return {type(failure.error).__name__ for failure in self.embeddings.failures}

    @property
    def failed(self) -> list[int]:
        return [failure.index for failure in self.embeddings.failures]


def numbers(n: int, start: int = 0) -> list[str]:
    """Texts of one token as the service counts, so that 2,048 of them are one batch."""
    return [f"{number:04d}" for number in range(start, start + n)]


def at(server: Any, **options: Any) -> Embedder:
    """An Embedder that talks to this server, or to a proxy before it."""
    options = {"retry": QUICK, "api_key": KEY, "dimensions": DIMENSIONS} | options
    return Embedder(f"openai:{MODEL}", base_url=server.url, **options)


async def embed(embedder: Embedder, texts: Sequence[str]) -> Outcome:
    started = asyncio.get_running_loop().time()
    error = None
    try:
        embeddings = await embedder.embed_documents(texts)
    except AembedError as stopped:
        error, embeddings = stopped, stopped.embeddings or pytest.fail("the vectors that were paid for are gone")
    assert_right(embeddings, texts)
    return Outcome(embeddings, error, asyncio.get_running_loop().time() - started)


def assert_right(embeddings: Embeddings, texts: Sequence[str]) -> None:
    """Nothing is misfiled, and every text is in exactly one of stored, failed and pending."""
    report = embeddings.report
    assert report.stored + report.unchanged + report.failed + report.pending == report.inputs
    for text, vector in zip(texts, embeddings, strict=True):
        assert vector is None or np.array_equal(vector, vector_of(text, len(vector)))
    assert sum(vector is not None for vector in embeddings) == report.stored


def virtually(service: Service, texts: Sequence[str], latency: Latency = REAL, **options: Any) -> Outcome:
    """The job on virtual time: it may wait for an hour. Checks that all came back to rest."""

    async def run() -> Outcome:
        async with embedder_of(service, latency, **options) as embedder:
            embedder._engine.random = Random(7)
            outcome = await embed(embedder, texts)
            assert embedder.in_flight == service.ledger.in_flight == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return outcome

    return run_virtual(run)


async def until(condition: Callable[[], bool]) -> None:
    """Looks again and again: what is waited for has no event of its own."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


@asynccontextmanager
async def serving(script: Script | None = None, **options: Any) -> AsyncIterator[Server]:
    async with Server(script=script, **options) as server:
        yield server


@dataclass(frozen=True, slots=True)
class From:
    """That fault for every request from that number on."""

    number: int
    fault: Fault

    def __call__(self, request: Request) -> Fault | None:
        return self.fault if request.number >= self.number else None


@dataclass(frozen=True, slots=True)
class At:
    """That fault for the request of that number."""

    number: int
    fault: Fault

    def __call__(self, request: Request) -> Fault | None:
        return self.fault if request.number == self.number else None
