from __future__ import annotations

from math import isfinite

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.core.headers import parse_duration, parse_hints, retry_after_in
from aembed.types import Hints

DATE = "Wed, 21 Oct 2015 07:28:00 GMT"
NAMES = [
    "retry-after",
    "retry-after-ms",
    "date",
    "x-should-retry",
    *(
        f"x-ratelimit-{part}-{unit}"
        for part in ("limit", "remaining", "reset")
        for unit in ("requests", "tokens", "project-requests", "project-tokens")
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


@given(st.dictionaries(st.sampled_from(NAMES), VALUES), st.text(max_size=80))
def test_p2_no_header_raises_and_no_hint_is_absurd(headers: dict[str, str], body: str) -> None:
    hints = parse_hints(headers, body)
    for seconds in (hints.retry_after, hints.reset_requests, hints.reset_tokens):
        assert seconds is None or (isfinite(seconds) and 0 <= seconds <= 1e6)
    for limit in (hints.limit_requests, hints.limit_tokens):
        assert limit is None or limit > 0
    for remaining in (hints.remaining_requests, hints.remaining_tokens):
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


@pytest.mark.parametrize(("text", "said"), [("true", True), ("False", False), ("maybe", None), ("", None)])
def test_should_retry(text: str, said: bool | None) -> None:
    assert parse_hints({"x-should-retry": text}).should_retry is said


@pytest.mark.parametrize(("text", "limit"), [("1000000000000", 10**12), ("1000000000001", None), ("60000.0", 60_000)])
def test_a_limit_is_a_whole_number_that_can_be_meant(text: str, limit: int | None) -> None:
    assert parse_hints({"x-ratelimit-limit-tokens": text}).limit_tokens == limit
