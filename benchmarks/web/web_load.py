"""A cheap load generator: so many clients, each on a connection of its own, each with one request at a time.

    python -m benchmarks.web_load http://127.0.0.1:8001/embed --clients 2000 --seconds 10

Prints JSON. Every query is another text.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
RAMP = 500
"""Connections opened at a time."""


@dataclass(slots=True)
class QueryBatch:
    """What came back within the time; `latencies` in milliseconds, at 50, 95 and 99 %."""

    answered: int = 0
    failed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    latencies: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def per_second(self) -> float:
        return self.answered / self.seconds


class Client(asyncio.Protocol):
    def __init__(self, run: Run, number: int) -> None:
        self.run, self.number, self.count = run, number, 0
        self.buffer = b""
        self.asked = 0.0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self) -> None:
        self.count += 1
        self.asked = time.perf_counter()
        self.transport.write(self.run.request(self.number, self.count))

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        length = LENGTH.search(head) if found else None
        if length is None or len(body) < int(length[1]):
            return
        self.buffer = b""
        self.run.took(head[9:12], time.perf_counter() - self.asked)
        if not self.run.over:
            self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.run.over:
            self.run.load.failed["connection lost"] += 1


class Run:
    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port, self.path = parts.hostname or "", parts.port or 80, parts.path
        self.load, self.over, self.measuring = QueryBatch(), False, False
        self.salt = time.time_ns() % 10**9
        self.times: list[float] = []

    def request(self, client: int, count: int) -> bytes:
        query = f"what+does+client+{client}+ask+for+the+{count}th+time+{self.salt}"
        return f"GET {self.path}?q={query} HTTP/1.1\r\nhost: {self.host}\r\n\r\n".encode()

    def took(self, status: bytes, seconds: float) -> None:
        if not self.measuring:
            return
        if status == b"200":
            self.load.answered += 1
            self.times.append(seconds)
        else:
            self.load.failed[status.decode()] += 1

    async def drive(self, clients: int, warm_up: float, seconds: float) -> QueryBatch:
        loop, made = asyncio.get_running_loop(), list[Client]()
        for start in range(0, clients, RAMP):
            numbers = range(start, min(start + RAMP, clients))
            opening = (loop.create_connection(lambda n=n: Client(self, n), self.host, self.port) for n in numbers)
            made += [client for _, client in await asyncio.gather(*opening)]
        for client in made:
            client.ask()
        await asyncio.sleep(warm_up)
        self.measuring, began, cpu = True, time.perf_counter(), time.process_time()
        await asyncio.sleep(seconds)
        self.measuring, self.over = False, True
        self.load.seconds, self.load.cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
        for client in made:
            client.transport.abort()
        self.load.latencies = _percentiles(self.times)
        return self.load


def _percentiles(times: list[float]) -> tuple[float, float, float]:
    times.sort()
    if not times:
        return 0.0, 0.0, 0.0
    return tuple(round(1000 * times[int(share * (len(times) - 1))], 1) for share in (0.5, 0.95, 0.99))  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=2_000)
    parser.add_argument("--warm-up", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    load = asyncio.run(Run(options.url).drive(options.clients, options.warm_up, options.seconds))
    print(json.dumps(asdict(replace(load, failed=dict(load.failed)))))


if __name__ == "__main__":
    main()
