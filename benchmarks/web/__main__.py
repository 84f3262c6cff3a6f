"""Single awaits of a web app: what they cost, how many there can be, and what is left of those that are cancelled.

    python -m benchmarks.web [idle cache calls app openai cancelled lanes] [--clients 2000] [--seconds 8] [--rounds 3]

Without names all parts run. The provider takes 80 ms and is in a process of its own, as are the app (a real uvicorn)
and the load generator; the ledger judges. openai-python and its app run in the peers' venv. Each part prints its bars;
exits 1 if one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import Any

import httpx
import numpy as np
import psutil
import uvloop

from aembed import BadRequestError, Embedder, FakeProvider
from aembed.types import Vector
from benchmarks.beside.peers import environment
from tests.service.refusals import Poison
from tests.service.server import Latency, Server
from tests.service.vectors import vector_of
from tests.service.wire import Wire

ROOT = Path(__file__).parents[2]
MODEL = "text-embedding-3-small"
KEY = "sk-web"
SECONDS = 0.08
REQUESTS_PER_MINUTE = 3_000
PEERS = ("openai", "numpy", "fastapi", "uvicorn")
COLLECTOR = "import gc, uvicorn; gc.set_threshold({}); uvicorn.main()"
OBJECTS = 500_000
"""After so many new objects Python looks for garbage among them. A request of FastAPI that waits, for whatever, is 130:
where fewer than those of all that wait are allowed, they are searched for nothing. The same for all endpoints;
`--objects 700` is Python's own."""


class Bars:
    def __init__(self) -> None:
        self.missed = 0

    def judge(self, text: str, good: bool) -> None:
        self.missed += not good
        print(f"{'met   ' if good else 'MISSED'} {text}", flush=True)


def note(text: str) -> None:
    print(f"       {text}", flush=True)


