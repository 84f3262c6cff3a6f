from __future__ import annotations

from math import isfinite

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aembed.core.headers import never_clearing_limit, parse_hints
from aembed.core.waits import parse_duration, retry_after_in
from aembed.types import Hints

DATE = "Wed, 21 Oct 2015 07:28:00 GMT"
NAMES = [
    "retry-after",
    "retry-after-ms",
    "date",
    "x-should-retry",
    "x-amz-retry-after",
    "llm_provider-retry-after",
    "llm_provider-retry-after-ms",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    *(
        f"x-ratelimit-{part}-{unit}"
        for part in ("limit", "remaining", "reset")
        for unit in ("requests", "tokens", "project-requests", "project-tokens")
    ),
    *(
        f"x-ratelimit-{part}-{unit}-{window}"
        for part in ("limit", "remaining", "reset")
        for unit in ("req", "tokens", "inputs")
        for window in ("second", "10-second", "minute", "day")
    ),
]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "510"}, 0.51),
        ({"retry-after-ms": "510.5"}, 0.5105),
        ({"retry-after-ms": "0"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 9.0),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after-ms": "-5", "retry-after": "9"}, 9.0),
        ({"retry-after": "20"}, 20.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": ".5"}, 0.5),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "20s"}, 20.0),
        ({"retry-after": "1m30s"}, 90.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": DATE}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 +0000", "date": DATE}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2015 09:28:30 +0200", "date": DATE}, 30.0),
        ({"retry-after": "Wednesday, 21-Oct-15 07:28:30 GMT", "date": DATE}, 30.0),
        ({"retry-after": "Wed Oct 21 07:28:30 2015", "date": DATE}, 30.0),
        ({"retry-after": DATE, "date": DATE}, 0.0),
        ({"retry-after": "1000000"}, 1e6),
    ],
)
def test_p1_retry_after_in_every_form(headers: dict[str, str], seconds: float) -> None:
    assert parse_hints(headers).retry_after == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-1",
        "+1",
        "nan",
        "inf",
        "-inf",
        "Infinity",
        "1e9",
        "1e1",
        "1000000001",
        "9" * 400,
        "1_000",
        "٣",
        "0x10",
        "1,5",
        "5, 10",
        "5, 5",
        "soon",
        "Wed, 21 Oct 2015 07:27:30 GMT",
        "Wed, 21 Oct 2015 99:28:30 GMT",
        "Wed, 21 Oct 99999 07:28:30 GMT",
        "Wed, 21 Oct 2065 07:28:30 GMT",
        "Wed, 21 Oct 2015 07:28:30 +9999",
        "\x00",
        "1\n2",
    ],
)
def test_p2_a_retry_after_that_cannot_be_meant_is_none(text: str) -> None:
    assert parse_hints({"retry-after": text, "date": DATE}).retry_after is None
    assert parse_hints({"retry-after-ms": text}).retry_after is None


def test_p3_a_date_counts_from_the_clock_of_the_reply() -> None:
    headers = {"retry-after": "Wed, 21 Oct 2015 08:28:10 GMT", "date": "Wed, 21 Oct 2015 08:28:00 GMT"}
    assert parse_hints(headers).retry_after == 10.0
    assert parse_hints({"retry-after": "Wed, 21 Oct 2015 08:28:10 GMT"}).retry_after is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6ms", 0.006),
        ("117ms", 0.117),
        ("12ms", 0.012),
        ("1s", 1.0),
        ("8.64s", 8.64),
        ("1m30s", 90.0),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("23h59m59.5s", 86399.5),
        ("150us", 150e-6),
        ("150µs", 150e-6),
        ("3ns", 3e-9),
        ("0s", 0.0),
        ("0", 0.0),
        ("12.5", 12.5),
    ],
)
def test_p4_go_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "m1", "-1s", "1x", "1s garbage", "1h2", "nans", "1e3s", "1" * 99 + "s", "999h"]
)
def test_p4_durations_that_are_none(text: str) -> None:
    assert parse_duration(text) is None


