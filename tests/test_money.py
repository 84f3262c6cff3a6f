"""What a job may cost, and what it says of its cost. The judge is the provider's own ledger."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from aembed import (
    Budget,
    BudgetExceededError,
    Embedder,
    FakeProvider,
    Limits,
    MemoryStore,
    PostgresColumn,
    RateLimitError,
    Report,
    SQLiteColumn,
    UnavailableError,
)
from aembed.core.retrying import may_be_billed
from aembed.errors import AuthenticationError, BadRequestError, InvalidReplyError, NotFoundError, ProviderError
from tests.cli.command import COMMAND, environment, notes, write_jsonl
from tests.jobs import records, words
from tests.service.faults import Body, Cut, Fault, Hang, Status, Truncate
from tests.service.faults import Faults as Scripted
from tests.service.in_process import embedder_of
from tests.service.server import Latency, Server
from tests.service.service import Service
from tests.stage.clock import run_virtual
from tests.stage.postgres import run_sql

ALL_KINDS: Sequence[Fault] = (
    Status(500),
    Status(429),
    Status(502, billed=True),
    Status(504, billed=True),
    Hang(billed=True),
    Cut(),
    Cut(billed=False),
    Truncate(),
    Body(b"<p>sign in", content_type="text/html"),
)
TEN = Limits(10, 300_000, 8_191, encoding="cl100k_base")


def seven(n: int) -> list[str]:
    """Texts of seven tokens each, as the provider counts and bills; the tokenizer makes fewer of them."""
    return [f" information information{number:04}" for number in range(n)]


def with_status(error: ProviderError, status: int | None) -> ProviderError:
    error.status_code = status
    return error


@pytest.mark.parametrize(
    ("error", "maybe"),
    [
        (UnavailableError("no answer within 60 s"), True),
        (UnavailableError("the connection broke"), True),
        (InvalidReplyError("three vectors for two texts"), True),
        (with_status(InvalidReplyError("no JSON"), 200), True),
        (with_status(UnavailableError("an error in a 200"), 200), True),
        *[(with_status(UnavailableError("gateway"), status), True) for status in (502, 504, 520, 524)],
        *[(with_status(UnavailableError("refused"), status), False) for status in (408, 500, 503, 521, 522, 529)],
        (RateLimitError("429"), False),
        (with_status(BadRequestError("400"), 400), False),
        (AuthenticationError("401"), False),
        (with_status(NotFoundError("redirect"), 307), False),
        (ValueError("a bug"), True),
        (asyncio.CancelledError(), True),
    ],
    ids=str,
)
def test_z11_what_may_be_on_the_bill(error: BaseException, maybe: bool) -> None:
    assert may_be_billed(error) == maybe


def test_z11_what_never_left_is_not() -> None:
    error = UnavailableError("no connection")
    error.unsent = True
    assert not may_be_billed(error)


@pytest.mark.parametrize("seed", range(30))
def test_z11_the_bill_stays_within_the_budget_whatever_is_lost_over_all_runs(seed: int) -> None:
    """It is raised until each text is stored. What a refusal gave back may let the same run get on."""
    service, store, random = Service(script=Scripted(seed, 0.4, ALL_KINDS)), MemoryStore(), Random(seed)
    given = records(words(60))

    async def one_run(budget: int) -> Report:
        options: dict[str, Any] = {"concurrency": 3, "max_batch_size": 4, "budget": Budget(max_billed_tokens=budget)}
        async with embedder_of(service, Latency(1.0), **options) as embedder:
            embedder._engine.random = random
            return await ended(embedder.embed_into(store, given))

    async def job() -> None:
        for budget in range(20, 2_000, 20):
            reports = [await one_run(budget) for _ in range(2)]
            assert service.ledger.billed_tokens <= budget
            if not reports[-1].pending:
                break
        assert (await store.info()).rows == 60

    run_virtual(job)


async def ended(job: Coroutine[Any, Any, Report]) -> Report:
    try:
        return await job
    except BudgetExceededError as error:
        return error.report or Report()


def test_z11_what_was_refused_costs_nothing_of_the_budget() -> None:
    script = [RateLimitError("429", status_code=429), UnavailableError("500", status_code=500)] * 3
    provider = FakeProvider(limits=TEN, script=script)

    async def job() -> None:
        async with Embedder(provider, concurrency=2, max_batch_size=1, budget=Budget(max_billed_tokens=280)) as one:
            one._engine.run_in_thread = inline
            report = await one.embed_into(MemoryStore(), records(seven(40)))
        assert (report.stored, report.billed_tokens, report.lost_tokens) == (40, 280, 0)

    run_virtual(job)


async def inline(function: Any, *arguments: Any) -> Any:
    return function(*arguments)


def test_z11_what_was_lost_is_counted_and_said() -> None:
    provider = FakeProvider(limits=TEN, script=[UnavailableError("the connection broke")] * 2)

    async def job() -> None:
        async with Embedder(provider, budget=Budget(max_billed_tokens=7)) as embedder:
            embedder._engine.run_in_thread = inline
            with pytest.raises(BudgetExceededError, match=r"about 7 tokens, and of the 7 for calls .* 0 are left"):
                await embedder.embed_documents(seven(1))
        async with Embedder(provider) as embedder:
            report = (await embedder.embed_documents(seven(1))).report
            assert (report.billed_tokens, report.lost_tokens) == (7, 7)
            assert "7 tokens, 7 tokens lost and perhaps billed, " in str(report)
            assert report.at_risk_tokens == 8 * 300_000
            report = (await embedder.embed_documents(seven(1))).report
            assert report.lost_tokens == 0
            assert "lost" not in str(report)

    run_virtual(job)


class Plain:
    """A store of somebody's own, which keeps no accounts."""

    def __init__(self) -> None:
        self._store = MemoryStore()

    def __getattr__(self, name: str) -> Any:
        if name in ("spend", "close_account"):
            raise AttributeError(name)
        return getattr(self._store, name)


