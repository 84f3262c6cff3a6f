"""Callers that are cancelled, by the thousand; benchmarks.cancellations has more of them."""

from __future__ import annotations

import pytest

from benchmarks.promises.cancellations import cancellations


@pytest.mark.parametrize("client", ["httpx", "httpx2"])
async def test_c1_two_thousand_cancelled_callers_leave_nothing_behind(client: str) -> None:
    outcome = await cancellations(client, 2_000)
    assert list(outcome.problems()) == []
    assert outcome.cancelled >= 2_000
