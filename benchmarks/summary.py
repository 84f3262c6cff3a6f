"""The figures of benchmarks/results/*.json as Markdown tables, with the day and the machine of each run.

python -m benchmarks.summary            prints every bar, met or missed
python -m benchmarks.summary --write    writes the tables of docs/measured.md, between its markers

A marker names a file of results: what stands between `<!-- results: NAME -->` and `<!-- end of NAME -->` is written
from NAME.json, and `<!-- results: bars -->` has the bars of all of them. A test compares the page with what this
writes.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.results import FOLDER, Bar
from tests.service.own_process import ROOT

PAGE = ROOT / "docs" / "measured.md"
SECTION = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)

Column: TypeAlias = tuple[str, str, str]
"""Head, field of the row, and the form of its value."""

CLIENT, VERSION = ("client", "contestant", ""), ("version", "version", "")
WALL, LOST = ("wall", "wall", ".1f s"), ("texts lost", "lost", ",.0f")
TABLES: Mapping[str, Sequence[Sequence[Column]]] = {
    "headline": (
        (CLIENT, VERSION, WALL, ("CPU", "cpu", ".2f s"), LOST),
        (
            ("account", "tier", ""),
            ("limit", "limit", ""),
            ("least time", "floor", ".0f s"),
            ("aembed", "aembed", ".0f s"),
            ("to the least", "to_floor", ".3f x"),
            ("requests", "requests", ",.0f"),
            ("one text a request", "one_a_request", ".0f s"),
        ),
    ),
    "client_cost": (
        (
            ("over", "where", ""),
            CLIENT,
            VERSION,
            ("CPU", "cpu", ".2f s"),
            ("memory beyond the result", "growth_mb", ",.0f MB"),
            ("longest stall of the event loop", "stall", ".0f ms"),
        ),
    ),
    "latency": (
        (("at a time", "concurrency", "d"), CLIENT, VERSION, ("to list scheduling", "to_floor", ".2f x"), LOST),
    ),
    "drop_ins": (
        (
            ("class", "contestant", ""),
            VERSION,
            ("CPU", "cpu", ".2f s"),
            WALL,
            ("requests", "requests", ",.0f"),
            ("share of the texts lost", "lost", ".0%"),
        ),
    ),
    "rate_limited": (
        (
            CLIENT,
            VERSION,
            WALL,
            ("to the floor", "to_floor", ".2f x"),
            ("requests", "requests", ",.0f"),
            ("refused", "refused", ".0%"),
            LOST,
        ),
    ),
    "with_faults": (
        (
            CLIENT,
            VERSION,
            ("without faults", "without", ".1f s"),
            ("with", "with", ".1f s"),
            ("ratio", "ratio", ".2f x"),
            ("texts lost", "lost", ".1%"),
        ),
    ),
    "streaming": (
        (
            ("texts", "count", ",d"),
            ("a second", "a_second", ",.0f"),
            ("memory grows by", "growth_mb", ",.0f MB"),
        ),
    ),
    "growth": (
        (
            ("part", "part", ""),
            ("step", "step", ""),
            ("rows", "rows", ",d"),
            ("store", "shown", ""),
            ("rows/s, first tenth", "first_rate", ",.0f"),
            ("last", "last_rate", ",.0f"),
            ("bytes a row, first tenth", "first_written", ",.0f"),
            ("last", "last_written", ",.0f"),
            ("CPU a row, first tenth", "first_cpu_us", ",.0f us"),
            ("last", "last_cpu_us", ",.0f us"),
            ("memory", "peak_mb", ",.0f MB"),
        ),
        (
            ("embed_documents", "rows", ",d"),
            ("build", "contestant", ""),
            ("longest stall", "stall_ms", ",.0f ms"),
            ("of its own CPU", "held_ms", ",.0f ms"),
            ("memory beyond texts and vectors", "beyond_mb", ",.0f MB"),
        ),
        (
            ("the command on", "part", ""),
            ("run", "step", ""),
            ("rows", "rows", ",d"),
            ("build", "contestant", ""),
            ("wall", "wall", ".1f s"),
            ("CPU", "wall_cpu", ".1f s"),
            ("memory", "peak_mb", ",.0f MB"),
        ),
    ),
    "small_costs": ((("what", "what", ""), ("time", "seconds", ".3f s")),),
}
MILLISECONDS = {"stall"}
"""Fields that are kept in seconds and shown in milliseconds."""


def results() -> dict[str, Mapping[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def section(name: str, kept: Mapping[str, Mapping[str, Any]]) -> str:
    """What stands between the markers of that name. Raises KeyError for a name without results."""
    if name == "bars":
        return f"\n{all_bars(kept)}\n"
    whole = kept[name]
    tables = "\n".join(table(columns, whole["rows"]) for columns in TABLES[name])
    return f"\n`python -m benchmarks.{name}`, {whole['date']}, {whole['machine']}:\n\n{tables}\n"


def table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> str:
    """Of those rows that have all of the fields."""
    lines = [[head for head, _, _ in columns], ["---"] * len(columns)]
    lines += [
        [shown(row[field], field, form) for _, field, form in columns]
        for row in rows
        if all(field in row for _, field, _ in columns)
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def shown(value: Any, field: str, form: str) -> str:
    if not isinstance(value, int | float):
        return str(value)
    if not isfinite(value):
        return ""
    spec, _, unit = form.partition(" ")
    return f"{value * 1_000 if field in MILLISECONDS else value:{spec}}{unit and ' ' + unit}"


def all_bars(kept: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| script | what | figure | bar |\n| --- | --- | --- | --- |\n"]
    lines += [f"{line}\n" for name, whole in kept.items() for line in bars(name, whole)]
    return "".join(lines)


def bars(name: str, whole: Mapping[str, Any]) -> Iterator[str]:
    for fields in whole["bars"]:
        bar = Bar(fields["name"], fields["figure"], fields["most"], fields["least"], fields["unit"])
        asked = f"at most {bar.most:g}" if bar.least is None else f"at least {bar.least:g}"
        verdict = "" if bar.is_met else " (missed)"
        yield f"| `{name}` | {bar.name} | {bar.figure:.3g}{bar.unit}{verdict} | {asked}{bar.unit} |"


def written(page: str) -> str:
    """The page with its tables as the results say."""
    kept = results()
    return SECTION.sub(lambda match: f"{match[1]}{section(match[2], kept)}{match[3]}", page)


def main() -> None:
    parser = argparse.ArgumentParser(description="The figures of benchmarks/results as Markdown.")
    parser.add_argument("--write", action="store_true", help="write the tables of docs/measured.md")
    if parser.parse_args().write:
        write(PAGE)
        return
    kept = results()
    for told in sorted({f"{whole['date']}, {whole['machine']}" for whole in kept.values()}):
        print(told)
    print(f"\n{all_bars(kept)}", end="")


def write(path: Path) -> None:
    path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
