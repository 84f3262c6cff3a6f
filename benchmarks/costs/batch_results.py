"""What it costs to collect the results of batches: files of 100,000 vectors of 1,536, in base64 and in numbers.

    python -m benchmarks.batch_results [--texts 100000] [--encoding base64] [--runs 3]

Beside it the SDK's own way: openai's `files.content`, `json.loads` of each line, numpy. Each runs in a process of its
own, against the simulated service in another. Memory is what the peak of the process grew by. Exits 1 if a bar is
missed: at most 100 MB, at most a fifth of the SDK's CPU time (numbers: half), p99.9 of the loop's gaps at most 20 ms:
of each gap what the process itself can have made, which is no more than the CPU time of its threads meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
from contextlib import aclosing
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import pybase64
from benchmarks.loop_gap import Ticker, idle

from aembed import open_provider
from aembed.batch_protocols import BatchProvider, BatchState
from aembed.preparation import Preparation
from benchmarks.beside.busy_openai import installed
from benchmarks.results import Bar
from tests.service.own_process import KEY, MODEL, ROOT, serving

PER_LINE, PER_FILE = 500, 50_000
WIDTH = 1_536
MB = 1_000_000
MOST_MEMORY_MB, MOST_GAP_MS = 100.0, 20.0
MOST_SHARE = {"base64": 1 / 5, "float": 1 / 2}
AT_ONCE = {"validating": 0, "running": 0, "finalizing": 0}


def provider_at(url: str, encoding: str = "base64") -> Any:
    provider = open_provider(MODEL, api_key=KEY, base_url=url, encoding=encoding)
    assert isinstance(provider, BatchProvider)
    return provider


def lines_of(first: int, texts: int) -> dict[str, list[str]]:
    return {
        f"line-{start}": [f"text {n} of the job" for n in range(start, min(start + PER_LINE, first + texts))]
        for start in range(first, first + texts, PER_LINE)
    }


async def submit(url: str, texts: int, encoding: str, folder: Path) -> list[str]:
    """The ids of batches that are completed."""
    provider, ids = provider_at(url, encoding), []
    for first in range(0, texts, PER_FILE):
        path = folder / "lines"
        with path.open("wb") as file:
            for id, held in lines_of(first, min(PER_FILE, texts - first)).items():
                file.write(provider.batch_line(id, held, preparation=Preparation()))
        uploaded = await provider.upload_batch_file(path, "benchmark")
        state = await provider.create_batch(uploaded, "benchmark", preparation=Preparation())
        while not state.is_over:
            state = await provider.get_batch(state.id)
        assert state.status == "completed", state
        ids.append(state.id)
    await provider.aclose()
    return ids


# each in a process of its own


class Cost:
    """From now on."""

    def __init__(self) -> None:
        self._cpu, self._peak = process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def told(self, vectors: int, **more: float) -> str:
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self._peak) * 1_024 / MB
        return json.dumps({"cpu": process_time() - self._cpu, "memory_mb": grown, "vectors": vectors, **more})


async def collect(url: str, ids: list[str], texts: int) -> str:
    """As a job does, but that nothing is written: each vector is looked at once."""
    provider = provider_at(url)
    states: list[BatchState] = [await provider.get_batch(id) for id in ids]
    inputs = {id: len(held) for id, held in lines_of(0, texts).items()}
    np.linalg.norm(np.ones((8, 8)))
    cost, ticker, vectors = Cost(), Ticker(), 0
    for state in states:
        async with aclosing(provider.batch_results(state, inputs)) as results:
            async for line in results:
                assert line.reply is not None, line.error
                vectors += len(line.reply.matrix)
    gaps = ticker.stop()
    told = cost.told(vectors, p999_ms=gaps.p999 * 1e3, own_ms=gaps.own * 1e3, longest_ms=gaps.longest * 1e3)
    await provider.aclose()
    return told


def collect_by_sdk(url: str, ids: list[str]) -> str:
    installed()
    import openai

    client = openai.OpenAI(api_key=KEY, base_url=url)
    files = [client.batches.retrieve(id).output_file_id for id in ids]
    cost, vectors = Cost(), 0
    for file in files:
        for line in client.files.content(file).text.splitlines():
            for item in json.loads(line)["response"]["body"]["data"]:
                held = item["embedding"]
                vector = (
                    np.frombuffer(pybase64.b64decode(held), "<f4") if isinstance(held, str) else np.array(held, "<f4")
                )
                assert len(vector) == WIDTH
                vectors += 1
    return cost.told(vectors)


def in_own_process(who: str, url: str, ids: list[str], texts: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.batch_results", "--who", who, "--url", url, "--texts", str(texts)]
    done = subprocess.run([*command, "--ids", *ids], cwd=ROOT, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    assert found["vectors"] == texts
    return found


async def measure(texts: int, encoding: str, runs: int) -> list[Bar]:
    async with serving() as service:
        await service.script(usual_course=AT_ONCE)
        with tempfile.TemporaryDirectory() as folder:
            ids = await submit(service.url, texts, encoding, Path(folder))
        async with idle() as told:
            ours = [await asyncio.to_thread(in_own_process, "aembed", service.url, ids, texts) for _ in range(runs)]
        theirs = await asyncio.to_thread(in_own_process, "openai", service.url, ids, texts)
    cpu = median(run["cpu"] for run in ours)
    memory, gap = max(run["memory_mb"] for run in ours), median(run["p999_ms"] for run in ours)
    own, longest = median(run["own_ms"] for run in ours), max(run["longest_ms"] for run in ours)
    print(
        f"{texts:,} vectors, {encoding}: {cpu:.2f} s of CPU, {memory:.0f} MB, gaps p99.9 {gap:.1f} ms, longest "
        f"{longest:.1f} ms, its own p99.9 {own:.1f} ms; openai {theirs['cpu']:.2f} s, {theirs['memory_mb']:,.0f} MB\n"
        f"an idle loop meanwhile: {told[0]}",
        flush=True,
    )
    return [
        Bar(f"{encoding}: memory", memory, most=MOST_MEMORY_MB, unit=" MB"),
        Bar(f"{encoding}: CPU time, of the SDK's", cpu / theirs["cpu"], most=MOST_SHARE[encoding]),
        Bar(f"{encoding}: p99.9 of its own gaps", own, most=MOST_GAP_MS, unit=" ms"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--encoding", choices=[*MOST_SHARE], nargs="*", default=[*MOST_SHARE])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--who", choices=["aembed", "openai"], help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--ids", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.who == "openai":
        print(collect_by_sdk(options.url, options.ids))
        return 0
    if options.who:
        print(asyncio.run(collect(options.url, options.ids, options.texts)))
        return 0
    bars = [bar for encoding in options.encoding for bar in asyncio.run(measure(options.texts, encoding, options.runs))]
    print(*bars, sep="\n")
    return 0 if all(bar.is_met for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
