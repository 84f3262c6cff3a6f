"""The parts of `benchmarks.growth`, each of which can be run alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.beside.peers.growth_rows import text_of


@dataclass(frozen=True, slots=True)
class Part:
    """`steps` are jobs of growth_jobs.py, one after the other in one place; peers do the first. `most` is its largest
    size."""

    name: str
    steps: Sequence[tuple[str, str]]
    place: Literal["folder", "postgres"] = "folder"
    peers: Sequence[str] = ()
    order: str = "in order"
    most: int = 10**8


IN_FOLDERS = ("lancedb", "lancedb, synced", "sqlite-vec", "duckdb")
PARTS = {
    part.name: part
    for part in (
        Part("sqlite", (("write", "store, in order"), ("again", "again, in order")), peers=IN_FOLDERS),
        Part(
            "sqlite-random",
            (("write", "store, random"), ("again", "again, random")),
            peers=IN_FOLDERS,
            order="random",
        ),
        Part("sqlite-column", (("write", "SQLite column"),)),
        Part(
            "postgres",
            (("write", "store, in order"), ("again", "again, in order")),
            place="postgres",
            peers=("langchain-postgres",),
        ),
        Part("postgres-column", (("write", "PostgreSQL column"),), place="postgres"),
        # Ten million vectors are more than the memory of many machines.
        Part("list", (("write", "list"),), most=1_000_000),
        Part("folder", (("first", "folder"), ("unchanged", "folder"))),
        Part("jsonl", (("plan", "JSONL, plan"), ("job", "JSONL, job"))),
    )
}


def prepare(part: Part, size: int, folder: Path) -> None:
    """The files that a command reads."""
    if part.name == "folder":
        for number in range(size):
            place = folder / "files" / f"{number // 1_000:03}"
            if number % 1_000 == 0:
                place.mkdir(parents=True)
            (place / f"{number}.md").write_text(f"# Note {number}\n\n{text_of(number)}.\n\n## More\n\nAnd {number}.\n")
    if part.name == "jsonl":
        with (folder / "rows.jsonl").open("w") as file:
            file.writelines(f'{{"id": "{number:09}", "text": "{number:09} is a text"}}\n' for number in range(size))