@given(st.lists(st.tuples(st.integers(0, 99), st.sampled_from(["h", "m", "s", "ms", "us"])), min_size=1, max_size=4))
def test_p4_every_duration_of_the_grammar_is_read(parts: list[tuple[int, str]]) -> None:
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}
    total = sum(value * units[unit] for value, unit in parts)
    text = "".join(f"{value}{unit}" for value, unit in parts)
    assert parse_duration(text) == (pytest.approx(total) if total <= 1e6 else None)


VALUES = st.text(max_size=40) | st.floats().map(str) | st.integers().map(str) | st.sampled_from(["6ms", DATE, "true"])


@example({"x-ratelimit-limit-requests": "0\x1f"}, "")
@example({"retry-after-ms": "0\x1f"}, "")
@given(st.dictionaries(st.sampled_from(NAMES), VALUES), st.text(max_size=80))
def test_p2_no_header_raises_and_no_hint_is_absurd(headers: dict[str, str], body: str) -> None:
    hints = parse_hints(headers, body)
    for seconds in (hints.retry_after, hints.reset_requests, hints.reset_tokens, hints.reset_texts):
        assert seconds is None or (isfinite(seconds) and 0 <= seconds <= 1e6)
    for limit in (hints.limit_requests, hints.limit_tokens, hints.limit_texts):
        assert limit is None or limit > 0
    for window in (hints.window_requests, hints.window_tokens, hints.window_texts):
        assert 1.0 <= window <= 3_600.0
    for remaining in (hints.remaining_requests, hints.remaining_tokens, hints.remaining_texts):
        assert remaining is None or remaining >= 0


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Rate limit reached. Limit 1000000, Used 1000000, Requested 8503. Please try again in 510ms.", 0.51),
        ("Please try again in 1m30s. Visit https://example.com", 90.0),
        ("Please try again in 6m0s.", 360.0),
        ("try again in 20s", 20.0),
        ("Please retry after 3 seconds. To increase your limit", 3.0),
        ("Please retry after 1 second.", 1.0),
        ("retry after 2. seconds", 2.0),
        ("retry after 1.2.3 seconds", None),
        ("x" * 2_000 + "try again in 20s", None),
        ("Retrying in 1.5 minutes", 90.0),
        ("Retry after 2 hours", 7_200.0),
        ("Retry in 1 hour", 3_600.0),
        ("retry after 200 milliseconds", 0.2),
        ("try again in 20", None),
        ("try again in a while", None),
        ("try again in -5s", None),
        ("try again in 5 score years", None),
        ("", None),
    ],
)
def test_p1_the_message_of_a_429_is_a_hint(message: str, seconds: float | None) -> None:
    assert retry_after_in(message) == pytest.approx(seconds)


def test_p1_headers_are_believed_before_the_message() -> None:
    assert parse_hints({"retry-after": "2"}, "try again in 9s").retry_after == 2.0
    assert parse_hints({"retry-after": "never"}, "try again in 9s").retry_after == 9.0


def test_limits_of_a_recorded_reply() -> None:
    headers = {
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-limit-tokens": "10000000",
        "x-ratelimit-remaining-requests": "9999",
        "x-ratelimit-remaining-tokens": "9999976",
        "x-ratelimit-reset-requests": "6ms",
        "x-ratelimit-reset-tokens": "0s",
        "x-should-retry": "true",
    }
    assert parse_hints(headers) == Hints(None, True, 10_000, 9_999, 0.006, 10_000_000, 9_999_976, 0.0)


def test_limits_of_azure_are_ignored_where_they_say_nothing() -> None:
    headers = {
        "x-ratelimit-limit-requests": "0",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-limit-tokens": "-1",
        "x-ratelimit-remaining-tokens": "-1",
    }
    assert parse_hints(headers) == Hints()


