"""What a row costs while a store grows: bytes written, CPU time, speed and memory at the first and the last tenth.

    python -m benchmarks.growth --sizes 10000 [--only sqlite list] [--no-peers]      a minute, to try
    python -m benchmarks.growth --before REVISION --keep                             the whole, hours

Each run is a process of its own on a new store; contestants take turns, and figures are medians. `before` is this
repository's build at that revision, with the same libraries. Rows are of 256 floats that the provider, in the process,
makes at once, 110 characters of text and two fields of metadata; a commit has 2,048. Ids are nine digits in order, or
like random uuid4.

What differs: lancedb syncs nothing (`lancedb, synced` syncs what it wrote after each commit), all others are on disk
when a commit returns. sqlite-vec cannot replace a row: rows of these ids are deleted first. langchain-postgres commits
each row. aembed looks up each text and id first, and keeps two hashes a row; its first commits are smaller.

Bytes are those that the process sent to a disk (/proc/self/io), and those of the server by its own count (pg_stat_io,
without the making of new segments of its log); after the last row it makes a checkpoint. `wal` is by
pg_current_wal_lsn. CPU is that of the server, too.

Runs that are done stand in FOLDER/growth.jsonl and are not done again: stop it at any time. A peer is stopped after
--peer-seconds; its figures are then of the rows that it reached, and it has one run where that took minutes. Bars are
printed for the sizes that were measured; of a larger run its first rows count as a run of so many.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from benchmarks.beside.peers import environment
from benchmarks.costs.growth_figures import Kept, Mark, Run, bars, draw
from benchmarks.costs.growth_parts import PARTS, Part, prepare
from benchmarks.costs.growth_postgres import Postgres
from benchmarks.results import finish, table
from tests.service.own_process import ROOT

REQUIREMENTS = (
    "numpy",
    "lancedb",
    "pyarrow",
    "sqlite-vec",
    "apsw",
    "duckdb",
    "langchain-postgres",
    "psycopg[binary]",
    "asyncpg",
)
SIZES, FILES = (10_000, 100_000, 1_000_000, 3_000_000), (50_000,)
LARGE, SLOW_SECONDS = 1_000_000, 120.0


@dataclass(slots=True)
class Growth:
    """All runs that were asked for, and those that were kept."""

    options: argparse.Namespace
    folder: Path
    kept: Kept
    postgres: Postgres
    peers: Path | None
    build: str

    async def run(self) -> None:
        for part, size, number, contestant in self._planned():
            key = (part.name, part.steps[0][0], contestant, self._build(contestant), size, number)
            if not self.kept.has(key) and not self._is_slow(part, size, contestant):
                await self._run_part(part, size, number, contestant)

    def _is_slow(self, part: Part, size: int, contestant: str) -> bool:
        """A peer whose run took minutes has only that one."""
        runs = self.kept.of(part.name, "write", size, contestant) if contestant in part.peers else []
        return any(run.marks[-1]["seconds"] > SLOW_SECONDS for run in runs)

    def _planned(self) -> Iterator[tuple[Part, int, int, str]]:
        """The small sizes first."""
        sizes = sorted({*self.options.sizes, *(self.options.files if "folder" in self.options.only else ())})
        for size in sizes:
            for part in (PARTS[name] for name in self.options.only):
                wanted = self.options.files if part.name == "folder" else self.options.sizes
                for number in range(self.options.runs if size < LARGE else self.options.large_runs):
                    if size in wanted and size <= part.most:
                        yield from ((part, size, number, each) for each in self._contestants(part))

    def _contestants(self, part: Part) -> Iterator[str]:
        yield "aembed"
        if self.options.before:
            yield "before"
        if self.peers is not None:
            yield from part.peers

    def _build(self, contestant: str) -> str:
        return {"aembed": self.build, "before": self.options.before}.get(contestant, "")

    async def _run_part(self, part: Part, size: int, number: int, contestant: str) -> None:
        """Its runs are kept together: one that was stopped begins anew."""
        with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
            place = await self.postgres.database("growth") if part.place == "postgres" else temporary
            await asyncio.to_thread(prepare, part, size, Path(temporary))
            steps = part.steps if contestant in ("aembed", "before") else part.steps[:1]
            runs = []
            for step, job in steps:
                await self.postgres.settle()
                await asyncio.to_thread(os.sync)
                command, environ = self._command(part, contestant, job, size, place)
                marks, stopped = await self._marks(part, contestant, command, environ, temporary)
                runs.append(Run(part.name, step, contestant, self._build(contestant), size, number, marks, stopped))
                print(shown(runs[-1]), flush=True)
        self.kept.runs += runs
        with (self.folder / "growth.jsonl").open("a") as file:
            file.writelines(f"{json.dumps(asdict(run))}\n" for run in runs)

    def _command(
        self, part: Part, contestant: str, job: str, size: int, place: str
    ) -> tuple[Sequence[str], dict[str, str]]:
        paths = [str(ROOT)]
        if contestant == "before":
            paths.insert(0, str(environment.build_of(self.options.before)))
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        # As for a package that pip installed, modules are compiled once, whatever this shell says.
        environ["PYTHONPYCACHEPREFIX"] = str(self.folder / "compiled")
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        if contestant in ("aembed", "before"):
            return [sys.executable, "-m", "benchmarks.costs.growth_jobs", job, str(size), place], environ
        module = "benchmarks.beside.peers.growing"
        return [str(self.peers), "-m", module, contestant, part.order, str(size), place], environ

    async def _marks(
        self, part: Part, contestant: str, command: Sequence[str], environ: dict[str, str], folder: str
    ) -> tuple[list[Mark], bool]:
        """The marks that it prints, and whether it was stopped. The server's use is added to them."""
        marks: list[Mark] = []
        most = None if contestant in ("aembed", "before") else self.options.peer_seconds
        with (self.folder / "stderr.txt").open("w") as stderr:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=folder, env=environ, stdout=PIPE, stderr=stderr, limit=2**20
            )
            assert process.stdout is not None
            try:
                async with asyncio.timeout(most):
                    zero: Mark = {}
                    async for line in process.stdout:
                        mark = json.loads(line)
                        if part.place == "postgres":
                            if "closed" in mark:
                                await self.postgres.settle()
                            used = await self.postgres.used()
                            zero = zero or used
                            server = {name: used[name] - zero[name] for name in used}
                            mark |= {name: mark.get(name, 0) + value for name, value in server.items()}
                        marks.append(mark)
                    await process.wait()
            except TimeoutError:
                return marks, True
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        if process.returncode:
            raise SystemExit(f"{contestant}, {part.name} failed: {(self.folder / 'stderr.txt').read_text()[-2_000:]}")
        return marks, False


