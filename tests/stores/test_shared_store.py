"""Real processes that fill one store with the same records, some of them killed. The judge is the provider's ledger."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from pathlib import Path

import pytest

from aembed import Embedder, FakeProvider, Record
from aembed.pipeline import leased_elsewhere, leasing
from aembed.protocols import Leases
from aembed.stores import open_store
from tests.jobs import records, rows_of, words
from tests.service.own_process import KEY, MODEL, ROOT, Service, serving
from tests.stores.samples import NewPlace

BATCH, CONCURRENCY = 10, 2
TEXTS = 400
LIFE_AFTER_START = 3.1
"""Seconds for which PostgreSQL, once started, takes every worker for alive."""
JOB = f"""
    import asyncio, sys
    from aembed import Embedder, Record
    from aembed.pipeline import leasing
    leasing.LEASE_SECONDS = 3.0
    store, url, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    async def main():
        async with Embedder({MODEL!r}, api_key={KEY!r}, base_url=url, concurrency={CONCURRENCY},
                            max_batch_size={BATCH}) as embedder:
            records = [Record(str(number), f"text {{number}}") for number in range(count)]
            report = await embedder.embed_into(store, records)
            print(report, flush=True)
    asyncio.run(main())
"""


async def begin(store: str, service: Service) -> asyncio.subprocess.Process:
    arguments = ["-c", textwrap.dedent(JOB), store, service.url, str(TEXTS)]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, stdout=pipe, stderr=pipe)


@pytest.mark.parametrize("scheme", ["sqlite", "postgresql"])
async def test_t8_processes_share_one_store_and_what_the_dead_had_leased_is_taken_over(
    scheme: str, tmp_path: Path, new_place: NewPlace
) -> None:
    store = new_place(scheme, tmp_path)
    async with serving("--key", KEY, "--latency", "0.5") as service:
        processes = [await begin(store, service) for _ in range(4)]
        for _ in range(1_000):
            if (await service.ledger())["requests"]:
                break
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        killed = processes[:2]
        for process in killed:
            os.kill(process.pid, signal.SIGKILL)
        told = await asyncio.gather(*[process.communicate() for process in processes])
        billed = sum((await service.texts()).values())
    for process, (out, error) in zip(processes[2:], told[2:], strict=True):
        assert process.returncode == 0, error.decode()
        assert b"400 texts" in out
    assert TEXTS <= billed <= TEXTS + len(killed) * CONCURRENCY * BATCH
    held = open_store(store)
    assert {row.id: row.text async for row in held.rows()} == {str(n): f"text {n}" for n in range(TEXTS)}
    await held.aclose()


@pytest.mark.parametrize("scheme", ["sqlite", "postgresql"])
async def test_t8_jobs_at_once_of_several_embedders_pay_for_each_text_once(
    scheme: str, tmp_path: Path, new_place: NewPlace
) -> None:
    """Equal ids, other ids for equal texts, and texts of their own."""
    url = new_place(scheme, tmp_path)
    stores = [open_store(url) for _ in range(3)]
    provider = FakeProvider(latency=0.05)
    embedders = [Embedder(provider, max_batch_size=10, concurrency=2) for _ in stores]
    inputs = [
        records(words(200)),
        records(words(200)),
        [Record(f"other {number}", text) for number, text in enumerate(words(200, start=50))],
    ]
    jobs = [one.embed_into(store, part) for one, store, part in zip(embedders, stores, inputs, strict=True)]
    reports = await asyncio.gather(*jobs)
    assert provider.ledger.texts == 250
    assert [report.stored + report.unchanged for report in reports] == [200, 200, 200]
    assert len(await rows_of(stores[0])) == 400
    for embedder, store in zip(embedders, stores, strict=True):
        await embedder.aclose()
        await store.aclose()


@pytest.mark.parametrize("scheme", ["sqlite", "postgresql"])
async def test_t8_jobs_that_read_far_ahead_share_their_work(
    scheme: str, tmp_path: Path, new_place: NewPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one of them holds is more than any job may wait for at the least."""
    monkeypatch.setattr(leased_elsewhere, "MOST_WAITING", 100)
    monkeypatch.setattr(leased_elsewhere, "MOST_PAUSE", 0.1)
    url = new_place(scheme, tmp_path)
    stores, providers = [open_store(url) for _ in range(2)], [FakeProvider(dimensions=8, latency=0.4) for _ in range(2)]
    embedders = [Embedder(provider, max_batch_size=50, concurrency=8) for provider in providers]
    jobs = [one.embed_into(store, records(words(3_000))) for one, store in zip(embedders, stores, strict=True)]
    await asyncio.gather(*jobs)
    bought = [provider.ledger.texts for provider in providers]
    assert sum(bought) == 3_000
    assert min(bought) >= 200, f"both of them have worked: {bought}"
    for embedder, store in zip(embedders, stores, strict=True):
        await embedder.aclose()
        await store.aclose()


