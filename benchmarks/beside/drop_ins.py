"""The classes of `aembed.integrations` beside the frameworks' own for OpenAI, while five requests in a hundred fail.

    python -m benchmarks.drop_ins [--repeats 5] [--quick]

5,000 sections; replies after 0.3 s, lognormal. Each framework is as its users have it: the SDK and LangChain send one
batch after another, LlamaIndex 100 texts a batch, all at once; and the SDK once more as programs have it that grew
around single texts, a call for each, a hundred at a time. They get a timeout of 20 s, since their own is one to ten
minutes. All run in one venv, each in a process of its own. Shown beside the CPU time is that of the interface
alone, which is the same for both: lists of Python floats, made of vectors that are there, and the framework's own
objects and events. Then, without faults, 19,207 sections: `aembed_documents` of LangChain's class beside
`embed_documents` and the floats.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import charts
from benchmarks.beside.peers import Contestant
from benchmarks.beside.peers.contest import Entry, contest
from benchmarks.beside.peers.job import Job
from benchmarks.results import FOLDER, Bar, finish, median, table
from tests.sections import SECTIONS, sections
from tests.service.own_process import KEY, serving
from tests.stage.vocabulary import write_vocabularies

COUNT, RATE = 5_000, 0.05
DRAWN = {"scale": 1.0, "fixed": 0.3, "per_token": 1e-6, "sigma": 0.25, "tokens_vary": False}
CPU, REQUESTS, WALL, FLOATS = 1 / 3, 1 / 5, 1 / 2, 1.35
"""At most so much of theirs; of requests where the framework sends small batches."""


def of(name: str, opens: str, distribution: str, settings: str = "defaults") -> Contestant:
    return Contestant(name, opens, settings, distribution, venv="drop-ins")


@dataclass(frozen=True, slots=True)
class Pair:
    ours: Contestant
    theirs: Contestant
    alone: Contestant
    small_batches: bool = False


PAIRS = {
    "OpenAI's SDK": Pair(
        of("aembed: OpenAI's SDK", "drop_ins:openai", "openai", "one call"),
        of("OpenAI's SDK", "openai_python:in_a_row", "openai", "2,048 texts or 290,000 tokens, one after another"),
        of("OpenAI's SDK: its objects", "drop_ins:openai_alone", "openai"),
    ),
    "OpenAI's SDK, a call a text": Pair(
        of("aembed: OpenAI's SDK, a call a text", "drop_ins:openai_each", "openai", "a hundred calls at a time"),
        of("OpenAI's SDK, a call a text", "openai_python:each", "openai", "a hundred calls at a time"),
        of("OpenAI's SDK: its objects, a call a text", "drop_ins:openai_each_alone", "openai"),
        small_batches=True,
    ),
    "LangChain": Pair(
        of("aembed: LangChain", "drop_ins:langchain", "langchain-core", "one aembed_documents"),
        of("LangChain", "langchain_counting:embed", "langchain-openai", "one aembed_documents"),
        of("LangChain: its floats", "drop_ins:langchain_alone", "langchain-core"),
    ),
    "LlamaIndex": Pair(
        of("aembed: LlamaIndex", "drop_ins:llama_index", "llama-index-core", "one aget_text_embedding_batch"),
        of("LlamaIndex", "llama_index:alone", "llama-index-embeddings-openai", "one aget_text_embedding_batch"),
        of("LlamaIndex: its events", "drop_ins:llama_index_alone", "llama-index-core"),
        small_batches=True,
    ),
}
UNCOUNTED = of("LangChain, no token count", "langchain:alone", "langchain-openai", "600 texts a batch")
LANGCHAIN = PAIRS["LangChain"].ours
BARE = of("embed_documents and floats", "drop_ins:floats", "numpy")


async def with_faults(repeats: int, texts: Sequence[str]) -> tuple[list[Entry], Mapping[str, list[int]]]:
    """The results, and the requests of each contestant in each round, by the server's ledger."""
    contestants = [each for pair in PAIRS.values() for each in (pair.ours, pair.theirs, pair.alone)] + [UNCOUNTED]
    requests: dict[str, list[int]] = {each.name: [] for each in contestants}
    before: list[str] = []
    async with serving("--key", KEY) as service:

        async def count() -> None:
            for name in before:
                requests[name].append((await service.ledger())["requests"])
            before.clear()

        async def begin(contestant: Contestant, seed: int) -> None:
            await count()
            before.append(contestant.name)
            await service.script(clear_ledger=True, latency=DRAWN | {"seed": seed}, random={"seed": seed, "rate": RATE})

        job = Job(service.url, KEY, timeout=20.0)
        with tempfile.TemporaryDirectory() as folder:
            write_vocabularies(Path(folder))
            environment = {"TIKTOKEN_CACHE_DIR": folder}
            entries = await contest(
                contestants, lambda _: job, texts, ["cpu"] * repeats, environment=environment, between=begin
            )
        await count()
    return entries, requests


