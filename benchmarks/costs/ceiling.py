"""What the simulated service can do at most, so that no benchmark measures it instead of its client.

python -m benchmarks.ceiling
"""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE, Process

import psutil

from tests.service.wire import Wire


async def _burst(
    server: psutil.Process, url: str, texts: list[str], *, connections: int, requests: int, encoding_format: str
) -> None:
    async def run(wire: Wire) -> int:
        replies = [await wire.embed(texts, encoding_format=encoding_format) for _ in range(requests)]
        assert all(reply.status == 200 for reply in replies)
        return sum(len(reply.body) for reply in replies)

    wires = [await Wire(url).__aenter__() for _ in range(connections)]
    began, cpu = time.perf_counter(), _cpu_seconds(server)
    received = sum(await asyncio.gather(*map(run, wires)))
    seconds, cpu = time.perf_counter() - began, _cpu_seconds(server) - cpu
    for wire in wires:
        await wire.__aexit__()
    total = connections * requests
    print(
        f"{total} requests of {len(texts)} texts, {encoding_format}, {connections} connections: "
        f"{total / seconds:,.0f} requests/s, {received / seconds / 1e6:,.0f} MB/s; "
        f"of the server's CPU alone {total / cpu:,.0f} requests/s, {total * len(texts) / cpu:,.0f} vectors/s",
        flush=True,
    )


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def _start() -> tuple[Process, str]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.service.server", stdout=PIPE)
    assert process.stdout is not None
    return process, (await process.stdout.readline()).decode().strip()


async def main() -> None:
    process, url = await _start()
    server = psutil.Process(process.pid)
    large = [f"section {n} " * 20 for n in range(2_048)]
    try:
        await _burst(server, url, large, connections=1, requests=2, encoding_format="base64")
        await _burst(server, url, ["a query"], connections=8, requests=1_000, encoding_format="base64")
        await _burst(server, url, large, connections=1, requests=10, encoding_format="base64")
        await _burst(server, url, large, connections=8, requests=4, encoding_format="base64")
        await _burst(
            server,
            url,
            [f"a short text {n}" for n in range(2_048)],
            connections=8,
            requests=4,
            encoding_format="base64",
        )
        await _burst(server, url, large[:256], connections=4, requests=4, encoding_format="float")
    finally:
        process.terminate()
        await process.wait()


if __name__ == "__main__":
    asyncio.run(main())
