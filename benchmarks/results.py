"""What the benchmarks print and keep: tables, bars met or missed, JSON with the machine's name."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from tests.service.own_process import ROOT

FOLDER = ROOT / "benchmarks" / "results"


@dataclass(frozen=True, slots=True)
class Bar:
    """`figure` is to be at most `most`, or at least `least`."""

    name: str
    figure: float
    most: float | None = None
    least: float | None = None
    unit: str = ""

    @property
    def is_met(self) -> bool:
        over = self.most is not None and self.figure > self.most
        under = self.least is not None and self.figure < self.least
        return not over and not under

    def __str__(self) -> str:
        asked = f"at most {self.most:g}" if self.least is None else f"at least {self.least:g}"
        verdict = "ok    " if self.is_met else "MISSED"
        return f"{verdict} {self.name}: {self.figure:.4g}{self.unit} ({asked}{self.unit})"


def machine() -> str:
    return f"{os.cpu_count()} cores ({_processor()}), {platform.system()}, Python {platform.python_version()}"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns are aligned: the first to the left, the others to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    shown = (
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(line, widths, strict=True)) for line in lines)
    )
    return "\n".join(shown)


def median(values: Iterable[float]) -> float:
    found = list(values)
    return statistics.median(found) if found else float("nan")


def finish(name: str, rows: Sequence[Mapping[str, Any]], bars: Sequence[Bar], *, keep: bool = True) -> int:
    """Prints the bars and writes results/NAME.json; the exit code. `keep` False leaves the file as it is."""
    if keep:
        FOLDER.mkdir(exist_ok=True)
        whole = {"date": date.today().isoformat(), "machine": machine(), "rows": list(rows)}
        whole["bars"] = [asdict(bar) | {"is_met": bar.is_met} for bar in bars]
        (FOLDER / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")
    print(*bars, sep="\n", flush=True)
    return 0 if all(bar.is_met for bar in bars) else 1