async def whole_corpus(repeats: int) -> list[Entry]:
    async with serving("--key", KEY) as service:
        job = Job(service.url, KEY)
        return await contest([LANGCHAIN, BARE], lambda _: job, sections(SECTIONS), ["cpu"] * repeats)


def as_row(entry: Entry, requests: Sequence[int], texts: int) -> dict[str, Any]:
    return {
        "contestant": entry.contestant.name,
        "version": entry.version,
        "settings": entry.contestant.settings,
        "cpu": median(result.cpu for result in entry.results),
        "wall": median(result.wall for result in entry.results),
        "requests": median(requests),
        "lost": max(result.lost for result in entry.results) / texts,
        "wrong": max(result.wrong for result in entry.results),
    }


def bars_of(name: str, pair: Pair, rows: Mapping[str, Mapping[str, Any]]) -> list[Bar]:
    ours, theirs, alone = (rows[each.name] for each in (pair.ours, pair.theirs, pair.alone))
    beside = (ours["cpu"] - alone["cpu"]) / (theirs["cpu"] - alone["cpu"])
    print(f"{name}: CPU without that of the interface, to its own: {beside:.2f} x")
    bars = [
        Bar(f"{name}: share of the texts without their own vector", ours["lost"] + ours["wrong"], most=0),
        Bar(f"{name}: CPU to its own", ours["cpu"] / theirs["cpu"], most=round(CPU, 3), unit=" x"),
        Bar(f"{name}: wall to its own", ours["wall"] / theirs["wall"], most=WALL, unit=" x"),
    ]
    if pair.small_batches:
        bars.append(
            Bar(f"{name}: requests to its own", ours["requests"] / theirs["requests"], most=REQUESTS, unit=" x")
        )
    return bars


def chart(rows: Sequence[Mapping[str, Any]]) -> str:
    shown = [
        charts.BarRow(
            row["contestant"],
            row["wall"],
            f"{row['wall']:.1f} s, {row['cpu']:.2f} s CPU" + (f", {row['lost']:.0%} lost" if row["lost"] else ""),
            "ours" if row["contestant"].startswith("aembed") else "peer",
        )
        for row in rows
        if row["requests"]
    ]
    return charts.bars(
        "5,000 sections in the frameworks, while 5 % of the requests fail",
        shown,
        subtitle="medians of wall and CPU time; a hung call costs its timeout, here 20 s",
    )


def floats_bar(repeats: int) -> tuple[Bar, dict[str, Any]]:
    ours, bare = asyncio.run(whole_corpus(repeats))
    figures = [one.cpu / other.cpu for one, other in zip(ours.results, bare.results, strict=True)]
    wrong = sum(result.lost + result.wrong for result in ours.results)
    row = {"contestant": BARE.name, "cpu": median(each.cpu for each in bare.results)}
    row |= {"langchain": median(each.cpu for each in ours.results), "wrong": wrong}
    bar = Bar("19,207 sections: CPU of aembed_documents to embed_documents and floats", median(figures), most=FLOATS)
    return bar, row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="nothing is kept")
    options = parser.parse_args()
    found, requests = asyncio.run(with_faults(options.repeats, sections(options.count)))
    for entry in found:
        if entry.absent:
            print(f"{entry.contestant.name} does not take part: {entry.absent}")
    entries = {entry.contestant.name: entry for entry in found if not entry.absent}
    rows = [as_row(entry, requests[name], options.count) for name, entry in entries.items()]
    head = ("contestant", "wall", "CPU", "requests", "lost", "wrong")
    lines = (
        (
            f"{row['contestant']} {row['version']}",
            f"{row['wall']:.2f} s",
            f"{row['cpu']:.2f} s",
            f"{row['requests']:.0f}",
            f"{row['lost']:.1%}" if row["requests"] else "",
            str(row["wrong"]) if row["requests"] else "",
        )
        for row in rows
    )
    print(table(head, lines), end="\n\n")
    bars = [
        bar
        for name, pair in PAIRS.items()
        if {pair.ours.name, pair.theirs.name, pair.alone.name} <= entries.keys()
        for bar in bars_of(name, pair, {row["contestant"]: row for row in rows})
    ]
    bar, row = floats_bar(options.repeats)
    if not options.quick:
        charts.write(FOLDER / "drop_ins.svg", chart(rows))
    return finish("drop_ins", [*rows, row], [*bars, bar], keep=not options.quick)


if __name__ == "__main__":
    sys.exit(main())
