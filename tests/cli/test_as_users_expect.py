"""Help, numbers and bars as users of other commands expect them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress as Bar

from aembed import Progress
from aembed.cli import _bars, _progress
from aembed.providers import prefixes
from tests.cli.command import aembed, notes, write_jsonl

COMMANDS = ["index", "search", "backfill", "status", "failures", "move", "remove", "cache"]


@pytest.mark.parametrize("command", COMMANDS)
def test_d13_each_help_is_as_wide_as_the_terminal_and_has_examples(command: str, tmp_path: Path) -> None:
    short, wide = (aembed(tmp_path, command, "-h", env={"COLUMNS": columns}) for columns in ("60", "150"))
    assert (short.code, wide.code, short.err) == (0, 0, "")
    assert max(map(len, wide.out.splitlines())) > 90
    assert len(short.out.splitlines()) > len(wide.out.splitlines())
    assert "Examples:\n    aembed " in wide.out
    assert "Exit codes:\n    0    all stored or unchanged\n" in wide.out
    assert aembed(tmp_path, command, "--help", env={"COLUMNS": "150"}).out == wide.out


def test_d13_the_help_names_providers_variables_and_exit_codes(tmp_path: Path) -> None:
    for arguments in (("-h",), ("index", "-h")):
        told = aembed(tmp_path, *arguments).out
        assert all(prefix in told for prefix in prefixes())
        for word in ("OPENAI_API_KEY", "AEMBED_STORE", "OLLAMA_HOST", "HTTPS_PROXY", "129, 130, 143"):
            assert word in told


def test_d13_one_text_is_one_text(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(1))
    told = aembed(tmp_path, "index", "a.jsonl", "-m", "fake:x").out
    assert told.startswith("1 text, 1 stored, 0 unchanged, 1 request, ")
    assert "  1 row\n" in aembed(tmp_path, "status").out
    one = Progress(inputs=1, stored=1, duplicates=1, requests=1, retries=1, billed_tokens=1, lost_tokens=1)
    assert str(one).startswith(
        "1 text, 1 stored, 0 unchanged, 1 duplicate, 1 request, 1 retry, 1 token, 1 token lost and perhaps billed in"
    )


@pytest.mark.parametrize("width", [40, 50, 71, 72, 100])
@pytest.mark.parametrize("total", [300, 12_345_678])
def test_d13_the_time_left_is_seen_on_a_narrow_terminal(width: int, total: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    half = Progress(stored=total // 2, failed=3, billed_tokens=10**8, cost_usd=12.5, seconds=90.0, waiting="w" * 200)
    with Bar(*_bars.columns(width), console=console, auto_refresh=False, get_time=iter(range(1_000)).__next__) as bar:
        task = bar.add_task(_progress.caption(half, total, _progress.caption_room(width)), total=total)
        for done in range(1, 9):
            bar.update(task, completed=total * done // 20)
        lines = "".join(segment.text for segment in console.render(bar.get_renderable()))
    first = next(line for line in lines.splitlines() if "texts" in line or f"{total:,}" in line)
    assert " left" in first
    assert "…" not in first


def test_d13_a_dry_run_needs_no_key(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(3))
    job = ("index", "a.jsonl", "-m", "openai:text-embedding-3-small")
    planned = aembed(tmp_path, *job, "--dry-run", "--json")
    assert (planned.code, planned.json["new"]) == (0, 3)
    assert planned.json["cost_usd"] > 0
    refused = aembed(tmp_path, *job)
    assert (refused.code, "export OPENAI_API_KEY" in refused.err) == (2, True)
    wrong = aembed(tmp_path, "index", "a.jsonl", "-m", "nope:x", "--dry-run")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
