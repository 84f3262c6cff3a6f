"""openai-python with ten retries against the servers of benchmarks.beside.busy, on the same virtual time.

The package is taken from this environment, or else from the venv that benchmarks.beside.peers keeps. Its own code
decides what is sent again and when; only the network is ours. What it gives up after its ten retries is counted as
lost.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from base64 import b64encode
from importlib import import_module, metadata
from importlib.util import find_spec

import httpx2
import msgspec
import numpy as np

from aembed.errors import RateLimitError
from benchmarks.beside.busy_clients import BYTES_A_TEXT, TEXTS_A_BATCH, TOKENS_A_BATCH, Run
from benchmarks.beside.busy_servers import BusyService, Server
from benchmarks.beside.peers.environment import failed, python
from tests.stage.simulation import now

MAX_RETRIES = 10
BYTES_A_BATCH = TEXTS_A_BATCH * BYTES_A_TEXT
_LEAST_MAJOR = 3
"""The first that takes a client of httpx2."""
MODEL, KEY, URL = "text-embedding-3-small", "sk-simulated", "https://busy.test/v1"
_JSON = {"content-type": "application/json"}
_VECTOR = b64encode(np.ones(1, np.float32).tobytes()).decode()
_REPLY = msgspec.json.encode(
    {
        "object": "list",
        "model": MODEL,
        "data": [{"object": "embedding", "index": 0, "embedding": _VECTOR}],
        "usage": {"prompt_tokens": TOKENS_A_BATCH, "total_tokens": TOKENS_A_BATCH},
    }
)
_REFUSAL = msgspec.json.encode({"error": {"message": "busy", "type": "rate_limit_error", "code": None}})


def installed() -> str:
    """The version of openai-python that can be imported from now on. Raises LookupError where there is none."""
    if find_spec("openai") is None:
        _find_in_venv()
    try:
        import_module("openai")
    except ImportError as error:
        raise LookupError(str(error)) from error
    version = metadata.version("openai")
    if int(version.partition(".")[0]) < _LEAST_MAJOR:
        raise LookupError(f"openai-python {version} is installed here; the benchmark needs {_LEAST_MAJOR} or later")
    return version


def _find_in_venv() -> None:
    """Appends the packages of the venv of the peers, so that what is installed here comes first."""
    try:
        interpreter = python("clients", ("openai",))
        if problem := failed("clients").get("openai"):
            raise LookupError(problem)
        program = "import sysconfig; print(sysconfig.get_path('platlib'))"
        folder = subprocess.run([interpreter, "-c", program], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise LookupError(str(error)) from error
    sys.path.append(folder.strip())


class BusyTransport(httpx2.AsyncBaseTransport):
    """One call of the service for each request; its refusal is a 429 with the `retry-after` that it names."""

    def __init__(self, service: BusyService) -> None:
        self._service = service

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            await self._service.call(TOKENS_A_BATCH, TEXTS_A_BATCH)
        except RateLimitError as error:
            wait = error.hints.retry_after if error.hints else None
            headers = {} if wait is None else {"retry-after": f"{wait:g}"}
            return httpx2.Response(429, headers=_JSON | headers, content=_REFUSAL)
        return httpx2.Response(200, headers=_JSON, content=_REPLY)


async def openai_python(server: Server, concurrency: int, batches: int, seed: int) -> Run:
    """Each batch is one `create`, as many at a time as the concurrency allows.

    A batch is one text here, as long as all of them: what the package does with each text takes no virtual time.
    """
    from openai import APIStatusError, AsyncOpenAI

    random.seed(seed)  # The package draws the jitter of its backoff from the module's own generator.
    service = BusyService(server, seed)
    slots = asyncio.Semaphore(concurrency)

    async def lost(client: AsyncOpenAI, batch: int) -> bool:
        async with slots:
            try:
                reply = await client.embeddings.create(model=MODEL, input=f"{batch:0{BYTES_A_BATCH}d}")
            except APIStatusError:
                return True
        assert len(reply.data) == 1
        return False

    async with httpx2.AsyncClient(transport=BusyTransport(service)) as http:
        client = AsyncOpenAI(api_key=KEY, base_url=URL, max_retries=MAX_RETRIES, http_client=http)
        client._platform = "Unknown"  # Otherwise it asks a thread, which virtual time has not.
        losses = await asyncio.gather(*[lost(client, batch) for batch in range(batches)])
        seconds = now() - service.began
    return Run(seconds, service.refusals, lost=sum(losses))
