"""Event loops that are not asyncio's own, and its eager tasks (rows B1 and B2), over real sockets."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from aembed import Embedded, Embedder, FakeProvider, MemoryStore, Record
from tests.hostile.jobs import at, embed, numbers
from tests.providers.clients import every_client, http_client
from tests.providers.test_http import SELF_SIGNED, own_certificate
from tests.service.server import Latency, Server
from tests.service.vectors import vector_of

NAMED = os.environ.get("AEMBED_TEST_LOOP", "")
"""Which loop all of this run is on."""


def on_uvloop(job: Coroutine[Any, Any, None]) -> None:
    pytest.importorskip("uvloop").run(job)


def on_eager_tasks(job: Coroutine[Any, Any, None]) -> None:
    if sys.version_info < (3, 12):
        job.close()
        pytest.skip("asyncio has eager tasks from Python 3.12 on")

    def new_loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        return loop

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(job)


Run = Callable[[Coroutine[Any, Any, None]], None]
every_loop = pytest.mark.parametrize(
    "run", [asyncio.run, on_uvloop, on_eager_tasks], ids=["asyncio", "uvloop", "eager tasks"]
)


async def all_verbs(server: Server, **options: Any) -> None:
    async def source() -> AsyncIterator[Record]:
        for text in numbers(300, start=2_000):
            yield Record(text, text)

    async with at(server, max_batch_size=20, **options) as embedder:
        outcome = await embed(embedder, numbers(400))
        assert (outcome.error, outcome.report.stored) == (None, 400)
        vectors = await asyncio.gather(*(embedder.embed_query(text) for text in numbers(50, start=1_000)))
        assert all(map(np.array_equal, vectors, map(vector_of, numbers(50, start=1_000), [48] * 50)))
        async with embedder.stream(numbers(100, start=1_500)) as results:
            assert {result.index async for result in results if isinstance(result, Embedded)} == set(range(100))
        store = MemoryStore()
        assert (await embedder.embed_into(store, source())).stored == 300
        assert (await embedder.search(store, "2007", k=1))[0].id == "2007"
        assert embedder.in_flight == server.ledger.in_flight == 0


@every_loop
@every_client
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_b1_b2_every_verb_works_on_every_loop(
    run: Run, client: str, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def job() -> None:
        async with http_client(client) as given, Server(tls=own_certificate() if tls else None) as server:
            await all_verbs(server, http_client=given)

    monkeypatch.setenv("SSL_CERT_FILE", str(SELF_SIGNED))
    run(job())


@every_loop
def test_b1_b2_large_replies_arrive_whole_and_clients_that_go_are_let_go(run: Run) -> None:
    async def job() -> None:
        async with Server(latency=Latency(1.0)) as server, at(server, dimensions=1_536) as embedder:
            outcome = await embed(embedder, numbers(2_000))
            gone = [asyncio.create_task(embedder.embed_query(f"gone {n}")) for n in range(40)]
            await asyncio.sleep(0.01)
            for task in gone:
                task.cancel()
            await asyncio.wait(gone)
            assert len(await embedder.embed_query("one more")) == 1_536
        assert (outcome.error, outcome.report.stored) == (None, 2_000)

    run(job())


@every_loop
def test_b2_queries_of_one_moment_share_a_request_whenever_their_tasks_begin(run: Run) -> None:
    async def job() -> None:
        provider = FakeProvider(latency=0.01)
        async with Embedder(provider) as embedder:
            tasks = [asyncio.create_task(embedder.embed_query(f"text {n}")) for n in range(100)]
            await asyncio.gather(*tasks)
            assert [sent.inputs for sent in provider.ledger.log] == [100]
            assert (await embedder.embed_documents(map(str, range(5_000)))).report.stored == 5_000

    run(job())


@pytest.mark.skipif(not NAMED, reason="this run is on asyncio's own loop: AEMBED_TEST_LOOP names no other")
def test_b1_b2_this_run_and_its_processes_are_on_the_loop_that_was_asked_for() -> None:
    says = "loop = asyncio.new_event_loop(); print(type(loop).__module__, bool(loop.get_task_factory()))"
    done = subprocess.run([sys.executable, "-c", f"import asyncio; {says}"], capture_output=True, text=True, check=True)

    async def here() -> list[str]:
        loop = asyncio.get_running_loop()
        return [type(loop).__module__, str(bool(loop.get_task_factory()))]

    module, eager = asyncio.run(here())
    assert [module, eager] == done.stdout.split()
    assert (module == "uvloop", eager == "True") == (NAMED == "uvloop", NAMED == "eager")
