"""Whole jobs against the simulated service over real sockets, in the words of each service that has batches."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aembed import Embedder, Record, Report, SQLiteStore, open_provider
from tests.service.batches.faults import (
    AT_ONCE,
    Course,
    CutOff,
    Doubled,
    LineFault,
    Lost,
    Plans,
    Refuse,
    TakesEffectLater,
)
from tests.service.batches.services import WIRES
from tests.service.server import Server
from tests.service.vectors import vector_of

pytestmark = pytest.mark.anyio

NAMES = {
    "openai": "openai:text-embedding-3-small",
    "voyage": "voyage:voyage-4",
    "mistral": "mistral:mistral-embed",
    "dashscope": "dashscope:text-embedding-v4",
    "gemini": "gemini:gemini-embedding-001",
}
GIVEN = [Record(str(number), f"text number {number}") for number in range(510)]
HOUR = 3_600.0


class Runs:
    """Runs of processes of their own, against one service and one store; their clock is that of the service."""

    def __init__(self, server: Server, name: str, folder: Path) -> None:
        self.server, self._name, self._place = server, name, folder / "rows.db"

    async def run(self, given: Sequence[Record] = GIVEN, **options: Any) -> Report:
        url = f"{self.server.root}/v1beta" if self._name.startswith("gemini") else self.server.url
        provider = open_provider(self._name, api_key="sk-x", base_url=url)
        async with Embedder(provider) as embedder:
            embedder._engine.clock = lambda: time.time() + self.server.batches.ahead
            return await embedder.embed_into(self._place, given, batch=True, **options)

    async def are_right(self, given: Sequence[Record] = GIVEN) -> bool:
        store = SQLiteStore(self._place)
        rows = {row.id: row async for row in store.rows()}
        await store.aclose()
        return rows.keys() == {record.id for record in given} and all(
            np.allclose(rows[each.id].vector, vector_of(each.text, len(rows[each.id].vector)), atol=1e-6)
            for each in given
        )


@asynccontextmanager
async def runs(folder: Path, service: str = "openai", plans: Plans | None = None) -> AsyncIterator[Runs]:
    async with Server() as server:
        server.batches.plans = plans or Plans(usual=AT_ONCE)
        server.batches.epoch = time.time()
        server.batch_wire = WIRES[service](server.batches)
        yield Runs(server, NAMES.get(service, f"{service}:text-embedding-3-small"), folder)


@pytest.mark.parametrize("service", NAMES)
async def test_a_job_goes_out_and_comes_back(service: str, tmp_path: Path) -> None:
    async with runs(tmp_path, service) as made:
        assert (await made.run()).submitted == len(GIVEN)
        report = await made.run()
        assert (report.stored, report.submitted) == (len(GIVEN), 0)
        assert await made.are_right()
        assert report.billed_tokens == made.server.ledger.billed_tokens > 0
        assert made.server.ledger.requests == 0


async def test_where_embeddings_are_unproven_one_line_goes_first(tmp_path: Path) -> None:
    async with runs(tmp_path, "azure") as made:
        report = await made.run()
        assert (report.submitted, report.pending) == (255, 255)
        report = await made.run()
        assert (report.stored, report.submitted) == (255, 255)
        assert (await made.run()).stored == 255
        assert await made.are_right()
        assert set(made.server.ledger.times_billed.values()) == {1}


FAULTS: list[LineFault] = [
    "neither file",
    "status 0",
    "500",
    "refused",
    "doubled",
    "null id",
    "wrong width",
    "not JSON",
]


@pytest.mark.parametrize("fault", FAULTS)
async def test_q5_to_q8_a_line_that_goes_wrong_is_made_good(fault: LineFault, tmp_path: Path) -> None:
    course = Course(0.0, 0.0, 0.0, 0.0, lines={0: fault}, order="shuffled")
    async with runs(tmp_path, plans=Plans([course], usual=AT_ONCE)) as made:
        await made.run()
        for _ in range(3):
            report = await made.run()
        assert (report.unchanged + report.stored, report.failed) == (len(GIVEN), 0)
        assert await made.are_right()


async def test_q1_to_q2_q9_lost_answers_and_cut_files_buy_nothing_twice(tmp_path: Path) -> None:
    plans = Plans(usual=AT_ONCE, upload=[Lost()], create=[Lost()], content=[CutOff(1_000_000)], delete=[Refuse(500)])
    async with runs(tmp_path, plans=plans) as made:
        await made.run()
        for _ in range(4):
            report = await made.run()
        assert report.unchanged == len(GIVEN)
        assert await made.are_right()
        assert report.bought_twice == 0


@pytest.mark.parametrize("runs_without_file", [False, True])
async def test_q2_to_q3_a_create_that_comes_an_hour_later(runs_without_file: bool, tmp_path: Path) -> None:
    plans = Plans(usual=AT_ONCE, create=[TakesEffectLater(HOUR, runs_without_file)])
    async with runs(tmp_path, plans=plans) as made:
        given = GIVEN[:20]
        assert (await made.run(given)).submitted == 20
        made.server.batches.advance(700.0)
        assert (await made.run(given)).submitted == 20
        assert (await made.run(given)).stored == 20
        made.server.batches.advance(HOUR)
        report = await made.run(given)
        assert (report.unchanged, report.bought_twice) == (20, 20 if runs_without_file else 0)
        assert await made.are_right(given)


async def test_q18_a_create_that_something_on_the_way_sends_twice(tmp_path: Path) -> None:
    plans = Plans(usual=Course(0.0, HOUR, 0.0, 60.0), create=[Doubled()])
    async with runs(tmp_path, plans=plans) as made:
        assert (await made.run()).submitted == len(GIVEN)
        ran, told = 0, 0
        for _ in range(3):
            made.server.batches.advance(0.7 * HOUR)
            report = await made.run()
            ran, told = ran + report.billed_tokens, told + report.bought_twice
        assert report.unchanged == len(GIVEN)
        assert await made.are_right()
        times = made.server.ledger.times_billed
        assert (ran, told) == (made.server.ledger.billed_tokens, sum(times.values()) - len(times))
        assert told > 0


async def test_q4_q11_q12_batches_that_expire_or_fail(tmp_path: Path) -> None:
    expires = Course(0.0, 10 * HOUR, 0.0, 0.0, stops_at=0.5)
    full = Course(0.0, 0.0, 0.0, 0.0, fails="token_limit_exceeded")
    async with runs(tmp_path, plans=Plans([expires, full], usual=AT_ONCE)) as made:
        assert (await made.run()).submitted == len(GIVEN)
        made.server.batches.advance(25 * HOUR)
        report = await made.run()
        assert report.stored > 0
        assert report.stored + report.submitted == len(GIVEN)
        for _ in range(4):
            report = await made.run()
        assert report.unchanged + report.stored == len(GIVEN)
        assert await made.are_right()
