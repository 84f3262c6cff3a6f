"""What `import aembed` costs beside `import httpx, numpy`, which it needs: CPU seconds of fresh interpreters.

    python -m benchmarks.imports [--runs 15]

The contestants alternate; a bare interpreter is taken off each. Exits 1 above 1.3 times, or if something that only
some need is loaded.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys

from benchmarks.own_process import ROOT

BAR = 1.3
CONTESTANTS = {"a bare interpreter": "pass", "httpx, numpy": "import httpx, numpy", "aembed": "import aembed"}
LOADED_WHEN_USED = (
    "httpx",
    "tiktoken",
    "asyncpg",
    "typer",
    "rich",
    "markdown_it",
    "semantic_text_splitter",
    "tenacity",
)


def cpu_seconds(statement: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def loaded_too_early() -> list[str]:
    statement = "import aembed, sys; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", statement], check=True, cwd=ROOT, capture_output=True, text=True)
    return sorted(set(LOADED_WHEN_USED) & set(told.stdout.split()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for run in range(options.runs + 1):
        for name, statement in CONTESTANTS.items():
            taken = cpu_seconds(statement)
            if run:  # The first run compiles.
                seconds[name].append(taken)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    bare = medians["a bare interpreter"]
    ratio = (medians["aembed"] - bare) / (medians["httpx, numpy"] - bare)
    for name, median in medians.items():
        print(f"{name:20} {1_000 * median:6.0f} ms of CPU, at least {1_000 * min(seconds[name]):.0f}")
    print(f"aembed / (httpx, numpy), without the interpreter itself: {ratio:.2f}; the bar is {BAR}")
    early = loaded_too_early()
    print(f"loaded by `import aembed`, though only some need it: {', '.join(early) or 'nothing'}")
    return ratio > BAR or bool(early)


if __name__ == "__main__":
    sys.exit(main())
