"""This module makes the dry run of a job: the same job, with a dispatcher that sends nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import numpy as np

from aembed.core.changes import Item
from aembed.core.packing import Cap
from aembed.dispatch import Answered, Deliver, Submission, WaitReport
from aembed.results import Plan, Report
from aembed.types import Reply


class DryDispatcher:
    """A dispatcher that answers each batch with vectors of one dimension, which nobody stores."""

    def __init__(self, concurrency: int, cap: Cap) -> None:
        self.concurrency = self.slots = concurrency
        self.wait_report = WaitReport()
        self.cap = cap

    def start_task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.Task(coroutine, loop=asyncio.get_running_loop())

    async def send(self, batch: Sequence[Item], submission: Submission, deliver: Deliver) -> None:
        submission.requests += 1
        inputs = sum(len(item.texts) for item in batch)
        await deliver(Answered(batch, Reply(np.ones((inputs, 1), dtype=np.float32))))


def make_plan(report: Report, changed: int) -> Plan:
    return Plan(
        inputs=report.inputs,
        new=report.stored - changed,
        changed=changed,
        unchanged=report.unchanged,
        failed=report.failed,
        duplicates=report.duplicates,
        requests=report.requests,
        tokens=report.billed_tokens,
        cost_usd=report.cost_usd,
        failures=report.failures,
    )