def test_remaining_without_a_limit_counts_unless_it_is_zero() -> None:
    assert parse_hints({"x-ratelimit-remaining-requests": "119"}).remaining_requests == 119
    exhausted = {"x-ratelimit-limit-requests": "120", "x-ratelimit-remaining-requests": "0"}
    assert parse_hints(exhausted).remaining_requests == 0


@pytest.mark.parametrize(("project", "left"), [("50", 50), ("900", 800), ("", 800), ("-1", 800)])
def test_the_tighter_of_organization_and_project_wins(project: str, left: int) -> None:
    headers = {
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "800",
        "x-ratelimit-reset-tokens": "12s",
        "x-ratelimit-limit-project-tokens": "950",
        "x-ratelimit-remaining-project-tokens": project,
        "x-ratelimit-reset-project-tokens": "57s",
    }
    hints = parse_hints(headers)
    limit, reset = (950, 57.0) if left == 50 else (1000, 12.0)
    assert (hints.remaining_tokens, hints.limit_tokens, hints.reset_tokens) == (left, limit, reset)


@pytest.mark.parametrize("part", ["limit", "remaining"])
def test_one_header_of_a_project_is_a_limit_of_it(part: str) -> None:
    headers = {"x-ratelimit-limit-tokens": "1000", f"x-ratelimit-{part}-project-tokens": "50"}
    hints = parse_hints(headers)
    assert (hints.limit_tokens, hints.remaining_tokens) == ((50, None) if part == "limit" else (None, 50))


@pytest.mark.parametrize(("text", "said"), [("true", True), ("False", False), ("maybe", None), ("", None)])
def test_should_retry(text: str, said: bool | None) -> None:
    assert parse_hints({"x-should-retry": text}).should_retry is said


@pytest.mark.parametrize(("text", "limit"), [("1000000000000", 10**12), ("1000000000001", None), ("60000.0", 60_000)])
def test_a_limit_is_a_whole_number_that_can_be_meant(text: str, limit: int | None) -> None:
    assert parse_hints({"x-ratelimit-limit-tokens": text}).limit_tokens == limit


MISTRAL = {
    "x-ratelimit-limit-req-10-second": "10",
    "x-ratelimit-remaining-req-10-second": "7",
    "x-ratelimit-limit-req-minute": "30",
    "x-ratelimit-remaining-req-minute": "29",
    "x-ratelimit-limit-tokens-minute": "50000",
    "x-ratelimit-remaining-tokens-minute": "49000",
    "x-ratelimit-limit-tokens-month": "4000000",
    "x-ratelimit-remaining-tokens-month": "3999000",
}


def test_a20_the_window_is_in_the_name_of_the_header_and_the_slowest_limit_counts() -> None:
    """Ten in ten seconds are sixty a minute: thirty a minute are fewer."""
    assert parse_hints(MISTRAL) == Hints(
        limit_requests=30, remaining_requests=29, limit_tokens=50_000, remaining_tokens=49_000
    )
    faster = MISTRAL | {"x-ratelimit-limit-req-minute": "61", "x-ratelimit-reset-req-10-second": "4s"}
    hints = parse_hints(faster)
    assert (hints.limit_requests, hints.remaining_requests, hints.window_requests) == (10, 7, 10.0)
    assert hints.reset_requests == 4.0
    assert (hints.limit_tokens, hints.window_tokens) == (50_000, 60.0)


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("second", 1.0),
        ("2-second", 2.0),
        ("0-second", 1.0),
        ("minute", 60.0),
        ("5-minute", 300.0),
        ("60-minute", 3_600.0),
        ("hour", 3_600.0),
    ],
)
@pytest.mark.parametrize(
    ("unit", "field"),
    [("req", "requests"), ("requests", "requests"), ("tokens", "tokens"), ("inputs", "texts"), ("texts", "texts")],
)
def test_a20_a_window_of_any_unit_and_length(name: str, seconds: float, unit: str, field: str) -> None:
    headers = {f"x-ratelimit-limit-{unit}-{name}": "40", f"x-ratelimit-remaining-{unit}-{name}": "39"}
    hints = parse_hints(headers | {f"x-ratelimit-reset-{unit}-{name}": "3"})
    read = [getattr(hints, f"{part}_{field}") for part in ("limit", "remaining", "reset", "window")]
    assert read == [40, 39, 3.0, seconds]
    assert hints.spent_window == ""
    others = {"requests", "tokens", "texts"} - {field}
    assert all(getattr(hints, f"limit_{other}") is None for other in others)
    assert all(getattr(hints, f"window_{other}") == 60.0 for other in others)


