"""A real llama.cpp behind llama-cpp-python's server, with a tiny model, in a process of its own.

PyPI has its source only: the first run compiles it, for half an hour on two cores.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from benchmarks.beside.peers.environment import failed, python

REQUIREMENTS = ("llama-cpp-python[server]==0.3.36", "gguf==0.19.0")
START_SECONDS = 120.0
OPTIONS = ("--embedding", "true", "--n_ctx", "512", "--n_batch", "512", "--n_threads", "1", "--host", "127.0.0.1")


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    """Yields its URL. Raises LookupError where the server cannot be installed or does not start."""
    interpreter = await asyncio.to_thread(python, "llama", REQUIREMENTS)
    if problems := failed("llama"):
        raise LookupError("; ".join(f"{name}: {problem}" for name, problem in problems.items()))
    told = None if "AEMBED_BENCH_STDERR" in os.environ else DEVNULL
    with tempfile.TemporaryDirectory() as folder:
        model, port = Path(folder, "tiny.gguf"), _free_port()
        writing = await asyncio.create_subprocess_exec(interpreter, Path(__file__).with_name("llama_model.py"), model)
        if code := await writing.wait():
            raise LookupError(f"the tiny model could not be written: exit code {code}")
        command = (interpreter, "-m", "llama_cpp.server", "--model", model, "--port", str(port), *OPTIONS)
        process = await asyncio.create_subprocess_exec(*command, stdout=told, stderr=told)
        url = f"http://127.0.0.1:{port}"
        try:
            async with httpx.AsyncClient() as client, asyncio.timeout(START_SECONDS):
                while not await _answers(client, url):
                    if process.returncode is not None:
                        raise LookupError(f"llama_cpp.server ended: exit code {process.returncode}")
                    await asyncio.sleep(0.2)
            yield url
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(f"{url}/v1/models")).is_success
    except httpx.TransportError:
        return False


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port
