"""One limit and one budget for all workers that name a coordinator. The judge is the provider's ledger."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import sqlite3
import sys
import textwrap
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aembed import (
    AembedError,
    Budget,
    BudgetExceededError,
    ConfigError,
    Embedder,
    FakeProvider,
    QuotaExceededError,
    StoreError,
)
from aembed.dispatch import Coordination
from aembed.providers.openai import OpenAIProvider
from tests.jobs import records, words
from tests.service.in_process import embedder_of
from tests.service.limits import RateLimits
from tests.service.own_process import KEY, MODEL, ROOT, serving
from tests.service.server import Latency
from tests.service.service import Service
from tests.service.windows import WindowKind
from tests.stage.clock import run_virtual
from tests.stage.coordinator import Database, VirtualCoordinator, coordinate

KINDS = ("sqlite", "postgresql", "pooled")
TOKENS_PER_MINUTE = 3_000_000


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for a new coordinator."""
    if request.param == "sqlite":
        return str(tmp_path / "limits.db")
    return table_of(request.getfixturevalue("database" if request.param == "postgresql" else "pooled"), tmp_path)


def table_of(url: str, folder: Path) -> str:
    return f"{url}{'&' if '?' in url else '?'}table=l_{folder.name.replace('-', '_')[-30:]}".lower()


def of_a_day(tokens: int) -> Budget:
    return Budget(max_billed_tokens=tokens, per="day")


async def spend(place: str, provider: FakeProvider, texts: list[str], **options: Any) -> BudgetExceededError | None:
    async with Embedder(provider, coordinator=place, max_batch_size=10, concurrency=2, **options) as embedder:
        try:
            await embedder.embed_documents(texts)
        except BudgetExceededError as error:
            return error
    return None


async def test_t36_workers_share_one_budget_of_a_day_and_need_no_store(place: str) -> None:
    provider = FakeProvider(dimensions=64, latency=0.005)
    budget, jobs = of_a_day(3_000), [[f"text {number} of {job}" for number in range(400)] for job in range(4)]
    ends = await asyncio.gather(*[spend(place, provider, texts, budget=budget) for texts in jobs])
    assert any(ends)
    assert 2_500 < provider.ledger.billed_tokens <= 3_000
    before = provider.ledger.requests
    with_queries = Embedder(provider, coordinator=place, budget=budget, query_budget=of_a_day(30))
    async with with_queries as embedder:
        with pytest.raises(BudgetExceededError, match="and all workers of the coordinator"):
            await embedder.embed_documents(["the text that follows is one too many. " * 100])
        assert provider.ledger.requests == before
        await embedder.embed_query("and a query?")
        with pytest.raises(BudgetExceededError):
            await embedder.embed_query("and another one? " * 20)


async def test_t36_what_was_not_spent_is_there_for_the_next_worker(place: str) -> None:
    provider = FakeProvider(dimensions=64)
    for number in range(5):
        assert await spend(place, provider, [f"job {number}"], budget=of_a_day(20)) is None
    assert provider.ledger.billed_tokens == 10


async def test_t36_the_providers_limit_of_a_day_is_counted_for_all(place: str) -> None:
    limits = replace(FakeProvider().limits, requests_per_day=12)
    provider = FakeProvider(dimensions=64, limits=limits)
    for job, requests in ((words(80), 8), (words(40, start=80), 4)):
        async with Embedder(provider, coordinator=place, max_batch_size=10) as embedder:
            await embedder.embed_documents(job)
        provider.ledger.requests -= requests
    async with Embedder(provider, coordinator=place) as embedder:
        with pytest.raises(QuotaExceededError, match="12 requests a day"):
            await embedder.embed_documents(["one more"])
    assert provider.ledger.requests == 0


def test_an_embedder_goes_on_in_another_event_loop(tmp_path: Path) -> None:
    provider, options = FakeProvider(dimensions=64), {"tokens_per_minute": 1_000_000.0, "budget": of_a_day(1_000)}
    embedder = Embedder(provider, coordinator=tmp_path / "limits.db", **options)
    for number in range(3):
        asyncio.run(embedder.embed_documents(words(20, start=20 * number)))
    asyncio.run(embedder.aclose())
    assert provider.ledger.texts == 60


