"""The rows that `benchmarks.growth` writes, the same for each contestant, and the marks that it sets on the way.

It imports nothing of ours, so that the peers' interpreter and an earlier build can.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

DIMENSIONS = 256
BATCH = 2_048
"""Rows of one commit, which is what one request of the provider holds."""
MARKS = 100
"""So many marks are set in a run: one a hundredth."""
_BASES = 8_192
_WORDS = "rivers carry what the hills let go of, and the sea keeps an account of it that nobody has read to the end"


def id_of(number: int, order: str) -> str:
    """ "in order": nine digits. "random": like a uuid4, from the number alone."""
    if order == "in order":
        return f"{number:09}"
    drawn = blake2b(number.to_bytes(8, "big"), digest_size=16, key=b"growth").hexdigest()
    return f"{drawn[:8]}-{drawn[8:12]}-4{drawn[13:16]}-a{drawn[17:20]}-{drawn[20:]}"


def text_of(number: int) -> str:
    """About 110 characters; the first nine are the number."""
    return f"{number:09} {_WORDS}"


def metadata_of(number: int) -> dict[str, Any]:
    return {"page": number % 997, "year": 2000 + number % 25}


class Vectors:
    """A vector for each number: the sum of two of 8,192 random rows, so that no two are equal."""

    def __init__(self) -> None:
        random = np.random.default_rng(18)
        self._bases = random.standard_normal((_BASES, DIMENSIONS), dtype=np.float32)

    def of(self, numbers: Any) -> Any:
        """Shape (n, 256), float32."""
        numbers = np.asarray(numbers)
        return self._bases[numbers % _BASES] + 2 * self._bases[numbers // _BASES % _BASES]


def batches(rows: int) -> Iterator[range]:
    for start in range(0, rows, BATCH):
        yield range(start, min(rows, start + BATCH))


def sampled(rows: int) -> list[int]:
    """The numbers of the rows that are read again at the end."""
    return sorted({int(number) for number in np.linspace(0, rows - 1, 100)})


@dataclass(slots=True)
class Meter:
    """Prints a mark of JSON each hundredth of the rows: what was used since the first one, and memory in MB."""

    rows: int
    done: int = 0
    commits: int = 0
    anonymous_mb: float = 0.0
    _zero: Sequence[float] = ()
    _next: int = 0

    def begin(self) -> None:
        self._zero = _used()
        self._mark({})

    def add(self, rows: int) -> None:
        """Rows that were just committed."""
        self.done, self.commits = self.done + rows, self.commits + 1
        if self.done >= self._next:
            self._mark({})

    def read(self, wrong: int) -> None:
        """After rows were read again, which is no part of the costs."""
        self._mark({"wrong": wrong})

    def end(self, **told: Any) -> None:
        """After closing, which is."""
        self._mark({"closed": True, "commits": self.commits} | told)

    def _mark(self, told: dict[str, Any]) -> None:
        peak, anonymous = memory_of("self")
        self.anonymous_mb = max(self.anonymous_mb, anonymous)
        used = [now - then for now, then in zip(_used(), self._zero, strict=True)]
        mark = {"rows": self.done, **dict(zip(("seconds", "cpu", "written"), used, strict=True))}
        mark |= {"peak_mb": peak, "anonymous_mb": self.anonymous_mb} | told
        print(json.dumps(mark), flush=True)
        self._next = max(self.done + 1, -(-(self.done + 1) * MARKS // self.rows) * self.rows // MARKS)


def _used() -> tuple[float, float, float]:
    """Seconds, seconds of CPU, and bytes that went to a disk."""
    return time.perf_counter(), time.process_time(), _field(Path("/proc/self/io"), "write_bytes")


def memory_of(process: int | str) -> tuple[float, float]:
    """The most that was ever resident, and what is resident and no page of a file, in MB."""
    path = Path(f"/proc/{process}/status")
    return _field(path, "VmHWM") * 1_024 / 1e6, _field(path, "RssAnon") * 1_024 / 1e6


def _field(path: Path, name: str) -> int:
    """0 where the system does not tell."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def quiet_output() -> Any:
    """A stdout for marks alone: what libraries write to file 1 goes to stderr."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return out
