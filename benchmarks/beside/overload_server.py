"""A real server that is soon overloaded: infinity-emb with a tiny model and a short queue, in a process of its own.

It answers 429 "currently overloaded", without a hint, while more texts are queued than its queue takes.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import tempfile
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.beside.peers.environment import failed, python

REQUIREMENTS = ("torch==2.13.0", "infinity-emb[server,torch]==0.0.78", "transformers==4.49.0", "numpy<2")
"""The newest infinity-emb, and a transformers that it imports."""
MODEL = "tiny"
QUEUE = 32
START_SECONDS = 180.0
_REFUSED = re.compile(r'http_requests_total\{handler="/embeddings",method="POST",status="4xx"\} (\S+)')


@dataclass(frozen=True, slots=True)
class Overloaded:
    url: str
    process: Process

    async def refused(self) -> int:
        """The server's own count of the requests for embeddings that it refused."""
        async with httpx.AsyncClient() as client:
            reply = await client.get(f"{self.url}/metrics")
        found = _REFUSED.search(reply.text)
        return int(float(found[1])) if found else 0


@asynccontextmanager
async def serving() -> AsyncIterator[Overloaded]:
    """Raises LookupError where the server cannot be installed or does not start."""
    interpreter = await asyncio.to_thread(python, "overload", REQUIREMENTS)
    if problems := failed("overload"):
        raise LookupError("; ".join(f"{name}: {problem}" for name, problem in problems.items()))
    told = None if "AEMBED_BENCH_STDERR" in os.environ else DEVNULL
    with tempfile.TemporaryDirectory() as folder:
        model, port = Path(folder, MODEL), str(_free_port())
        await _write(interpreter, model)
        process = await asyncio.create_subprocess_exec(
            *(interpreter.with_name("infinity_emb"), "v2", "--host", "127.0.0.1", "--port", port),
            *("--model-id", model, "--served-model-name", MODEL, "--engine", "torch", "--device", "cpu"),
            *("--no-bettertransformer", "--no-model-warmup", "--batch-size", "8", "--log-level", "warning"),
            env={**os.environ, **_SETTINGS},
            stdout=told,
            stderr=told,
        )
        try:
            yield await _ready(process, f"http://127.0.0.1:{port}")
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


_SETTINGS = {
    "INFINITY_QUEUE_SIZE": str(QUEUE),
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
"""One thread for the model: with more of them than idle cores a batch of it takes twenty times as long."""


async def _write(interpreter: Path, model: Path) -> None:
    script = Path(__file__).with_name("overload_model.py")
    process = await asyncio.create_subprocess_exec(interpreter, script, model, stdout=DEVNULL)
    if code := await process.wait():
        raise LookupError(f"the tiny model could not be written: exit code {code}")


async def _ready(process: Process, url: str) -> Overloaded:
    async with httpx.AsyncClient() as client, asyncio.timeout(START_SECONDS):
        while process.returncode is None:
            try:
                await client.get(f"{url}/health")
                return Overloaded(url, process)
            except httpx.TransportError:
                await asyncio.sleep(0.2)
    raise LookupError(f"it ended with exit code {process.returncode}; AEMBED_BENCH_STDERR=1 shows what it says")


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]