async def test_accounts_are_of_a_key_and_a_model_and_tell_nothing_of_the_key(tmp_path: Path) -> None:
    def provider(key: str, model: str = "text-embedding-3-small") -> OpenAIProvider:
        return OpenAIProvider(model, api_key=key)

    names = []
    for path in (tmp_path / "a.db", tmp_path / "b.db"):
        coordination = Coordination(path)
        others = [provider("sk-one"), provider("sk-two"), provider("sk-one", "text-embedding-3-large")]
        names += [await coordination.name_account(each) for each in others]
        assert await coordination.name_account(provider("sk-one")) == names[-3]
        await coordination.aclose()
        assert path.stat().st_mode & 0o077 == 0
        assert b"sk-one" not in path.read_bytes()
    assert len({*names}) == 6


async def test_a_key_that_cannot_be_signed_stops_who_needs_it(tmp_path: Path) -> None:
    class Locked(FakeProvider):
        def sign_account(self, salt: bytes) -> bytes:
            raise RuntimeError("the vault is locked")

    async with asyncio.timeout(20.0), Embedder(Locked(dimensions=64), coordinator=tmp_path / "limits.db") as embedder:
        with pytest.raises(AembedError, match="unexpected RuntimeError"):
            await embedder.embed_documents(["a text"])
        with pytest.raises((AembedError, RuntimeError), match=r"unexpected RuntimeError|the vault is locked"):
            await embedder.embed_query("a query")


async def test_t38_a_file_that_holds_something_else_is_no_coordinator(tmp_path: Path, database: str) -> None:
    provider = FakeProvider(dimensions=64)
    async with Embedder(provider, cache=tmp_path / "cache.db") as embedder:
        await embedder.embed_into(tmp_path / "notes.db", records(words(3)))
        await embedder.embed_documents(words(3))
        await embedder.embed_into(table_of(database, tmp_path), records(words(3)))
    (tmp_path / "broken.db").write_bytes(b"no database at all, but long enough to look like one" * 100)
    before = provider.ledger.requests
    for place, said in (
        (tmp_path / "notes.db", "a file of its own"),
        (tmp_path / "cache.db", "a file of its own"),
        (tmp_path / "broken.db", "broken.db"),
        (table_of(database, tmp_path), r"no coordinator of aembed"),
        (tmp_path / "nowhere" / "limits.db", "create"),
        ("postgresql://nobody@127.0.0.1:1/none", "cannot be reached"),
    ):
        async with Embedder(provider, coordinator=place) as embedder:
            with pytest.raises((ConfigError, StoreError), match=said):
                await embedder.embed_documents(["a text"])
            with pytest.raises((ConfigError, StoreError), match=said):
                await embedder.embed_query("a query")
    assert provider.ledger.requests == before


async def test_t38_what_stands_in_it_is_read_with_care(tmp_path: Path) -> None:
    provider, path = FakeProvider(dimensions=64), tmp_path / "limits.db"
    assert await spend(str(path), provider, ["a text"], budget=of_a_day(100)) is None
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE aembed_limits SET state = ? WHERE name <> 'salt'", (b'{"version":2}',))
    with pytest.raises(ConfigError, match="a later aembed"):
        await spend(str(path), provider, ["another text"], budget=of_a_day(100))


@pytest.mark.parametrize("wrong", ["memory:", "redis://host/0", "postgresql://host/db?table=a.b.c"])
def test_t38_what_is_no_place_for_a_coordinator_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"coordinator|known|name of a table"):
        Embedder(FakeProvider(), coordinator=wrong)


