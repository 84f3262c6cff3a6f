from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.costs import growth
from benchmarks.costs.growth_figures import Kept, Run, bars


def marks(rates: list[float], *, written: float = 1_000.0) -> list[dict[str, float]]:
    """A mark each hundredth of a million rows; a rate, rows a second, for each tenth."""
    found = [{"rows": 0, "seconds": 0.0, "cpu": 0.0, "written": 0.0, "peak_mb": 50.0, "anonymous_mb": 40.0}]
    for number in range(100):
        last = found[-1]
        seconds = 10_000 / rates[number // 10]
        found.append(last | {"rows": last["rows"] + 10_000, "seconds": last["seconds"] + seconds})
        found[-1]["written"] = last["written"] + 10_000 * written * (5 if number >= 90 else 1)
    read = found[-1] | {"seconds": found[-1]["seconds"] + 7.0, "wrong": 0}
    return [*found, read, read | {"seconds": read["seconds"] + 1.0, "closed": 1, "commits": 500}]


def run(part: str, contestant: str, rates: list[float]) -> Run:
    return Run(part, "write", contestant, "", 1_000_000, 0, marks(rates))


def test_the_last_tenth_is_told_apart_from_the_first_and_reading_again_costs_nothing() -> None:
    figures = run("sqlite", "aembed", [20_000.0] * 9 + [10_000.0]).figures()
    assert figures["first_rate"] == pytest.approx(20_000)
    assert figures["last_rate"] == pytest.approx(10_000)
    assert (figures["first_written"], figures["last_written"]) == (1_000, 5_000)
    assert figures["seconds"] == pytest.approx(45 + 10 + 1)
    assert figures["rows_a_commit"] == 2_000


def test_bars_are_missed_where_a_store_bends() -> None:
    kept = Kept([run("sqlite", "aembed", [20_000.0] * 9 + [10_000.0]), run("sqlite", "lancedb", [15_000.0] * 10)])
    found = {bar.name.partition(": ")[2]: (round(bar.figure, 2), bar.is_met) for bar in bars(kept)}
    assert found["written a row, last tenth"] == (5.0, False)
    assert found["rows/s of the last tenth to the first"] == (0.5, False)
    assert found["rows/s to the last commit, to lancedb's merge_insert, which syncs nothing"] == (1.21, True)


def test_a_run_that_was_kept_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = ["growth", "--sizes", "3000", "--only", "sqlite", "--runs", "1", "--no-peers", "--folder", str(tmp_path)]
    monkeypatch.setattr("sys.argv", asked)
    assert growth.main() == 0
    first = (tmp_path / "growth.jsonl").read_text()
    assert "sqlite          write" in capfd.readouterr().out
    write, again = (Run(**json.loads(line)) for line in first.splitlines())
    assert (write.marks[-1]["rows"], write.marks[-1]["wrong"], again.step) == (3_000, 0, "again")
    assert growth.main() == 0
    assert (tmp_path / "growth.jsonl").read_text() == first
    assert "sqlite          write" not in capfd.readouterr().out


def test_a_slow_peer_has_one_run(tmp_path: Path) -> None:
    kept = Kept([run("sqlite", "aembed", [5_000.0] * 10), run("sqlite", "duckdb", [5_000.0] * 10)])
    asked = growth.Growth(argparse.Namespace(), tmp_path, kept, growth.Postgres(), None, "")
    sqlite = growth.PARTS["sqlite"]
    assert asked._is_slow(sqlite, 1_000_000, "duckdb")
    assert not asked._is_slow(sqlite, 100_000, "duckdb")
    assert not asked._is_slow(sqlite, 1_000_000, "aembed")


@pytest.mark.parametrize("part", ["sqlite-random", "sqlite-column", "list", "folder", "jsonl", "postgres-column"])
def test_each_part_reads_its_rows_again(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--sizes", "500", "--files", "20"]
    asked = ["growth", *sizes, "--only", part, "--runs", "1", "--no-peers", "--folder", str(tmp_path)]
    monkeypatch.setattr("sys.argv", asked)
    assert growth.main() == 0
    assert "0 wrong" in capfd.readouterr().out