@pytest.mark.parametrize("name", ["req-fortnight", "cats-minute", "req-12345-second", "req-minute-x", "req-2-3-second"])
def test_a20_a_name_that_is_none_of_these_says_nothing(name: str) -> None:
    assert parse_hints({f"x-ratelimit-limit-{name}": "40", f"x-ratelimit-remaining-{name}": "0"}) == Hints()


@pytest.mark.parametrize(("name", "window"), [("tokens-month", "month"), ("req-day", "day")])
def test_a20_a_month_that_is_used_up_sets_no_pace_and_is_told(name: str, window: str) -> None:
    headers = {f"x-ratelimit-limit-{name}": "4000", f"x-ratelimit-remaining-{name}": "0"}
    assert parse_hints(headers) == Hints(spent_window=window)
    assert parse_hints(MISTRAL | headers).spent_window == window
    assert parse_hints(headers | {f"x-ratelimit-remaining-{name}": "1"}) == Hints()
    assert parse_hints({f"x-ratelimit-remaining-{name}": "0"}) == Hints()
    assert parse_hints(headers | {f"x-ratelimit-limit-{name}": "0"}) == Hints()


def test_a20_a_longer_window_that_is_used_up_is_told_whatever_stands_beside_it() -> None:
    month = {"x-ratelimit-limit-tokens-month": "40", "x-ratelimit-remaining-tokens-month": "0"}
    day = {"x-ratelimit-limit-tokens-day": "40", "x-ratelimit-remaining-tokens-day": "4"}
    assert parse_hints(month | day).spent_window == parse_hints(day | month).spent_window == "month"


def test_a20_usual_names_are_a_minute_and_named_windows_go_before_them() -> None:
    headers = {"x-ratelimit-limit-tokens": "900", "x-ratelimit-limit-requests-second": "3"}
    hints = parse_hints(headers)
    assert (hints.limit_tokens, hints.window_tokens) == (900, 60.0)
    assert (hints.limit_requests, hints.window_requests) == (3, 1.0)


@pytest.mark.parametrize(
    ("reset", "window"),
    [
        ("0", 1.0),
        ("0.5", 1.0),
        ("1", 1.0),
        ("1.5", 2.0),
        ("2", 2.0),
        ("3", 5.0),
        ("5s", 5.0),
        ("7", 10.0),
        ("11", 60.0),
        ("60", 60.0),
        ("1m1s", 3_600.0),
        ("3600", 3_600.0),
    ],
)
def test_a20_one_reset_of_all_limits_is_the_end_of_a_usual_window(reset: str, window: float) -> None:
    headers = {
        "x-ratelimit-limit-tokens": "3000",
        "x-ratelimit-remaining-tokens": "2910",
        "x-ratelimit-reset": reset,
    }
    hints = parse_hints(headers)
    assert (hints.limit_tokens, hints.remaining_tokens, hints.window_tokens) == (3_000, 2_910, window)
    assert hints.reset_tokens == parse_duration(reset)
    assert (hints.limit_requests, hints.window_requests) == (None, 60.0)


