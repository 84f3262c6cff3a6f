"""What a hostile provider costs: the bars, with the figures of the server's own ledger.

python -m benchmarks.hostile              on virtual time, and the huge replies over a socket
python -m benchmarks.hostile --real       an outage of 60 s in real time, over sockets, as well
"""

from __future__ import annotations

import argparse
import asyncio
import gc
from collections.abc import Callable, Sequence
from random import Random
from time import monotonic

import psutil

from aembed import AembedError, Embedder, Embeddings
from tests.service.faults import Fault, Faults, Flood, Late, Outage, Request, Script, Status, gzip_bomb, html
from tests.service.in_process import DIMENSIONS, MODEL, embedder_of
from tests.service.refusals import Poison, bad_key, quota_exhausted
from tests.service.server import Latency, Server
from tests.service.service import Service
from tests.service.vectors import vector_of
from tests.stage.clock import run_virtual

BUSY = (Status(500), Status(502), Status(503), Status(504), html(502))
OUTAGE = (20.0, 80.0)
MB = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", action="store_true", help="an outage of 60 s in real time, too: two minutes")
    options = parser.parse_args()
    outage()
    flaky()
    poisons()
    verdicts()
    huge()
    if options.real:
        asyncio.run(real_outage())


def bar(name: str, figures: str, met: bool) -> None:
    print(f"{'ok ' if met else 'NOT'}  {name:<44} {figures}", flush=True)


async def embed(embedder: Embedder, texts: Sequence[str]) -> tuple[Embeddings, AembedError | None]:
    """Every vector is compared with that of its text."""
    error = None
    try:
        embeddings = await embedder.embed_documents(texts)
    except AembedError as stopped:
        if stopped.embeddings is None:
            raise
        error, embeddings = stopped, stopped.embeddings
    for text, vector in zip(texts, embeddings, strict=True):
        if vector is not None and (vector != vector_of(text, len(vector))).any():
            raise AssertionError(f"{text!r} has the vector of another text")
    return embeddings, error


def numbers(n: int) -> list[str]:
    return [f"{number:04d}" for number in range(n)]


def outage() -> None:
    service = Service(script=Outage(*OUTAGE))

    async def run() -> Embeddings:
        async with embedder_of(service, Latency(1.0, fixed=1.0), concurrency=64, max_batch_size=4) as embedder:
            return (await embed(embedder, numbers(4 * 64 * 120)))[0]

    told("60 s outage, 64 in flight, virtual time", service, run_virtual(run), *OUTAGE)


def told(name: str, service: Service, embeddings: Embeddings, start: float, end: float) -> None:
    """Full speed is 95 % of that before the outage, over two seconds."""
    ledger = service.ledger
    wasted = sum(event.label != "accepted" for event in ledger.events)
    accepted = [event.at for event in ledger.events if event.label == "accepted"]
    rate = sum(start - 10 <= at < start for at in accepted) / 10
    full = next((s for s in range(60) if sum(end + s <= at < end + s + 2 for at in accepted) >= 1.9 * rate), 60)
    failed = embeddings.report.failed
    figures = f"{wasted} wasted (<= 104), {failed} texts failed (0), {rate:.0f} a second again after {full} s (<= 10)"
    bar(name, figures, wasted <= 104 and failed == 0 and full <= 10)


def flaky() -> None:
    for concurrency, latency, refusal in ((8, 1.0, 0.02), (8, 1.0, 1.0), (8, 0.2, 0.02), (64, 1.0, 0.02)):
        seconds, failed, gates = [], 0, set[str]()
        requests = max(1_000, 40 * concurrency)
        for seed in range(3):
            took, embeddings, gate = run_virtual(_flaky, seed, concurrency, latency, refusal, requests)
            seconds.append(took)
            failed += embeddings.report.failed
            gates.add(gate)
        goodput = requests * latency / concurrency / max(seconds)
        name = f"30 % 5xx, {concurrency} in flight of {latency:g} s, a 5xx {refusal:g} s"
        figures = f"goodput {goodput:.2f} (>= 0.6), {failed} texts failed (0), gate {', '.join(sorted(gates))}"
        bar(name, figures, goodput >= 0.6 and failed == 0)


async def _flaky(
    seed: int, concurrency: int, latency: float, refusal: float, requests: int
) -> tuple[float, Embeddings, str]:
    service = Service(script=Faults(seed, 0.3, BUSY))
    options = {"concurrency": concurrency, "max_batch_size": 4, "refusal_seconds": refusal}
    async with embedder_of(service, Latency(1.0, fixed=latency), **options) as embedder:  # type: ignore[arg-type]
        embedder._engine.random = Random(seed)
        embeddings, _ = await embed(embedder, numbers(4 * requests))
        gate = repr(embedder).partition("row, ")[2].partition(",")[0]
        return asyncio.get_running_loop().time(), embeddings, gate


