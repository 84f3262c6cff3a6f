"""Runs simulated histories again: `python -m tests.simulation.replay SEED ...` shows each schedule and how it ended.

`--first 0 --count 100000` runs that many and prints the seeds that fail. With `--tables` they fill a column of the
user's own table, with `--stores` a store in a file whose table loses rows, with `--pools` they are sent to a pool of
addresses, with `--workers` several at once share a coordinator and a cache, with `--batches` they go on for days.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path
from pprint import pprint

from tests.simulation.batches import of_batches
from tests.simulation.history import History
from tests.simulation.pools import of_a_pool
from tests.simulation.tables import Make, in_memory, of_a_store, of_a_table
from tests.simulation.workers import of_workers
from tests.stage.vocabulary import write_vocabularies


def show(seed: int, make: Make) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        history = make(seed, Path(folder))
        pprint(history.drawn if hasattr(history, "drawn") else history.schedule, width=120)
        return _holds(history, verbose=True)


def search(first: int, count: int, make: Make, flag: str) -> list[int]:
    """The seeds that fail."""
    failing, kinds = [], Counter[str]()
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory() as folder:
            history = make(seed, Path(folder))
            if not _holds(history, verbose=False):
                failing.append(seed)
                print(f"python -m tests.simulation.replay {flag}{seed}", flush=True)
            kinds.update(history.kinds)
    print(f"{count:,} schedules, {len(failing)} failed; runs: {dict(kinds)}")
    return failing


def _holds(history: History, *, verbose: bool) -> bool:
    try:
        history.check()
    except BaseException as error:
        if verbose:
            traceback.print_exc()
        else:
            print(f"{type(error).__name__}: {error}")
        return False
    finally:
        if verbose:
            print(f"runs {history.kinds}, steps {history.steps}\n{history.ledger}")
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=int, nargs="*")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--stores", action="store_true")
    parser.add_argument("--pools", action="store_true")
    parser.add_argument("--workers", action="store_true")
    parser.add_argument("--batches", action="store_true")
    options = parser.parse_args()
    make, flag = in_memory, ""
    kinds = {
        "tables": of_a_table,
        "stores": of_a_store,
        "pools": of_a_pool,
        "workers": of_workers,
        "batches": of_batches,
    }
    for name, kind in kinds.items():
        if getattr(options, name):
            make, flag = kind, f"--{name} "
    # A process that is killed leaves coroutines that never began: they are no leak of the program.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    with tempfile.TemporaryDirectory() as folder:
        write_vocabularies(Path(folder))
        os.environ["TIKTOKEN_CACHE_DIR"] = folder
        held = [show(seed, make) for seed in options.seeds]
        return int(not all(held) or bool(options.count and search(options.first, options.count, make, flag)))


if __name__ == "__main__":
    sys.exit(main())