@contextmanager
def child(*command: str, ready: str = "", **variables: str) -> Iterator[tuple[psutil.Process, str]]:
    """A process and its first line."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout
        first = process.stdout.readline().strip() if not ready else _until(ready)
        yield psutil.Process(process.pid), first
    finally:
        process.terminate()
        process.wait(30)


def _until(url: str) -> str:
    for _ in range(300):
        try:
            httpx.get(f"{url}/plain?q=ready")
            return url
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError(url)


def provider(limited: bool) -> Any:
    limits = ("--window", "sliding", "--requests-per-minute", str(REQUESTS_PER_MINUTE)) if limited else ()
    latency = ("--latency", "1", "--seconds", str(SECONDS), "--seconds-per-token", "0")
    return child(sys.executable, "-m", "tests.service.server", *latency, *limits)


def app(factory: str, url: str, objects: int, python: str = sys.executable) -> Any:
    port = _free_port()
    options = ("--port", str(port), "--no-access-log", "--log-level", "critical")
    command = (python, "-c", COLLECTOR.format(objects), "--factory", f"benchmarks.web.web_app:{factory}", *options)
    return child(*command, ready=f"http://127.0.0.1:{port}", AEMBED_WEB_URL=url)


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def load(url: str, clients: int, seconds: float, warm_up: float = 2.0) -> dict[str, Any]:
    options = ("--clients", str(clients), "--seconds", str(seconds), "--warm-up", str(warm_up))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.web.web_load", url, *options], cwd=ROOT, capture_output=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def ledger(url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(url.removesuffix("/v1") + "/ledger").json()
    return found


# parts


def idle(bars: Bars, options: argparse.Namespace) -> None:
    """A lone call, beside the barest client there is: a kept connection and no HTTP library. On both event loops."""

    async def measure(url: str) -> tuple[list[float], list[float], float]:
        bare, ours, cpu = [], [], 0.0
        async with Wire(url) as wire, Embedder(f"openai:{MODEL}", api_key=KEY, base_url=url) as embedder:
            await embedder.embed_query("warm up")
            for number in range(options.idle_calls):
                began = time.perf_counter()
                await wire.embed([f"bare {number}"])
                bare.append(time.perf_counter() - began)
                began, before = time.perf_counter(), time.process_time()
                await embedder.embed_query(f"ours {number}")
                ours.append(time.perf_counter() - began)
                cpu += time.process_time() - before
        return bare, ours, 1000 * cpu / options.idle_calls

    for name, new_loop in (("asyncio", asyncio.new_event_loop), ("uvloop", uvloop.new_event_loop)):
        with provider(limited=False) as (_, url), asyncio.Runner(loop_factory=new_loop) as runner:
            bare, ours, cpu = runner.run(measure(url))
        middle = 1000 * (median(ours) - median(bare))
        slow = 1000 * (quantiles(ours, n=100)[98] - median(bare))
        slow_bare = 1000 * (quantiles(bare, n=100)[98] - median(bare))
        of = f"idle, {name}"
        bars.judge(
            f"{of}: a lone call takes {middle:.2f} ms more than the bare exchange, median (bar 1.5)", middle <= 1.5
        )
        note(f"{of}: {cpu:.2f} ms of CPU a call; what is above that is the wait for a processor")
        bars.judge(f"{of}: p99 {slow:.2f} ms above the bare median (bar 5); the bare p99 is {slow_bare:.2f}", slow < 5)


def cache(bars: Bars, options: argparse.Namespace) -> None:
    async def measure() -> float:
        async with Embedder(FakeProvider(dimensions=1_536), cache_bytes=10_000_000) as embedder:
            await embedder.embed_query("what somebody asks again")
            times = []
            for _ in range(7):
                began = time.process_time()
                for _ in range(5_000):
                    await embedder.embed_query("what somebody asks again")
                times.append((time.process_time() - began) / 5_000)
            return 1e6 * median(times)

    spent = asyncio.run(measure())
    bars.judge(f"cache: a hit takes {spent:.1f} us (bar 30)", spent < 30)


def calls(bars: Bars, options: argparse.Namespace) -> None:
    """CPU seconds, so that other work on the machine matters little."""
    peers = str(environment.python("web", PEERS))
    spent: dict[str, list[float]] = {"aembed": [], "openai": []}
    with provider(limited=False) as (_, url):
        for _ in range(options.rounds):
            for name, python, count, at_once in (
                ("aembed", sys.executable, 20_000, options.clients),
                ("openai", peers, 1_000, 100),
            ):
                command = [python, "-m", "benchmarks.web.web_calls", name, url]
                command += ["--calls", str(count), "--at-once", str(at_once)]
                done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
                spent[name].append(json.loads(done.stdout)["cpu_us"])
    ours, theirs = median(spent["aembed"]), median(spent["openai"])
    bars.judge(
        f"calls: {ours:.0f} us of CPU a call, openai-python {theirs:.0f} us: {theirs / ours:.1f} x (bar 10)",
        theirs >= 10 * ours,
    )


def served(bars: Bars, options: argparse.Namespace) -> None:
    """The same app with and without an embedding, in turn; `/sleep` waits 80 ms and embeds nothing."""
    rates: dict[str, list[float]] = {"plain": [], "sleep": [], "embed": []}
    cpu: dict[str, list[float]] = {path: [] for path in rates}
    failed: Counter[str] = Counter()
    with provider(limited=True) as (_, url), app("with_aembed", url, options.objects) as (process, at):
        for number in range(options.rounds):
            for path in rates:
                before = sum(process.cpu_times()[:2])
                result = load(f"{at}/{path}", options.clients, options.seconds)
                spent = sum(process.cpu_times()[:2]) - before
                rates[path].append(result["answered"] / result["seconds"])
                cpu[path].append(1e6 * spent / max(1, result["answered"] * (1 + 2 / options.seconds)))
                failed.update(result["failed"])
                note(
                    f"round {number + 1} /{path:5} {rates[path][-1]:6,.0f} a second, about {cpu[path][-1]:4.0f} us of "
                    f"the app's CPU each, p50 / p95 / p99 {result['latencies']} ms, failed {result['failed']}"
                )
        judged = ledger(url)
    share = median(e / p for e, p in zip(rates["embed"], rates["plain"], strict=True))
    waiting = median(e / s for e, s in zip(rates["embed"], rates["sleep"], strict=True))
    bars.judge(f"app: {share:.0%} of the rate without an embedding (bar 80 %)", share >= 0.8)
    note(f"app: {waiting:.0%} of the rate of an endpoint that waits 80 ms and embeds nothing")
    refused = judged["rate_limited"]
    bars.judge(
        f"app: {refused} of {judged['requests']:,} requests for {judged['texts']:,} texts refused by the provider, "
        f"calls failed {dict(failed)}",
        not refused and not failed,
    )
    options.embedded = median(rates["embed"])


def against_openai(bars: Bars, options: argparse.Namespace) -> None:
    """One call each through openai-python, in the same app and under the same limit, over a whole window."""
    python = str(environment.python("web", PEERS))
    with provider(limited=True) as (_, url), app("with_openai", url, options.objects, python) as (_, at):
        result = load(f"{at}/embed", options.clients, 60.0, warm_up=5.0)
        judged = ledger(url)
    theirs = result["answered"] / result["seconds"]
    if options.embedded is None:
        with provider(limited=True) as (_, url), app("with_aembed", url, options.objects) as (_, at):
            ours = load(f"{at}/embed", options.clients, options.seconds)
        options.embedded = ours["answered"] / ours["seconds"]
    ratio = options.embedded / theirs
    note(f"openai: {result['failed']} failed; {judged['rate_limited']:,} of {judged['requests']:,} requests refused")
    bars.judge(
        f"openai: {options.embedded:,.0f} a second, one call each through openai-python {theirs:,.0f}: "
        f"{ratio:.0f} x (bar 10)",
        ratio >= 10,
    )


def cancelled(bars: Bars, options: argparse.Namespace) -> None:
    """10,000 calls, a third cancelled at any moment, a hundredth poison, over real sockets."""
    outcome = asyncio.run(_cancelled(10_000))
    bars.judge(f"cancelled: {dict(outcome)}", not outcome["wrong"] and not any(outcome[name] for name in LEFT))


LEFT = ("tasks left", "descriptors left", "queue places left", "requests left", "errors that were not due")


async def _cancelled(count: int) -> Counter[str]:
    random, outcome, loop = Random(1), Counter[str](), asyncio.get_running_loop()
    async with Server(
        latency=Latency(1.0, fixed=SECONDS, per_token=0.0), script=Poison(lambda text: text.startswith("poison"))
    ) as server:
        await asyncio.sleep(0)
        tasks, descriptors = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
        async with Embedder(f"openai:{MODEL}", api_key=KEY, base_url=server.url, dimensions=48) as embedder:
            made: list[tuple[str, asyncio.Task[Vector]]] = []
            for number in range(count):
                text = f"poison {number}" if random.random() < 0.01 else f"text {random.randrange(8_000)}"
                call = loop.create_task(embedder.embed_query(text, timeout=60))
                made.append((text, call))
                if random.random() < 1 / 3:
                    loop.call_later(random.expovariate(15), call.cancel)
                await asyncio.sleep(random.choice((0, 0, 0.001)))
            await asyncio.wait([call for _, call in made])
            outcome.update(_ending(text, call) for text, call in made)
            while embedder.in_flight:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            stats = embedder.stats()
            outcome["queue places left"], outcome["requests left"] = stats.waiting, stats.in_flight
            outcome["connections"] = server.connections
        while server.connections:  # noqa: ASYNC110 - the server sees the end of a connection a moment later
            await asyncio.sleep(0.01)
        gc.collect()
        outcome["tasks left"] = len(asyncio.all_tasks()) - tasks
        outcome["descriptors left"] = len(os.listdir("/proc/self/fd")) - descriptors
        outcome["requests"] = server.ledger.requests
    return outcome


def _ending(text: str, call: asyncio.Task[Vector]) -> str:
    if call.cancelled():
        return "cancelled"
    if error := call.exception():
        due = text.startswith("poison") and isinstance(error, BadRequestError)
        return "refused, as was due" if due else "errors that were not due"
    return "right" if np.array_equal(call.result(), vector_of(text, 48)) else "wrong"


def lanes(bars: Bars, options: argparse.Namespace) -> None:
    from benchmarks.web import web_lanes

    sys.argv = sys.argv[:1]
    bars.missed += web_lanes.main()


PARTS: dict[str, Callable[[Bars, argparse.Namespace], None]] = {
    "idle": idle,
    "cache": cache,
    "calls": calls,
    "app": served,
    "openai": against_openai,
    "cancelled": cancelled,
    "lanes": lanes,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS])
    parser.add_argument("--clients", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--objects", type=int, default=OBJECTS)
    parser.add_argument("--idle-calls", type=int, default=200)
    options = parser.parse_args()
    options.embedded = None
    bars = Bars()
    for name in options.parts or PARTS:
        PARTS[name](bars, options)
    return bars.missed > 0


if __name__ == "__main__":
    sys.exit(main())