async def test_z11_a_store_without_accounts_has_the_budget_for_each_run() -> None:
    provider, store = FakeProvider(limits=TEN), Plain()
    async with Embedder(provider, max_batch_size=1, budget=Budget(max_billed_tokens=14)) as embedder:
        for stored in (2, 4):
            with pytest.raises(BudgetExceededError):
                await embedder.embed_into(store, records(seven(9)))  # type: ignore[arg-type]
            assert (await store.info()).rows == stored


async def test_z11_the_text_that_is_embedded_to_learn_the_dimensions_counts() -> None:
    async with Server() as server:
        options: dict[str, Any] = {"api_key": "sk-x", "base_url": server.url, "max_batch_size": 1}
        async with Embedder("tei:text-embedding-3-small", budget=Budget(max_billed_tokens=2), **options) as embedder:
            assert embedder.space.dimensions is None
            with pytest.raises(BudgetExceededError):
                await embedder.embed_into(MemoryStore(), records(words(3)))
        assert server.ledger.requests == 0


# the command, killed


JOB = ("index", "a.jsonl", "-m", "openai:text-embedding-3-small", "--max-batch-size", "2", "--concurrency", "4")


async def command(server: Server, cwd: Path, budget: int, seconds: float | None = None, *others: str) -> int | None:
    """Give the exit code, or None where it was killed after so many seconds."""
    env = environment(OPENAI_BASE_URL=server.url, OPENAI_API_KEY="sk-x")
    flags = ("--max-billed-tokens", str(budget), *others)
    process = await asyncio.create_subprocess_exec(*COMMAND, *JOB, *flags, cwd=cwd, env=env, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(seconds):
            _, said = await process.communicate()
            print(process.returncode, said.decode()[-2_000:])
            return process.returncode
    except TimeoutError:
        if process.returncode is not None:
            return process.returncode  # it ended of itself at that moment
        process.kill()
        await process.communicate()
        return None


async def end(server: Server, cwd: Path, budget: int, *others: str) -> int | None:
    """Run it until nothing is left for the next run: a text whose four tries all met a fault by chance is (exit 1)."""
    code: int | None = 1
    for _ in range(4):
        if code == 1:
            code = await command(server, cwd, budget, None, *others)
    return code


async def test_z11_killed_and_run_again_the_command_never_costs_more_than_its_budget(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(120))
    faults = Scripted(7, 0.2, (Status(503), Cut(), Truncate(), Status(502, billed=True)))
    async with Server(latency=Latency(1.0, fixed=0.1), script=faults) as server:
        moments, code = Random(1), None
        for _ in range(4):
            code = await command(server, tmp_path, 300, moments.uniform(1.0, 2.5))
            assert server.ledger.billed_tokens <= 300
        code = await command(server, tmp_path, 300)
        assert (code, server.ledger.billed_tokens <= 300) == (3, True)
        requests = server.ledger.requests
        assert await command(server, tmp_path, 300) == 3
        assert server.ledger.requests <= requests + 1, "nothing was left of the budget"
        assert await end(server, tmp_path, 6_000) == 0
        assert server.ledger.billed_tokens <= 6_000
        write_jsonl(tmp_path / "a.jsonl", notes(124))
        assert await end(server, tmp_path, 200) == 0, "the job had ended: the next one has its own budget"


async def test_z11_killed_again_and_again_the_command_never_costs_more_than_its_day_may(tmp_path: Path) -> None:
    """And every file that it indexes into that store on that day."""
    write_jsonl(tmp_path / "a.jsonl", notes(120))
    faults = Scripted(3, 0.2, (Status(503), Cut(), Truncate(), Status(502, billed=True)))
    daily = ("--budget-per", "day")
    async with Server(latency=Latency(1.0, fixed=0.1), script=faults) as server:
        moments = Random(2)
        for _ in range(3):
            await command(server, tmp_path, 300, moments.uniform(1.0, 2.0), *daily)
            assert server.ledger.billed_tokens <= 300
        assert await end(server, tmp_path, 2_000, *daily) == 0
        spent = server.ledger.billed_tokens
        assert spent <= 2_000
        write_jsonl(tmp_path / "a.jsonl", notes(400))
        assert await command(server, tmp_path, spent, None, *daily) == 3, "the job has ended, the day has not"
        assert server.ledger.billed_tokens == spent
        assert await command(server, tmp_path, 6_000, None, "--budget-per", "month") == 0


# columns


def test_z11_a_sqlite_column_goes_on_with_what_is_left(tmp_path: Path) -> None:
    path, provider = tmp_path / "app.db", FakeProvider(limits=TEN)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, content TEXT, embedding BLOB)")
        connection.executemany("INSERT INTO notes (content) VALUES (?)", [(text,) for text in seven(10)])

    async def filled(budget: int) -> Report:
        options: dict[str, Any] = {"max_batch_size": 1, "budget": Budget(max_billed_tokens=budget)}
        async with (
            aclosing(SQLiteColumn(path, "notes", text="content")) as column,
            Embedder(provider, **options) as embedder,
        ):
            return await embedder.backfill(column)

    async def job() -> None:
        for budget in (20, 20, 45):
            with pytest.raises(BudgetExceededError):
                await filled(budget)
            assert provider.ledger.billed_tokens <= budget
        assert provider.ledger.billed_tokens == 42
        assert (await filled(70)).stored == 4
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT * FROM aembed_accounts").fetchall() == []

    asyncio.run(job())