@pytest.mark.parametrize("scheme", ["sqlite", "postgresql"])
async def test_t8_a_lease_is_one_workers_until_its_time_is_over(
    scheme: str, tmp_path: Path, new_place: NewPlace
) -> None:
    store = open_store(new_place(scheme, tmp_path))
    async with Embedder(FakeProvider()) as embedder:
        await embedder.embed_into(store, [Record("a", "text 0")])
    (row,) = [row async for row in store.rows()]
    assert isinstance(store, Leases)
    one, two, three = b"1" * 16, b"2" * 16, b"3" * 16
    first = await joined(store, alone=True)
    assert not await store.others(first)
    second = await joined(store, alone=False)
    assert await store.others(first)
    assert first < second
    assert await store.lease(second, [one, three], seconds=60.0) == set(), "the first has not told what it holds"
    assert await store.lease(first, [one, two, row.fingerprint], seconds=60.0) == {one, two}
    assert await store.lease(second, [one, two, three], seconds=60.0) == {three}
    assert await store.lease(first, [], done=[one, three], seconds=60.0) == set()
    assert await store.lease(second, [one, two], seconds=60.0) == {one}
    await store.leave(first)
    assert await store.lease(second, [two], seconds=60.0) == {two}
    assert await store.lease(second, [], seconds=0.0) == set()
    await asyncio.sleep(LIFE_AFTER_START if scheme == "postgresql" else 0.01)
    third = await joined(store, alone=True)
    assert await store.lease(third, [one, two, three], seconds=60.0) == {one, two, three}
    assert await store.lease(second, [one], seconds=60.0) == set(), "a late sign of life changes nothing"
    await store.leave(second)
    assert await store.lease(third, [one, two], seconds=60.0) == {one, two}, "what it holds is its own"
    await store.leave(third)
    await check_that_two_who_were_alone_go_on(store)
    await store.aclose()


@pytest.mark.parametrize("scheme", ["sqlite", "postgresql"])
async def test_t8_a_lease_of_before_the_clock_was_set_back_ends_as_one_of_now(
    scheme: str, tmp_path: Path, new_place: NewPlace
) -> None:
    """A dead worker of an hour ahead."""
    store = open_store(new_place(scheme, tmp_path))
    async with Embedder(FakeProvider()) as embedder:
        await embedder.embed_into(store, [Record("a", "text 0")])
    assert isinstance(store, Leases)
    one = b"1" * 16
    dead = await joined(store, alone=True)
    assert await store.lease(dead, [one], seconds=3_600.0) == {one}
    living = await joined(store, alone=False)
    assert await store.lease(living, [one], seconds=1.0) == set()
    for _ in range(50):
        await asyncio.sleep(0.1)
        if await store.lease(living, [one], seconds=1.0):
            break
    else:
        pytest.fail("it is held by the dead one still")
    await store.aclose()


async def check_that_two_who_were_alone_go_on(store: Leases) -> None:
    """One was frozen while the other joined: each was told that it is alone."""
    frozen = await joined(store, alone=True)
    await store.lease(frozen, [], seconds=0.0)
    await asyncio.sleep(0.01)
    other = await joined(store, alone=True)
    for token in (frozen, other):
        await store.lease(token, [bytes(16)], seconds=60.0)
    for token, text in ((frozen, b"4" * 16), (other, b"5" * 16)):
        assert await store.lease(token, [text], seconds=60.0) == {text}


async def joined(store: Leases, *, alone: bool) -> int:
    found = await store.join(60.0)
    assert found is not None
    assert found[1] == alone
    return found[0]


async def test_t8_a_job_that_ends_gives_up_its_leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leasing, "LEASE_SECONDS", 3_600.0)
    store = open_store(tmp_path / "notes.db")
    stopped = FakeProvider(script=lambda number, texts: 30.0)
    async with Embedder(stopped) as embedder:
        job = asyncio.create_task(embedder.embed_into(store, records(words(20))))
        await asyncio.sleep(0.3)
        closing = asyncio.create_task(embedder.aclose(timeout=0.1))
        await asyncio.gather(job, closing, return_exceptions=True)
    provider = FakeProvider()
    async with Embedder(provider) as embedder:
        assert (await embedder.embed_into(store, records(words(20)))).stored == 20
    await store.aclose()