@pytest.mark.parametrize("reset", ["3601", "soon", "", "-1"])
def test_a20_a_reset_that_is_no_end_of_a_window_says_nothing_of_it(reset: str) -> None:
    hints = parse_hints({"x-ratelimit-limit-tokens": "3000", "x-ratelimit-reset": reset})
    assert (hints.limit_tokens, hints.reset_tokens, hints.window_tokens) == (3_000, None, 60.0)


def test_a20_a_limit_with_a_reset_of_its_own_keeps_its_minute() -> None:
    headers = {"x-ratelimit-limit-tokens": "3000", "x-ratelimit-reset-tokens": "9s", "x-ratelimit-reset": "2"}
    hints = parse_hints(headers)
    assert (hints.reset_tokens, hints.window_tokens) == (9.0, 60.0)


def test_a20_a_limit_without_a_unit_is_one_of_requests() -> None:
    headers = {"x-ratelimit-limit": "100", "x-ratelimit-remaining": "99", "x-ratelimit-reset": "2"}
    assert parse_hints(headers) == Hints(
        limit_requests=100, remaining_requests=99, reset_requests=2.0, window_requests=2.0
    )
    assert parse_hints({"x-ratelimit-limit": "0", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "2"}) == Hints(
        remaining_requests=0
    )
    assert parse_hints(headers | {"x-ratelimit-limit-tokens": "5"}).limit_requests is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "1", "retry-after-ms": "0"}, 1.0),
        ({"retry-after-ms": "0", "retry-after": "0"}, 0.0),
        ({"retry-after-ms": "0", "retry-after": "0.5"}, 0.5),
        ({"retry-after": "7", "retry-after-ms": "6500"}, 6.5),
        ({"retry-after": "7", "retry-after-ms": "6000"}, 7.0),
        ({"retry-after": "2", "retry-after-ms": "9000"}, 9.0),
        ({"retry-after": "2", "llm_provider-retry-after": "17"}, 17.0),
        ({"retry-after": "2", "llm_provider-retry-after-ms": "17000"}, 17.0),
        ({"llm_provider-retry-after": "17"}, 17.0),
        ({"x-amz-retry-after": "1500"}, 1.5),
        ({"x-amz-retry-after": "1500", "retry-after": "30"}, 30.0),
        ({"x-amz-retry-after": "never", "retry-after": "3"}, 3.0),
        ({"llm_provider-retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": DATE}, 30.0),
        ({"retry-after-ms": "1000000001", "retry-after": "4"}, 4.0),
    ],
)
def test_a20_of_several_waits_the_larger_and_of_the_same_wait_the_finer_one(
    headers: dict[str, str], seconds: float
) -> None:
    assert parse_hints(headers).retry_after == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("headers", "never"),
    [
        ({"x-ratelimit-limit-req-minute": "0"}, "x-ratelimit-limit-req-minute: 0"),
        (
            {"x-ratelimit-limit-tokens-month": " 0 ", "x-ratelimit-limit-req-minute": "9"},
            "x-ratelimit-limit-tokens-month: 0",
        ),
        ({"x-ratelimit-limit-req-minute": "10"}, ""),
        ({"x-ratelimit-remaining-req-minute": "0"}, ""),
        ({"x-ratelimit-limit-requests": "0"}, ""),
        ({"x-ratelimit-limit-req-minute-x": "0"}, ""),
        ({}, ""),
    ],
)
def test_a20_a_limit_of_nothing_in_a_named_window_never_clears(headers: dict[str, str], never: str) -> None:
    """Azure's 0 requests in its usual names are no limit at all, where a wait is named beside them."""
    assert never_clearing_limit(headers) == never


def test_a20_a_limit_of_nothing_never_clears_where_no_wait_is_named() -> None:
    headers = {"x-ratelimit-limit-requests": "0"}
    assert never_clearing_limit(headers, hinted=False) == "x-ratelimit-limit-requests: 0"
