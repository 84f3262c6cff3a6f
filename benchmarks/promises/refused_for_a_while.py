"""A server that refuses everything with 429 for some seconds, or takes few requests in a short window.

    python -m benchmarks.refused_for_a_while [--runs 7]

On virtual time: batches that take 0.1 s, eight at a time, no header but `retry-after`, or not even that. Medians. What
is the least is when the server is there again, and what the job would have taken; or what the window lets through.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from statistics import median

from benchmarks.results import Bar, finish, table
from tests.stage.refusing import SECONDS_A_REPLY, Wait, away, run_job, window

BATCHES, AT_ONCE = 60, 8
WHILES = [(0.0, 1.0), (0.0, 3.0), (0.0, 10.0), (0.0, 30.0), (0.05, 1.0), (0.05, 10.0), (0.15, 10.0), (0.15, 30.0)]
WINDOWS = [(1, 1.0), (2, 1.0), (5, 5.0), (10, 10.0), (40, 60.0), (3, 60.0)]
# Chosen: the next try after a refusal without a hint is 5 s away at the most.
LATE_SECONDS = 5.0
MOST_OF_WINDOW = 2.5


def cases() -> Iterator[tuple[str, Callable[[], Wait], bool, float, float]]:
    """Name, server, whether it names the seconds to wait, the least seconds of a job, and the most."""
    alone = BATCHES / AT_ONCE * SECONDS_A_REPLY
    for told in (False, True):
        hint = "told" if told else "bare"
        for begins, ends in WHILES:
            most = ends + alone + LATE_SECONDS
            yield f"refuses all from {begins:g} to {ends:g} s, {hint}", _away(begins, ends), told, ends + alone, most
        for most_requests, seconds in WINDOWS:
            least = (BATCHES - 1) // most_requests * seconds
            name = f"{most_requests} requests in {seconds:g} s, {hint}"
            yield name, _window(most_requests, seconds), told, least, MOST_OF_WINDOW * least


def _away(begins: float, ends: float) -> Callable[[], Wait]:
    return lambda: away(begins, ends)


def _window(most: int, seconds: float) -> Callable[[], Wait]:
    return lambda: window(most, seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    logging.disable(logging.CRITICAL)
    lines, bars = [], []
    for name, server, told, least, most in cases():
        ran = [run_job(server(), BATCHES, told=told) for _ in range(runs)]
        seconds = median(each.seconds for each in ran)
        refused = median(each.refused / each.requests for each in ran)
        lines.append(
            (name, f"{least:.1f} s", f"{seconds:.1f} s", f"{max(each.seconds for each in ran):.1f} s", f"{refused:.0%}")
        )
        bars.append(Bar(f"{name}: seconds", seconds, most=round(most, 1), unit=" s"))
    print(table(("server", "the least", "median", "slowest", "refused"), lines), end="\n\n")
    return finish("refused_for_a_while", [], bars, keep=False)


if __name__ == "__main__":
    sys.exit(main())