@pytest.fixture
async def table(database: str) -> AsyncIterator[str]:
    name = f"t_{uuid.uuid4().hex}"
    await run_sql(
        database,
        f"CREATE TABLE {name} (id bigint PRIMARY KEY, content text, embedding vector(64))",
        f"INSERT INTO {name} SELECT n, ' information information' || 1000 + n FROM generate_series(0, 99) n",  # noqa: S608
    )
    yield name
    await run_sql(database, f"DROP TABLE {name}", "DROP SCHEMA IF EXISTS aembed CASCADE")


async def test_z11_workers_on_one_postgresql_column_share_one_account(database: str, table: str) -> None:
    provider = FakeProvider(limits=TEN, latency=0.01)

    async def worker(budget: int) -> Report | BaseException:
        options: dict[str, Any] = {"max_batch_size": 1, "concurrency": 2, "budget": Budget(max_billed_tokens=budget)}
        async with (
            aclosing(PostgresColumn(database, table, text="content")) as column,
            Embedder(provider, **options) as embedder,
        ):
            return await embedder.backfill(column)

    for budget in (200, 200, 350):
        ends = await asyncio.gather(*[worker(budget) for _ in range(3)], return_exceptions=True)
        assert BudgetExceededError in map(type, ends)
        assert provider.ledger.billed_tokens <= budget
    assert provider.ledger.billed_tokens > 300
    ends = await asyncio.gather(*[worker(700) for _ in range(3)], return_exceptions=True)
    assert not [end for end in ends if isinstance(end, BaseException)]
    assert provider.ledger.billed_tokens == 700
    assert await run_sql(database, "SELECT * FROM aembed.accounts") == []