def poisons() -> None:
    texts = numbers(2_048)
    requests = [_job(Poison({texts[i]}), texts, concurrency=1)[0] for i in (0, 1_024, 1_365, 2_047)]
    bar("one poison in 2,048", f"{max(requests) - 1} further requests (<= 23)", max(requests) <= 24)
    for name, bad in (("adjacent", range(1_000, 1_020)), ("scattered", Random(1).sample(range(2_048), 20))):
        poisoned = {texts[i] for i in bad}
        sent, embeddings, _ = _job(Poison(poisoned), texts, concurrency=8)
        failed = {texts[failure.index] for failure in embeddings.failures}
        bar(f"20 poisons, {name}", f"{len(failed)} failed, {sent} requests", failed == poisoned)
    for concurrency in (1, 8, 64):
        sent, embeddings, error = _job(Poison(lambda text: True), numbers(9_999), concurrency=concurrency)
        figures = f"{sent} requests (<= {15 + concurrency}), {type(error).__name__}"
        bar(f"all poisons, {concurrency} in flight", figures, sent <= 15 + concurrency and error is not None)


def _job(script: Script, texts: Sequence[str], *, concurrency: int) -> tuple[int, Embeddings, AembedError | None]:
    service = Service(script=script)

    async def run() -> tuple[Embeddings, AembedError | None]:
        async with embedder_of(service, Latency(1.0), concurrency=concurrency) as embedder:
            return await embed(embedder, texts)

    embeddings, error = run_virtual(run)
    return service.ledger.requests, embeddings, error


def verdicts() -> None:
    for name, verdict in (("bad key", bad_key("sk-****")), ("exhausted quota", quota_exhausted())):
        after, seconds, error = asyncio.run(_verdict(verdict))
        figures = f"{after} new requests after the verdict (0), {type(error).__name__} after {seconds * 1000:.0f} ms"
        bar(f"{name}, over a socket", figures, after == 0 and seconds < 1.0 and error is not None)


async def _verdict(verdict: Fault) -> tuple[int, float, AembedError | None]:
    """Requests that reached the server more than 20 ms after the verdict: those before were on their way."""

    def script(request: Request) -> Fault | None:
        return verdict if request.number >= 40 else Late(0.05)

    async with Server(script=script) as server, _at(server, max_batch_size=20) as embedder:
        _, error = await embed(embedder, numbers(9_999))
        ended = asyncio.get_running_loop().time()
        refused = [event.at for event in server.ledger.events if event.label != "accepted"]
        return sum(event.at > refused[0] + 0.02 for event in server.ledger.events), ended - refused[0], error


def _at(server: Server, **options: object) -> Embedder:
    fixed = {"api_key": "sk-hostile", "base_url": server.url, "dimensions": DIMENSIONS}
    return Embedder(f"openai:{MODEL}", **(fixed | options))  # type: ignore[arg-type]


def huge() -> None:
    faults: dict[str, Callable[[], Fault]] = {
        "a gzip bomb of 558 bytes": gzip_bomb,
        "a gzip bomb of one layer": lambda: gzip_bomb(layers=1),
        "a body of 1 GB": Flood,
        "a body of 1 GB in chunks": lambda: Flood(framing="chunked"),
    }
    for name, make in faults.items():
        more, seconds, error = asyncio.run(_huge(make()))
        figures = f"{more / MB:.1f} MB more (< 32), {type(error).__name__} after {seconds:.2f} s"
        bar(f"{name} for 16 texts", figures, more < 32 * MB and error is not None)


async def _huge(fault: Fault) -> tuple[int, float, AembedError | None]:
    """Peak of the resident memory, client and server in one process."""
    server = Server(script=lambda request: fault if request.number else None)
    async with server, _at(server, max_batch_size=16, concurrency=1, dimensions=1_536) as embedder:
        await embed(embedder, numbers(16))
        gc.collect()
        process, peak = psutil.Process(), 0
        before, started = process.memory_info().rss, monotonic()
        job = asyncio.create_task(embed(embedder, [f"more {text}" for text in numbers(16)]))
        while not job.done():
            await asyncio.sleep(0)
            peak = max(peak, process.memory_info().rss - before)
        return peak, monotonic() - started, (await job)[1]


async def real_outage() -> None:
    loop = asyncio.get_running_loop()
    async with Server(latency=Latency(1.0, fixed=1.0)) as server:
        start = loop.time() + OUTAGE[0]
        end = start + OUTAGE[1] - OUTAGE[0]
        server.service.script = Outage(start, end)
        async with _at(server, concurrency=64, max_batch_size=4) as embedder:
            embeddings, _ = await embed(embedder, numbers(4 * 64 * 50))
        told("60 s outage, 64 in flight, real time", server.service, embeddings, start, end)


if __name__ == "__main__":
    main()
