"""What the marks of `benchmarks.growth` come to: figures of a run, medians of runs, bars, charts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any

from benchmarks import charts
from benchmarks.results import FOLDER, Bar, median

Mark = Mapping[str, Any]
_SUMS = ("seconds", "cpu", "written", "wal")
AS_TODAY = 1_000_000
"""Rows of the largest size that all of the issue's bars have."""


@dataclass(frozen=True, slots=True)
class Run:
    """One contestant's run of one step. `marks` are sums since its begin, the server's included."""

    part: str
    step: str
    contestant: str
    build: str
    size: int
    number: int
    marks: Sequence[Mark]
    stopped: bool = False

    @property
    def key(self) -> tuple[Any, ...]:
        return self.part, self.step, self.contestant, self.build, self.size, self.number

    @property
    def written(self) -> list[Mark]:
        """Marks of commits alone, in order."""
        return [mark for mark in self.marks if "closed" not in mark and "wrong" not in mark]

    def window(self, start: int, end: int) -> dict[str, float]:
        """Rows a second, and what a row cost, between the last mark up to `start` rows and the first from `end` on."""
        marks = self.written
        first = [mark for mark in marks if mark["rows"] <= start][-1]
        last = next((mark for mark in marks if mark["rows"] >= end), marks[-1])
        rows = last["rows"] - first["rows"]
        if rows <= 0:
            return {}
        spent = {name: last.get(name, 0.0) - first.get(name, 0.0) for name in _SUMS}
        return {
            "rate": rows / spent["seconds"],
            "cpu_us": spent["cpu"] / rows * 1e6,
            "written": spent["written"] / rows,
            "wal": spent["wal"] / rows,
        }

    def figures(self) -> dict[str, float]:
        """Of the first and of the last tenth of the rows, and of all with their end."""
        closed = next((mark for mark in self.marks if "closed" in mark), None)
        found = {name: max(mark[name] for mark in self.marks) for name in ("peak_mb", "anonymous_mb")}
        if len(self.written) > 1:
            reached = self.written[-1]["rows"]
            found["commit_rate"] = reached / self.written[-1]["seconds"]
            tenths = {"first": (0, reached // 10), "last": (reached - reached // 10, reached)}
            for name, (start, end) in tenths.items():
                found |= {f"{name}_{what}": value for what, value in self.window(start, end).items()}
        if closed is not None:
            names = ("stall_ms", "held_ms", "beyond_mb")
            found |= {name: closed[name] for name in names if name in closed}
            found |= self._whole(closed)
        found["wrong"] = sum(mark.get("wrong", 0) for mark in self.marks)
        return found

    def _whole(self, closed: Mark) -> dict[str, float]:
        """Without the reading again, which peers do before they close."""
        read = self.marks[self.marks.index(closed) - 1] if len(self.marks) > 1 else None
        written = self.written[-1] if self.written else None
        total = dict(closed)
        if read is not None and written is not None and "wrong" in read:
            total |= {name: closed.get(name, 0) - read.get(name, 0) + written.get(name, 0) for name in _SUMS}
        found = {"seconds": total["seconds"], "rate": self.size / total["seconds"], "cpu": total["cpu"]}
        found |= {"all_written": total["written"] / self.size, "all_wal": total.get("wal", 0) / self.size}
        if closed.get("commits"):
            found["rows_a_commit"] = self.size / closed["commits"]
        else:
            found |= {"wall": found["seconds"], "wall_cpu": found["cpu"]}
        return found


@dataclass(slots=True)
class Kept:
    """All runs; figures are medians of those of one size, step and contestant."""

    runs: list[Run] = field(default_factory=list)

    def has(self, key: tuple[Any, ...]) -> bool:
        return any(run.key == key for run in self.runs)

    def rows(self) -> list[dict[str, Any]]:
        """One for each step, size and contestant, as results/growth.json keeps them."""
        places = dict.fromkeys((run.part, run.step, run.size, run.contestant) for run in self.runs)
        order = sorted(places, key=lambda place: (*place[:3], place[3] != "aembed", place[3]))
        return [self._row(*place) for place in order]

    def of(self, part: str, step: str, size: int, contestant: str = "aembed") -> list[Run]:
        return [
            run for run in self.runs if (run.part, run.step, run.size, run.contestant) == (part, step, size, contestant)
        ]

    def figure(self, name: str, part: str, step: str, size: int, contestant: str = "aembed") -> float:
        """NaN where it was not measured."""
        return median(found[name] for run in self.of(part, step, size, contestant) if name in (found := run.figures()))

    def sizes(self, part: str, step: str) -> list[int]:
        return sorted({run.size for run in self.runs if (run.part, run.step) == (part, step)})

    def _row(self, part: str, step: str, size: int, contestant: str) -> dict[str, Any]:
        runs = self.of(part, step, size, contestant)
        figures = [run.figures() for run in runs]
        names = dict.fromkeys(name for each in figures for name in each)
        row: dict[str, Any] = {"part": part, "step": step, "rows": size, "contestant": contestant}
        row["version"] = next((mark["version"] for mark in runs[0].marks if "version" in mark), runs[0].build)
        row["runs"] = len(runs)
        row |= {name: median(each[name] for each in figures if name in each) for name in names}
        row["stopped_at"] = max((run.written[-1]["rows"] for run in runs if run.stopped), default=0)
        row["shown"] = contestant + (f", stopped at {row['stopped_at']:,}" if row["stopped_at"] else "")
        return row


# bars


def bars(kept: Kept) -> Iterator[Bar]:
    """Those whose sizes were measured; of a larger run its first so many rows count."""
    yield from _bytes_written(kept)
    yield from _flat(kept)
    yield from _beside_lancedb(kept)
    yield from _folder(kept)
    yield from _memory(kept)
    stall = kept.figure("stall_ms", "list", "write", AS_TODAY)
    if stall == stall:
        yield Bar("embed_documents of 1,000,000 short texts, longest stall", stall, most=40.0, unit=" ms")
    wrong = sum(run.figures()["wrong"] for run in kept.runs)
    yield Bar("rows read again that are not as they were given", wrong, most=0)


def _bytes_written(kept: Kept) -> Iterator[Bar]:
    asked = {
        ("sqlite", 10**6): 4.0,
        ("sqlite", 10**7): 4.5,
        ("sqlite-random", 10**6): 4.5,
        ("sqlite-random", 10**7): 5.0,
    }
    for (part, size), most in asked.items():
        figure = _last_tenth(kept, part, size, "written") / 1_000
        if figure == figure:
            yield Bar(f"{part}, {size:,} rows: written a row, last tenth", figure, most=most, unit=" KB")


def _last_tenth(kept: Kept, part: str, size: int, what: str, first: bool = False) -> float:
    """Of the first `size` rows of the smallest runs that have so many."""
    enough = [each for each in kept.sizes(part, "write") if each >= size]
    if not enough:
        return nan
    start, end = (0, size // 10) if first else (size - size // 10, size)
    return median(run.window(start, end)[what] for run in kept.of(part, "write", enough[0]) if not run.stopped)


def _flat(kept: Kept) -> Iterator[Bar]:
    for part in ("sqlite", "sqlite-random"):
        for size in (10**6, 3 * 10**6, 10**7):
            first = _last_tenth(kept, part, size, "rate", first=True)
            ratio = _last_tenth(kept, part, size, "rate") / first
            if ratio == ratio:
                yield Bar(f"{part}, {size:,} rows: rows/s of the last tenth to the first", ratio, least=0.9, unit=" x")


def _beside_lancedb(kept: Kept) -> Iterator[Bar]:
    for part in ("sqlite", "sqlite-random"):
        for size, least in ((100_000, 0.85), (1_000_000, 1.0)):
            ours, theirs = (kept.figure("commit_rate", part, "write", size, each) for each in ("aembed", "lancedb"))
            ratio = ours / theirs
            if ratio == ratio:
                name = (
                    f"{part}, {size:,} rows: rows/s to the last commit, to lancedb's merge_insert, which syncs nothing"
                )
                yield Bar(name, ratio, least=least, unit=" x")


def _folder(kept: Kept) -> Iterator[Bar]:
    # Of few files the start of the command is nearly all.
    for size in (size for size in kept.sizes("folder", "first") if size >= 50_000):
        for step, what, most in (("unchanged", "an unchanged folder", 1 / 15), ("first", "its first run", 0.7)):
            ours, before = (kept.figure("seconds", "folder", step, size, each) for each in ("aembed", "before"))
            if ours / before == ours / before:
                yield Bar(f"{what} of {size:,} files, to the build before", ours / before, most=most, unit=" x")


def _memory(kept: Kept) -> Iterator[Bar]:
    for step in ("plan", "job"):
        sizes = kept.sizes("jsonl", step)
        few = kept.figure("peak_mb", "jsonl", step, 100_000)
        for size in (size for size in sizes if size > 100_000):
            more = kept.figure("peak_mb", "jsonl", step, size) - few
            if more == more:
                name = f"{step} of {size:,} JSONL records: memory, beyond that of 100,000"
                yield Bar(name, more, most=60.0, unit=" MB")


# charts


def draw(rows: Sequence[Mapping[str, Any]]) -> None:
    """How fast rows are kept, and what a row writes, at each size."""
    for part, title in (("sqlite", "ids in order"), ("sqlite-random", "random ids"), ("postgres", "PostgreSQL")):
        drawn = [row for row in rows if row["part"] == part and row["step"] == "write" and "last_written" in row]
        if drawn:
            name = f"growth_{part.replace('-', '_')}.svg"
            charts.write(FOLDER / name, _chart(f"Bytes written a row, last tenth: {title}", drawn))


def _chart(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        charts.BarRow(
            f"{row['contestant']}, {row['stopped_at'] or row['rows']:,}",
            row["last_written"],
            f"{row['last_written'] / 1_000:.1f} KB, {row['last_rate']:,.0f} rows/s",
            "ours" if row["contestant"] == "aembed" else "limit" if row["contestant"] == "before" else "peer",
        )
        for row in sorted(rows, key=lambda row: (row["rows"], row["contestant"] != "aembed", row["contestant"]))
    ]
    return charts.bars(title, lines, subtitle="rows of 256 floats, text and metadata, 2,048 a commit; beside: rows/s")
