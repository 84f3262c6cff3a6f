"""What servers that take so many requests at a time, or refuse by chance, cost a job: `python -m benchmarks.busy`.

They answer 429 without a header that names a limit; which limit it is must be found out. Everything runs on virtual
time, against a simulated service whose own count is the judge. The best fixed concurrency is found by trying: a plain
loop of so many workers, each of which waits as long as the server says, or by an exponential backoff of half a second.
openai-python, with ten retries and at the same concurrency, does the same job in the same run: aembed may never take
longer, or 1.3 x where a server refuses all for a while, since one request asks before the others come. openai-python
gives a batch up after its ten retries; where it lost one, its time is shown and not judged. `--seeds N` runs the
servers that refuse by chance N times and judges the means, since one run of 60 batches varies by a third. Exits 1 if a
bar is missed. `--quick` has a fifth of the cases.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Coroutine, Sequence
from statistics import fmean

from benchmarks.beside.busy_clients import Run, fixed, ours
from benchmarks.beside.busy_openai import installed, openai_python
from benchmarks.beside.busy_servers import Server, cases
from tests.stage.clock import run_virtual

FIXED = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32)
SLOWER = 1.3
NOT_ABOVE = 1.0

Client = Callable[[Server, int, int, int], Coroutine[object, object, Run]]
"""Of a server, a concurrency, a number of batches and a seed."""


def judged(
    server: Server, batches: int, concurrency: int, seeds: Sequence[int], *, with_openai: bool = False
) -> tuple[bool, str]:
    """Of the means of all seeds. Whether every bar is met, and a line that says so."""

    def runs(client: Client, count: int) -> Sequence[Run]:
        return [run_virtual(client, server, count, batches, seed) for seed in seeds]

    own = runs(ours, concurrency)
    seconds = mean_seconds(own)
    best = min(mean_seconds(runs(fixed, count)) for count in FIXED if count <= concurrency)
    wall = SLOWER * best + fmean(run.longest_waits for run in own)
    refusals = sum(run.refusals for run in own)
    most = most_refusals(server, batches * len(seeds) + refusals, concurrency * len(seeds))
    met, beside = seconds <= wall and refusals <= most, ""
    if with_openai:
        not_above, beside = beside_openai(
            own, runs(openai_python, concurrency), SLOWER if server.away_for else NOT_ABOVE
        )
        met = met and not_above
    return met, (
        f"{'ok    ' if met else 'MISSED'} {server.name:62} {concurrency:3} {batches:4} batches: {seconds:6.2f} s "
        f"({seconds / best:5.2f} x {best:6.2f} s, at most {wall:6.2f}), "
        f"{refusals:4} refused (at most {most:.0f}){beside}"
    )


def mean_seconds(runs: Sequence[Run]) -> float:
    return fmean(run.seconds for run in runs)


def most_refusals(server: Server, requests: int, burst: int) -> float:
    """The server's own share and one point, with three standard deviations of luck; or 3 % and one burst at each
    change, and one a second while it refuses all."""
    if not server.by_chance:
        return 0.03 * requests + burst * (1 + server.changes) + server.away_for
    share = server.chance or 1 / server.every
    luck = 3 * math.sqrt(share * (1 - share) * requests) if server.chance else 0.0
    return math.ceil((share + 0.01) * requests + luck)


def beside_openai(own: Sequence[Run], theirs: Sequence[Run], not_above: float) -> tuple[bool, str]:
    """The means of the seeds with which openai-python lost nothing."""
    kept = [(mine.seconds, other.seconds) for mine, other in zip(own, theirs, strict=True) if not other.lost]
    lost = sum(other.lost for other in theirs)
    losses = f", {lost} batches lost" if lost else ""
    if not kept:
        return True, f"; openai {mean_seconds(theirs):6.2f} s{losses}"
    mine, other = map(fmean, zip(*kept, strict=True))
    ratio = mine / other
    return (
        ratio <= not_above,
        f"; openai {other:6.2f} s ({ratio:4.2f} x{' ABOVE' if ratio > not_above else ''}){losses}",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each server that refuses by chance")
    parser.add_argument("--only", default="", help="servers whose name contains this")
    options = parser.parse_args()
    with_openai = found_openai()
    missed = 0
    for number, (server, batches) in enumerate(cases()):
        if options.only not in server.name or (options.quick and number % 5):
            continue
        seeds = range(options.seed, options.seed + (options.seeds if server.by_chance else 1))
        for concurrency in (8, 32):
            met, line = judged(server, batches, concurrency, seeds, with_openai=with_openai)
            missed += not met
            print(line, flush=True)
    print(f"{missed} bars missed" if missed else "all bars met")
    return 1 if missed else 0


def found_openai() -> bool:
    """Says which one takes part, or why none does."""
    try:
        version = installed()
    except LookupError as error:
        print(f"SKIPPED the comparison with openai-python, which is not installed here: {error}", flush=True)
        return False
    print(f"beside openai-python {version} with ten retries", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
