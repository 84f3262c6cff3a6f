"""What the command prints: results on stdout, all else on stderr."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from typing import Any

from aembed.stores import schemes
from aembed.types import Failure, Plan, Progress, Refusal, Report

SHOWN_FAILURES = 20
# What a terminal would obey, or what would turn the line around.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def tell(line: str) -> None:
    """A result."""
    print(line, flush=True)


def say(line: str) -> None:
    """Progress, a warning, an error."""
    print(line, file=sys.stderr, flush=True)


def tell_json(value: Any) -> None:
    # ASCII, so that no terminal, pipe or code page can spoil it.
    tell(json.dumps(value))


def printable(text: object) -> str:
    return _CONTROL.sub(" ", str(text))


def place(url: str) -> str:
    """A store's URL without its password and parameters."""
    scheme, colon, rest = url.partition("://")
    if not colon or scheme.startswith(("sqlite", "memory")):
        return printable(url)
    user, at, address = rest.rpartition("@")
    return printable(f"{scheme}://{user.partition(':')[0]}{at}{address.partition('?')[0]}")


def place_of_path(path: str) -> str:
    """As `place`, for a PATH that may be a URL."""
    return place(path) if path.partition("://")[0].partition("+")[0] in {*schemes(), "postgres"} else printable(path)


def size(amount: float) -> str:
    """Bytes as people read them: 34.5 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1_000:
            break
        amount /= 1_000
    else:
        unit = "TB"
    return f"{amount:,.0f} {unit}" if unit == "bytes" else f"{amount:,.1f} {unit}"


def duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3_600} h {whole % 3_600 // 60:02} min"


def dollars(amount: float) -> str:
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.4f}"


def columns() -> int:
    return shutil.get_terminal_size((100, 24)).columns


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns under each other; a column of numbers is set to the right."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows), default=0))]
    return ["  ".join(_cell(cell, width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]


def _cell(cell: str, width: int) -> str:
    return cell.rjust(width) if cell[:1].isdigit() or cell[:1] == "$" else cell.ljust(width)


def say_failures(failures: Sequence[Failure], failed: int, *, rest: str) -> None:
    """The first of them; `rest` says how to see the others."""
    for failure in failures[:SHOWN_FAILURES]:
        say(f"  {printable(failure.id)}: {printable(failure.error)}")
    if failed > SHOWN_FAILURES:
        say(f"  ... and {failed - SHOWN_FAILURES:,} more; {rest}")


def failure_json(failure: Failure | Refusal) -> dict[str, Any]:
    match failure:
        case Failure(id, index, error):
            return {"id": id, "index": index, "error": type(error).__name__, "message": str(error)}
        case Refusal(id, _, name, message):
            return {"id": id, "error": name, "message": message}


def progress_json(progress: Progress, failures: Sequence[Failure]) -> dict[str, Any]:
    """A Progress or Report, with these failures."""
    counts = {name: value for name, value in asdict_flat(progress).items() if name != "failures"}
    refused_earlier = progress.refused_earlier if isinstance(progress, Report) else 0
    return counts | {"refused_earlier": refused_earlier, "failures": [failure_json(failure) for failure in failures]}


def plan_json(plan: Plan) -> dict[str, Any]:
    return asdict_flat(plan) | {"failures": [failure_json(failure) for failure in plan.failures]}


def asdict_flat(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


__all__ = [name for name in dir() if not name.startswith("_") and name not in {"annotations", "asdict"}]
