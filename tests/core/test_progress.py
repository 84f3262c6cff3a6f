from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.core.progress import KEPT_FAILURES, Tally
from aembed.errors import InputError
from aembed.results import Failure, Progress, Report

count = st.integers(0, 1_000)


def failures(n: int, start: int = 0) -> list[Failure]:
    return [Failure(f"id{index}", index, InputError("no")) for index in range(start, start + n)]


@given(count, count, count, count)
def test_every_input_is_stored_unchanged_failed_or_pending(
    stored: int, unchanged: int, failed: int, pending: int
) -> None:
    tally = Tally(0.0, inputs=stored + unchanged + failed + pending, stored=stored, unchanged=unchanged)
    tally.fail(failures(failed))
    for progress in (tally.make_progress(1.0), tally.report(1.0)):
        assert (progress.stored, progress.unchanged, progress.failed) == (stored, unchanged, failed)
        assert progress.pending == pending


def test_failures_are_kept_up_to_a_thousand_and_all_are_counted() -> None:
    tally = Tally(0.0, inputs=3 * KEPT_FAILURES)
    for start in range(0, 2 * KEPT_FAILURES, 300):
        tally.fail(failures(300, start))
    report = tally.report(1.0)
    assert report.failed == 2_100
    assert [failure.index for failure in report.failures] == list(range(KEPT_FAILURES))


def test_failures_are_shown_in_the_order_of_the_input() -> None:
    tally = Tally(0.0)
    tally.fail([*failures(1, 7), *failures(2, 3)])
    assert [failure.index for failure in tally.report(0.0).failures] == [3, 4, 7]


@pytest.mark.parametrize(("price", "cost"), [(None, None), (0.02, 0.03), (0.0, 0.0)])
def test_cost_is_known_where_the_price_is(price: float | None, cost: float | None) -> None:
    assert Tally(0.0, price_usd=price, billed_tokens=1_500_000).report(0.0).cost_usd == pytest.approx(cost)


def test_progress_and_report_are_the_same_readable_line() -> None:
    tally = Tally(
        10.0, price_usd=0.02, inputs=12_345, stored=12_000, unchanged=300, duplicates=5, removed=2, requests=7
    )
    tally.retries, tally.billed_tokens = 1, 1_000_000
    tally.fail(failures(5))
    line = (
        "12,345 texts, 12,000 stored, 300 unchanged, 5 failed, 40 pending, 5 duplicates, 2 removed, "
        "7 requests, 1 retry, 1,000,000 tokens, $0.0200 in 2.5 s"
    )
    progress, report = tally.make_progress(12.5), tally.report(12.5)
    assert (type(progress), str(progress)) == (Progress, line)
    assert (type(report), str(report)) == (Report, line)


def test_what_did_not_happen_is_left_out_of_the_line() -> None:
    line = "10 texts, 10 stored, 0 unchanged, 1 request, 20 tokens in 0.0 s"
    assert str(Tally(0.0, inputs=10, stored=10, requests=1, billed_tokens=20).report(0.0)) == line


def test_a_report_knows_how_many_there_are_and_how_many_were_refused_earlier() -> None:
    report = Tally(0.0, total=9, inputs=4, refused_earlier=3).report(1.0)
    assert (report.total, report.refused_earlier) == (9, 3)


def test_a_report_knows_what_was_paid_for_in_vain_and_what_may_be() -> None:
    report = Tally(0.0, lost_tokens=7, at_risk_tokens=11).report(1.0)
    assert (report.lost_tokens, report.at_risk_tokens) == (7, 11)