def shown(run: Run) -> str:
    found = run.figures()
    names = {
        "rate": "{:,.0f} rows/s",
        "seconds": "{:.1f} s",
        "first_rate": "first tenth {:,.0f}/s",
        "last_rate": "last {:,.0f}/s",
        "last_written": "{:,.0f} B a row",
        "last_cpu_us": "{:.0f} us",
        "peak_mb": "{:.0f} MB",
        "stall_ms": "stall {:.0f} ms",
        "wrong": "{:.0f} wrong",
    }
    figures = ", ".join(form.format(found[name]) for name, form in names.items() if name in found)
    ended = ", stopped" if run.stopped else ""
    return f"{run.part:15} {run.step:9} {run.size:>10,} {run.contestant:19} {figures}{ended}"


def restored(path: Path, builds: Sequence[str]) -> Kept:
    """Runs of peers and of these builds."""
    lines = path.read_text().splitlines() if path.exists() else []
    runs = (Run(**json.loads(line)) for line in lines)
    return Kept([run for run in runs if run.build in ("", *builds)])


def current_build() -> str:
    """The package as it stands, by the digest of its files."""
    digest = blake2b(digest_size=6)
    for path in sorted((ROOT / "aembed").rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


_HEAD = ("", "rows/s", "first tenth", "last tenth", "B a row, first", "last", "CPU us, first", "last", "MB")


def _lines(rows: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    names = (
        "rate",
        "first_rate",
        "last_rate",
        "first_written",
        "last_written",
        "first_cpu_us",
        "last_cpu_us",
        "peak_mb",
    )
    for row in rows:
        title = f"{row['part']}, {row['step']}, {row['rows']:,}: {row['contestant']}"
        yield [title, *(f"{row[name]:,.0f}" if name in row else "" for name in names)]


async def measure(options: argparse.Namespace, folder: Path) -> int:
    build, path = current_build(), folder / "growth.jsonl"
    if options.fresh:
        path.unlink(missing_ok=True)
    kept = restored(path, [build, *([options.before] if options.before else [])])
    needs_peers = not options.no_peers and any(PARTS[name].peers for name in options.only)
    peers = await asyncio.to_thread(environment.python, "growth", REQUIREMENTS) if needs_peers else None
    postgres = Postgres()
    try:
        await Growth(options, folder, kept, postgres, peers, build).run()
    finally:
        await postgres.stop()
    rows = kept.rows()
    print(table(_HEAD, _lines(rows)), flush=True)
    if options.keep:
        draw(rows)
    return finish("growth", rows, list(bars(kept)), keep=options.keep)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="rows")
    parser.add_argument("--files", type=int, nargs="+", default=FILES, help="sizes of the folder")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=tuple(PARTS))
    parser.add_argument("--runs", type=int, default=3, help="of sizes below a million")
    parser.add_argument("--large-runs", type=int, default=1, help="of the others")
    parser.add_argument("--before", help="a revision of this repository")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--peer-seconds", type=float, default=600.0, help="after which a peer's run is stopped")
    parser.add_argument("--folder", type=Path, default=environment.root() / "growth", help="where the runs are kept")
    parser.add_argument("--fresh", action="store_true", help="forget the runs that were kept")
    parser.add_argument("--keep", action="store_true", help="write results/")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for old in options.folder.glob("tmp*"):
        shutil.rmtree(old, ignore_errors=True)
    return asyncio.run(measure(options, options.folder))


if __name__ == "__main__":
    sys.exit(main())
