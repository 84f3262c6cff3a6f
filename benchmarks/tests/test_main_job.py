"""The bars of the main job, on a smaller job; benchmarks/costs/main_job.py and memory.py have the whole one."""

from __future__ import annotations

from pathlib import Path

from benchmarks.costs import main_job, memory
from tests.sections import sections


async def test_real_sections_over_real_sockets_are_paid_for_once_in_as_few_requests(tmp_path: Path) -> None:
    outcome = await main_job.run(sections(3_000), tmp_path / "rows.db", concurrency=4)
    assert list(outcome.problems()) == []
    assert (outcome.first.report.stored, outcome.second.report.unchanged) == (3_000, 3_000)


async def test_with_latency_all_slots_are_used(tmp_path: Path) -> None:
    outcome = await main_job.run(sections(2_000), tmp_path / "rows.db", concurrency=4, latency=0.2)
    assert list(outcome.problems()) == []
    assert outcome.first.ledger["max_in_flight"] == 4


def test_i14_the_memory_of_a_long_stream_is_flat() -> None:
    samples = memory.measured(150_000)
    assert list(memory.problems(samples)) == []
    assert samples[-1].stored == 150_000


async def test_a7_over_sockets_the_whole_corpus_costs_one_refusal_at_the_most(tmp_path: Path) -> None:
    outcome = await main_job.run(sections(), tmp_path / "rows.db", concurrency=8, overcount=0.005)
    assert list(outcome.problems()) == []