async def test_t37_budgets_wait_for_a_coordinator_that_is_away_and_spend_what_they_have(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    provider, path = FakeProvider(dimensions=64, latency=0.01), tmp_path / "limits.db"
    caplog.set_level(logging.INFO, "aembed")
    async with Embedder(provider, coordinator=path, max_batch_size=1, budget=of_a_day(800)) as embedder:
        await embedder.embed_documents(words(8))
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            running = asyncio.create_task(embedder.embed_documents(words(800, start=8)))
            await asyncio.sleep(2.6)
            held_up = provider.ledger.billed_tokens
            assert not running.done()
            connection.execute("COMMIT")
        with pytest.raises(BudgetExceededError):
            await running
    assert held_up < provider.ledger.billed_tokens <= 800
    told = [record.levelname for record in caplog.records if "coordinator" in record.getMessage()]
    assert told == ["WARNING", "INFO"]


JOB = f"""
    import asyncio, sys
    from aembed import Budget, BudgetExceededError, Embedder
    async def main(place, url, job):
        async with Embedder({MODEL!r}, api_key={KEY!r}, base_url=url, concurrency=2, max_batch_size=5,
                            coordinator=place, budget=Budget(max_cost_usd=0.00008, per="day")) as embedder:
            try:
                await embedder.embed_documents([f"{{job}} 日本語のテキスト {{number}}" for number in range(2_000)])
            except BudgetExceededError:
                print("spent")
    asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("place", ["pooled"], indirect=True)
async def test_t36_dollars_are_not_passed_where_a_worker_is_killed(place: str) -> None:
    """0.00008 dollars are 4,000 tokens. What the dead worker held stays spent, and the others spend the rest."""

    async def begin(url: str, job: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        arguments = ["-c", textwrap.dedent(JOB), place, url, job]
        return await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, stdout=pipe, stderr=pipe)

    async with serving("--key", KEY, "--latency", "0.3") as service:
        workers = [await begin(service.url, f"job {number}") for number in range(3)]
        for _ in range(1_000):
            if (await service.ledger())["requests"] >= 12:
                break
            await asyncio.sleep(0.02)
        os.kill(workers[0].pid, signal.SIGKILL)
        told = await asyncio.gather(*[worker.communicate() for worker in workers])
        billed = (await service.ledger())["billed_tokens"]
    assert [out for out, _ in told[1:]] == [b"spent\n"] * 2, told[1][1].decode()
    assert 2_000 < billed <= 4_000


# on virtual time, with a coordinator that may be away


async def texts_of(worker: str) -> AsyncIterator[str]:
    for number in itertools.count():
        yield f"text {number} of {worker} " + "word " * 800


class Workers:
    """Some that embed without an end, on one key. `got` counts the texts of each."""

    def __init__(self, kind: WindowKind = "sliding", tokens_per_minute: float = TOKENS_PER_MINUTE) -> None:
        self.service = Service(limits=RateLimits.of(kind, tokens_per_minute=tokens_per_minute))
        self.database = Database()
        self.got = Counter[str]()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._connections: dict[str, VirtualCoordinator] = {}

    def begin(self, name: str) -> None:
        self._tasks[name] = asyncio.create_task(self._work(name))

    async def kill(self, name: str) -> None:
        """It gives nothing back."""
        self._connections[name].is_dead = True
        self._tasks[name].cancel()
        await asyncio.gather(self._tasks[name], return_exceptions=True)

    async def measure(self, seconds: float) -> tuple[float, float, dict[str, float]]:
        """The share of the limit that is used, that of the requests that are refused, and the parts of the workers."""
        ledger, got = self.service.ledger, Counter(self.got)
        before = ledger.requests, ledger.accepted, ledger.billed_tokens
        await asyncio.sleep(seconds)
        requests, tokens = ledger.requests - before[0], ledger.billed_tokens - before[2]
        refused = requests - (ledger.accepted - before[1])
        parts = {name: count - got[name] for name, count in self.got.items()}
        each = sum(parts.values()) / max(1, len([part for part in parts.values() if part]))
        return (
            tokens / (TOKENS_PER_MINUTE * seconds / 60.0),
            refused / requests,
            {name: part / each for name, part in parts.items()},
        )

    async def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _work(self, name: str) -> None:
        async with embedder_of(self.service, Latency(scale=1.0), coordinator="limits.db") as embedder:
            self._connections[name] = coordinate(embedder, self.database)
            async with embedder.stream(texts_of(name)) as results:
                async for _ in results:
                    self.got[name] += 1


def test_t36_workers_share_the_limit_of_a_key_evenly_and_are_not_refused() -> None:
    """One comes late, and one is killed."""

    async def job() -> None:
        workers = Workers()
        for name in "abc":
            workers.begin(name)
        await asyncio.sleep(60.0)
        used, refused, parts = await workers.measure(60.0)
        assert (used >= 0.95, refused) == (True, 0.0)
        assert all(0.8 <= part <= 1.2 for part in parts.values())
        workers.begin("d")
        await asyncio.sleep(6.0)
        used, refused, parts = await workers.measure(60.0)
        assert (used >= 0.93, refused, len(parts)) == (True, 0.0, 4)
        assert all(0.8 <= part <= 1.2 for part in parts.values())
        await workers.kill("a")
        used, refused, parts = await workers.measure(60.0)
        assert (used >= 0.93, refused) == (True, 0.0)
        assert all(0.8 <= part <= 1.2 for name, part in parts.items() if name != "a")
        await workers.stop()

    run_virtual(job)


def test_t36_batches_of_before_others_came_are_sent_in_parts() -> None:
    """Those that one worker has made for the whole limit would each be a burst beside the shares of all."""

    async def job() -> None:
        workers = Workers()
        workers.begin("a")
        await asyncio.sleep(20.0)
        for name in "bcdefgh":
            workers.begin(name)
        await asyncio.sleep(20.0)
        since = asyncio.get_running_loop().time()
        used, refused, parts = await workers.measure(60.0)
        assert (used >= 0.95, refused, len(parts)) == (True, 0.0, 8)
        sizes = [event.tokens for event in workers.service.ledger.events if event.at >= since]
        assert max(sizes) <= 2 * 0.027 * TOKENS_PER_MINUTE / 8
        await workers.stop()

    run_virtual(job)


def test_t37_limits_go_on_at_the_last_share_while_the_coordinator_is_away(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aembed")

    async def job() -> None:
        workers = Workers()
        for name in "ab":
            workers.begin(name)
        await asyncio.sleep(20.0)
        workers.database.is_away = True
        used, refused, _ = await workers.measure(60.0)
        assert (used >= 0.93, refused) == (True, 0.0)
        workers.database.is_away = False
        used, refused, parts = await workers.measure(60.0)
        assert (used >= 0.93, refused) == (True, 0.0)
        assert all(0.8 <= part <= 1.2 for part in parts.values())
        await workers.stop()

    run_virtual(job)
    told = Counter(record.levelname for record in caplog.records if "coordinator" in record.getMessage())
    assert told == {"WARNING": 2, "INFO": 2}


@pytest.mark.parametrize("step", [-3_600.0, 3_600.0])
def test_t37_a_clock_of_the_database_that_is_set_stops_nobody(step: float) -> None:
    async def job() -> None:
        workers = Workers()
        for name in "ab":
            workers.begin(name)
        await asyncio.sleep(20.0)
        workers.database.clock += step
        used, refused, parts = await workers.measure(60.0)
        assert (used >= 0.9, refused) == (True, 0.0)
        assert all(0.8 <= part <= 1.2 for part in parts.values())
        await workers.stop()

    run_virtual(job)


def test_t36_what_one_worker_has_learned_another_begins_with() -> None:
    async def job() -> None:
        workers = Workers()
        workers.begin("a")
        await asyncio.sleep(20.0)
        async with embedder_of(workers.service, Latency(scale=1.0), coordinator="limits.db") as embedder:
            coordinate(embedder, workers.database)
            await embedder.embed_documents(["a text"])
            assert embedder.stats().tokens_per_minute == TOKENS_PER_MINUTE
        await workers.stop()

    run_virtual(job)


def test_t36_a_refusal_that_one_was_told_holds_all_back() -> None:
    """Somebody who names no coordinator has used the limit up."""

    async def job() -> None:
        limits, database = RateLimits.of("sliding", tokens_per_minute=100_000), Database()
        service = Service(limits=limits)
        options: dict[str, Any] = {"coordinator": "limits.db"}
        async with embedder_of(service, **options) as one, embedder_of(service, **options) as other:
            for each in (one, other):
                coordinate(each, database)
                await each.embed_documents(["a text"])
            assert limits.tokens
            limits.tokens.spend(99_990, asyncio.get_running_loop().time())
            waiting = [asyncio.create_task(one.embed_documents(["word " * 20])) for _ in range(2)]
            await asyncio.sleep(5.0)
            assert not one.stats().gate_open
            requests = service.ledger.requests
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5.0):
                    await other.embed_documents(["another text"])
            assert not other.stats().gate_open
            assert service.ledger.requests <= requests + 1
            await asyncio.gather(*waiting)

    run_virtual(job)


def test_who_has_nothing_to_send_asks_nothing_and_holds_nothing() -> None:
    async def job() -> None:
        service, database = Service(), Database()
        options: dict[str, Any] = {"coordinator": "limits.db", "budget": of_a_day(1_000_000)}
        async with embedder_of(service, **options) as embedder:
            coordinate(embedder, database)
            await embedder.embed_documents(["a text"])
            await asyncio.sleep(30.0)
            asked = database.asked
            assert asked < 10
            assert b'"workers":{}' in b"".join(database.states.values())
            assert b'"taken":2}' in b"".join(database.states.values())
            await asyncio.sleep(600.0)
            assert database.asked == asked
            await embedder.embed_query("a query")

    run_virtual(job)


def test_an_embedder_whose_closing_is_cancelled_asks_no_more(tmp_path: Path) -> None:
    async def job() -> None:
        database, place = Database(), tmp_path / "limits.db"
        async with embedder_of(Service(), coordinator=place, budget=of_a_day(1_000_000)) as embedder:
            coordinate(embedder, database)
            await embedder.embed_documents(["a text"])
            database.seconds = 3_600.0
            closes = asyncio.create_task(embedder.aclose())
            await asyncio.sleep(0.5)
            closes.cancel()
            await asyncio.wait([closes])
            await asyncio.sleep(60.0)
            assert not place.exists()

    run_virtual(job)
