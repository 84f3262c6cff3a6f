"""A few of the random schedules; `python -m benchmarks.schedules` plays a hundred."""

from __future__ import annotations

import os

import pytest

from benchmarks.promises.schedules import play_all
from benchmarks.promises.schedules_drawn import schedule_of
from tests.stage.postgres import Pooler

SEEDS = (1, 2, 6)
"""With every event, and with tables that lose rows."""


def test_the_schedules_have_every_event() -> None:
    kinds = {event.kind for seed in SEEDS for event in schedule_of(seed).events}
    assert len(kinds) == 10
    assert any(schedule_of(seed).table.loses for seed in SEEDS)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
async def test_s7_c6_c7_the_ledger_and_the_table_agree_after_random_schedules(postgres: str, pooler: Pooler) -> None:
    """Replay one with `python -m benchmarks.schedules --seed N`."""
    assert await play_all(postgres, SEEDS, at_once=3) == []
