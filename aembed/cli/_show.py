"""What the command prints: results on stdout, all else on stderr."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from aembed.cli._streams import printable_line, say, tell
from aembed.results import Failure
from aembed.stores import ALIASES, schemes
from aembed.types import Refusal

# Chosen: with the lines around them they fit into the 24 lines of a terminal.
SHOWN_FAILURES = 20


def tell_json(value: object) -> None:
    """In ASCII, so that no terminal, pipe or code page can spoil it."""
    tell(json.dumps(value))


def is_url(path: str) -> bool:
    """Whether it begins with the scheme of a store."""
    scheme, colon, _ = path.partition(":")
    return bool(colon) and scheme.lower().partition("+")[0] in {*schemes(), *ALIASES}


def printable_place(url: str) -> str:
    """A store as it was named, without password and parameters."""
    scheme, colon, rest = url.partition("://")
    if not colon or scheme.startswith("sqlite") or not is_url(url):
        return printable_line(url)
    user, at, address = rest.rpartition("@")
    return printable_line(f"{scheme}://{user.partition(':')[0]}{at}{address.partition('?')[0]}")


def size_in_words(amount: float) -> str:
    """Bytes as people read them: 34.5 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1_000:
            return f"{amount:,.0f} bytes" if unit == "bytes" else f"{amount:,.1f} {unit}"
        amount /= 1_000
    return f"{amount:,.1f} TB"


def duration_in_words(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3_600} h {whole % 3_600 // 60:02} min"


def dollars_in_words(amount: float) -> str:
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.4f}"


def terminal_columns() -> int:
    return shutil.get_terminal_size((100, 24)).columns


def tell_facts(facts: Iterable[tuple[str, str, str]]) -> None:
    """A name, an amount and a remark on each line, under each other."""
    rows = list(facts)
    names, amounts = (max(len(row[column]) for row in rows) for column in (0, 1))
    for name, amount, remark in rows:
        tell(f"{name:<{names}}  {amount:>{amounts}}  {printable_line(remark)}".rstrip())


def say_failures(failures: Sequence[Failure], failed: int, *, rest: str) -> None:
    """The first of them; `rest` says how to see the others."""
    shown = failures[:SHOWN_FAILURES]
    for failure in shown:
        # The id names the place already.
        file, _, line = failure.id.rpartition(":")
        message = str(failure.error)
        for unit in ("line", "element", "row"):
            message = message.removeprefix(f"{file} {unit} {line}: ")
        reason = message.removeprefix(f"{failure.id}: ")
        say(f"  {printable_line(failure.id)}: {printable_line(reason)}")
    if failed > len(shown):
        say(f"  ... and {failed - len(shown):,} more; {rest}")


def failure_json(failure: Failure | Refusal) -> dict[str, Any]:
    match failure:
        case Failure(id, index, error):
            return {"id": id, "index": index, "error": type(error).__name__, "message": str(error)}
        case Refusal(id, _, name, message):
            return {"id": id, "error": name, "message": message}


def counts_json(value: Any, failures: Sequence[Failure]) -> dict[str, Any]:
    """The fields of a Progress, Report or Plan, with these failures."""
    flat: Mapping[str, Any] = {field.name: getattr(value, field.name) for field in fields(value)}
    return {**flat, "failures": [failure_json(failure) for failure in failures]}
