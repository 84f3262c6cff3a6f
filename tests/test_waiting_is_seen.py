"""What is waited for is seen while it lasts (row A12): in the log, the progress, stats(), on the command's bar."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from aembed import (
    Embedder,
    FakeProvider,
    Limits,
    MemoryStore,
    OutageError,
    Progress,
    RateLimitError,
    RetryPolicy,
    Stats,
    UnavailableError,
)
from aembed.types import Hints
from tests.cli.command import COMMAND, aembed, environment, notes, write_jsonl
from tests.cli.test_terminal import terminal
from tests.hostile.jobs import at, until
from tests.jobs import records, words
from tests.service.faults import Always, Outage, Status
from tests.service.in_process import embedder_of
from tests.service.server import Latency, Server
from tests.service.service import Service
from tests.stage.clock import run_virtual
from tests.stage.web import free_port

TEN = Limits(10, 300_000, 8_191)


def said(caplog: pytest.LogCaptureFixture, level: int, part: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level and part in record.getMessage()]


def now() -> float:
    return asyncio.get_running_loop().time()


class Followed:
    """What `on_progress` was told, and when."""

    def __init__(self) -> None:
        self.told: list[tuple[float, Progress]] = []

    def __call__(self, progress: Progress) -> None:
        self.told.append((now(), progress))

    def gaps(self) -> list[float]:
        return [later - earlier for (earlier, _), (later, _) in pairwise(self.told)]


@pytest.mark.parametrize("seconds", [30, 300])
def test_a12_an_outage_is_said_once_when_it_begins_and_once_when_it_ends(
    seconds: int, caplog: pytest.LogCaptureFixture
) -> None:
    service, followed, seen = Service(script=Outage(1, 1 + seconds)), Followed(), list[Stats]()

    async def job() -> None:
        async with embedder_of(service, Latency(1.0, fixed=0.5), concurrency=4, max_batch_size=5) as embedder:
            running = asyncio.create_task(embedder.embed_into(MemoryStore(), records(words(300)), on_progress=followed))
            await asyncio.sleep(seconds * 0.8)
            seen.append(embedder.stats())
            assert (await running).stored == 300
            seen.append(embedder.stats())

    with caplog.at_level(logging.INFO, "aembed"):
        run_virtual(job)
    [line] = said(caplog, logging.WARNING, "")
    assert line.startswith("waiting for in-process.test: 503")
    assert line.split(", ")[-1].startswith("next try in ")
    [end] = said(caplog, logging.INFO, "answers again")
    assert end.startswith("in-process.test answers again, after ")
    assert max(followed.gaps()) <= 1.01
    waiting = [progress for _, progress in followed.told if progress.waiting]
    assert len(waiting) > 0.8 * seconds
    assert all(later.seconds > earlier.seconds for earlier, later in pairwise(waiting))
    assert all("waiting for in-process.test: 503" in str(progress) for progress in waiting)
    assert followed.told[-1][1].waiting == ""
    assert "error" not in str(followed.told[-1][1])
    assert seen[0].last_error.startswith("503")
    assert 0.5 * seconds < seen[0].failing_seconds < seconds
    assert seen[1].failing_seconds == 0.0


async def test_a12_nobody_listens_at_the_address(caplog: pytest.LogCaptureFixture) -> None:
    """Over a real socket, as where a local server was not started."""
    port, followed = free_port(), Followed()
    options: dict[str, Any] = {"base_url": f"http://127.0.0.1:{port}/v1", "retry": RetryPolicy(3, 0.05, 0.1, 3.0)}
    async with Embedder("openai:text-embedding-3-small", api_key="sk-x", concurrency=2, **options) as embedder:
        with caplog.at_level(logging.WARNING, "aembed"), pytest.raises(OutageError) as raised:
            await embedder.embed_documents(words(100), on_progress=followed)
    [line] = said(caplog, logging.WARNING, "")
    assert line.startswith(f"waiting for 127.0.0.1:{port}: ")
    assert "onnect" in line
    assert raised.value.report
    assert raised.value.report.last_error
    assert raised.value.report.last_error in str(raised.value.report)
    assert max(followed.gaps()) < 2


@pytest.mark.parametrize("seconds", [3.0, 40.0])
def test_a12_a_rate_limit_that_asks_for_a_long_wait_is_said(seconds: float, caplog: pytest.LogCaptureFixture) -> None:
    def script(number: int, texts: Sequence[str]) -> Any:
        if 8 <= number < 16:
            return RateLimitError("429: slow down", status_code=429, hints=Hints(retry_after=seconds))
        return 1.0

    followed = Followed()

    async def job() -> None:
        async with Embedder(FakeProvider(limits=TEN, script=script), concurrency=8) as embedder:
            await embedder.embed_documents(words(300), on_progress=followed)

    with caplog.at_level(logging.INFO, "aembed"):
        run_virtual(job)
    warnings, ends = said(caplog, logging.WARNING, "waiting for fake: 429"), said(caplog, logging.INFO, "answers again")
    assert (len(warnings), len(ends)) == ((1, 1) if seconds > 5 else (0, 0))
    assert not warnings or "429: slow down, next try in 4" in warnings[0]
    assert max(followed.gaps()) <= 1.01


def test_a12_a_limit_of_the_minute_that_makes_wait_for_long_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """As on a plan of three requests a minute: each waits for twenty seconds."""
    followed = Followed()

    async def job() -> None:
        async with Embedder(FakeProvider(limits=TEN), requests_per_minute=3, concurrency=2) as embedder:
            report = await embedder.embed_documents(words(200), on_progress=followed)
        assert len(report) == 200
        assert now() > 300

    with caplog.at_level(logging.INFO, "aembed"):
        run_virtual(job)
    [line] = said(caplog, logging.WARNING, "")
    assert line.startswith("waiting for fake: 3 requests a minute are used up, next request in ")
    assert len(said(caplog, logging.INFO, "the next request to fake goes, after")) == 1
    assert max(followed.gaps()) <= 1.01
    assert sum("a minute are used up" in str(progress) for _, progress in followed.told) > 200


def test_a12_a_hung_provider_is_no_silence() -> None:
    followed = Followed()

    async def job() -> None:
        async with Embedder(FakeProvider(limits=TEN, latency=40.0)) as embedder:
            await embedder.embed_documents(words(10), on_progress=followed)

    run_virtual(job)
    assert len(followed.told) >= 40
    assert max(followed.gaps()) <= 1.01
    assert [progress.seconds for _, progress in followed.told] == sorted(p.seconds for _, p in followed.told)


def test_a12_queries_in_an_outage_are_said_too(caplog: pytest.LogCaptureFixture) -> None:
    provider = FakeProvider(script=lambda number, texts: UnavailableError("503: away") if number < 30 else None)

    async def job() -> None:
        async with Embedder(provider) as embedder:
            vectors = await asyncio.gather(*(embedder.embed_query(text, timeout=600) for text in words(20)))
            assert len(vectors) == 20
            stats = embedder.stats()
            assert (stats.last_error, stats.failing_seconds) == ("503: away", 0.0)

    with caplog.at_level(logging.INFO, "aembed"):
        run_virtual(job)
    assert len(said(caplog, logging.WARNING, "waiting for fake: 503: away, next try in ")) == 1
    assert len(said(caplog, logging.INFO, "fake answers again")) == 1


async def test_a12_the_next_job_in_the_same_outage_says_it_no_second_time(caplog: pytest.LogCaptureFixture) -> None:
    retry = RetryPolicy(3, 0.05, 0.1, 0.5)
    async with Server(script=Always(Status(503))) as server, at(server, retry=retry) as embedder:
        with caplog.at_level(logging.WARNING, "aembed"):
            for _ in range(3):
                with pytest.raises(OutageError):
                    await embedder.embed_documents(words(50))
        server.service.script = None
        await until(lambda: embedder.stats().retry_after == 0.0)
        assert len(await embedder.embed_documents(words(50))) == 50
    assert len(said(caplog, logging.WARNING, "waiting for 127.0.0.1")) == 1


def test_a12_a_job_that_ends_well_shows_no_error_of_the_way(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(script=Outage(0, 10))

    async def job() -> None:
        async with embedder_of(service, Latency(1.0)) as embedder:
            report = (await embedder.embed_documents(words(50))).report
            assert (report.pending, bool(report.last_error)) == (0, True)
            assert "last error" not in str(report)
            later = (await embedder.embed_documents(words(50, 100))).report
            assert later.last_error == ""

    run_virtual(job)


# the command


async def test_a12_the_command_says_what_it_waits_for_and_goes_on(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(200))
    port = free_port()
    env = environment(OPENAI_BASE_URL=f"http://127.0.0.1:{port}/v1", OPENAI_API_KEY="sk-x")
    command = [*COMMAND, "index", "a.jsonl", "-m", "openai:text-embedding-3-small"]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr
    heard = ""
    async with asyncio.timeout(60):
        while heard.count("waiting for") < 2:  # in the log, and in a line of the progress
            heard += (await process.stderr.readline()).decode()
    async with Server(port=port) as server:
        out, rest = await process.communicate()
        assert server.ledger.accepted
    assert process.returncode == 0, heard + rest.decode()
    assert f"waiting for 127.0.0.1:{port}: " in heard
    assert ", next try in " in heard
    assert "waiting" not in out.decode()


def test_a12_the_bar_has_it_on_a_line_of_its_own(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(200))
    url = f"http://127.0.0.1:{free_port()}/v1"
    with terminal(tmp_path, "index", "a.jsonl", "-m", "ollama:nomic-embed-text", "--base-url", url) as opened:
        opened.read_until("next try in 1 s")
        opened.process.terminate()
        opened.end()
    assert "0/200 texts" in opened.seen
    assert "waiting for 127.0.0.1" in opened.seen


async def test_a12_the_summary_and_the_status_of_a_job_that_gave_up_name_the_last_error(tmp_path: Path) -> None:
    retry = RetryPolicy(3, 0.05, 0.1, 0.5)
    async with Server(script=Always(Status(503))) as server, at(server, retry=retry) as embedder:
        with pytest.raises(OutageError):
            await embedder.embed_into(tmp_path / "aembed.db", records(words(50)))
    ran = await asyncio.to_thread(aembed, tmp_path, "status", "--store", str(tmp_path / "aembed.db"))
    assert ran.code == 0
    assert "50 pending" in ran.out
    assert "last error: 503" in ran.out
