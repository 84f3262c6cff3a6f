"""The bars of benchmarks/results/*.json as a Markdown table, with the day and the machine of each run.

python -m benchmarks.summary
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.results import FOLDER, Bar


def rows(name: str, whole: Mapping[str, Any]) -> Iterator[str]:
    for fields in whole["bars"]:
        bar = Bar(fields["name"], fields["figure"], fields["most"], fields["least"], fields["unit"])
        asked = f"at most {bar.most:g}" if bar.least is None else f"at least {bar.least:g}"
        verdict = "" if bar.is_met else " (missed)"
        yield f"| `{name}` | {bar.name} | {bar.figure:.3g}{bar.unit}{verdict} | {asked}{bar.unit} |"


def main() -> None:
    kept = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
    for told in sorted({f"{whole['date']}, {whole['machine']}" for whole in kept.values()}):
        print(told)
    print("\n| script | what | figure | bar |\n| --- | --- | --- | --- |")
    for name, whole in kept.items():
        print(*rows(name, whole), sep="\n")


if __name__ == "__main__":
    main()
