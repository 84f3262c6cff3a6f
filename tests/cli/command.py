"""Runs `python -m aembed` as a user would: another process, its streams apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
COMMAND = (sys.executable, "-m", "aembed")


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.out)
        return parsed


def environment(**changes: str) -> dict[str, str]:
    """This process's own, without what would steer the command."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AEMBED_", "OPENAI_", "OLLAMA_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "COLUMNS": "100", **changes}


def aembed(
    cwd: Path, *arguments: str, input: str = "", env: Mapping[str, str] | None = None, command: Iterable[str] = COMMAND
) -> Ran:
    done = subprocess.run(
        [*command, *arguments],
        cwd=cwd,
        env=environment(**(env or {})),
        input=input,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def notes(n: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"id": f"n{i}", "text": f"this is note number {i}", "even": i % 2 == 0} for i in range(start, start + n)]
