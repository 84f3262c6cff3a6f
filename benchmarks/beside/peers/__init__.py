"""The other ways to the same vectors: one small adapter each, run by the Python of a venv of their own.

Every contestant is a child process (`python -m benchmarks.peers.child`) that is told its job in JSON, says when it is
ready, works when it is told to go, and measures itself. Each has the best settings that we know of; the tables name
them. `contest.py` runs several in turn.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CLIENTS = (
    "openai",
    "langchain-openai",
    "llama-index-embeddings-openai",
    "litellm",
    "haystack-ai",
    "baseten-performance-client",
    "numpy",
    "msgspec",
    "pybase64",
)
"""What the venv of the clients holds; the last three are what the benchmarks themselves need."""
_PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"
_DEPENDENCIES = tomllib.loads(_PYPROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
DROP_INS = ("openai", "langchain-openai", "llama-index-embeddings-openai", *_DEPENDENCIES)
"""What theirs and ours need in one venv: aembed itself is imported from the checkout."""
ENGINES = ("ray[data]==2.60.0", "daft==0.7.26", "openai==3.51.0", "pyarrow==25.0.1", "aiohttp", *_DEPENDENCIES)
VENVS: Mapping[str, Sequence[str]] = {"clients": CLIENTS, "drop-ins": DROP_INS, "engines": ENGINES}


@dataclass(frozen=True, slots=True)
class Contestant:
    """`opens` is a module of this package and its function; `distribution` names the peer in its venv, None is our
    own environment. `loop` is the event loop that it runs on, `venv` one of VENVS."""

    name: str
    opens: str
    settings: str
    distribution: str | None = None
    loop: Literal["asyncio", "uvloop"] = "asyncio"
    venv: str = "clients"


BATCHES = "batches of 2,048 texts or 290,000 tokens"

AEMBED = Contestant("aembed", "ours:embedder", "defaults")
AEMBED_UVLOOP = Contestant("aembed on uvloop", "ours:embedder", "defaults", loop="uvloop")
AEMBED_PACED = Contestant("aembed, limit given", "ours:fresh", "tokens_per_minute=")
AEMBED_UNAWARE = Contestant("aembed, limit unknown", "ours:fresh", "defaults")
BLOCKING = Contestant("limit: blocking socket", "bare:blocking", f"{BATCHES}, one at a time, one pybase64 pass")
RAW_ASYNCIO = Contestant("limit: raw asyncio", "bare:raw_asyncio", f"{BATCHES}, asyncio.Protocol, one pybase64 pass")
OPENAI = Contestant("openai-python", "openai_python:batched", f"AsyncOpenAI, base64, {BATCHES}", "openai")
ONE_A_REQUEST = Contestant("one text a request", "openai_python:one_a_request", "AsyncOpenAI, base64", "openai")
THREAD_POOL = Contestant(
    "thread pool", "openai_python:thread_pool", "OpenAI, base64, 5 threads, 2,048 texts or 8,000 tokens", "openai"
)
LANGCHAIN = Contestant(
    "langchain-openai", "langchain:embed", f"no token count, {BATCHES}, gathered by hand", "langchain-openai"
)
LANGCHAIN_ALONE = Contestant(
    "langchain-openai, as it is", "langchain:alone", "one aembed_documents, 600 texts a batch", "langchain-openai"
)
LLAMA_INDEX = Contestant(
    "llama-index", "llama_index:embed", "700 texts a batch, num_workers", "llama-index-embeddings-openai"
)
LITELLM = Contestant("litellm", "litellm:embed", f"aembedding, base64, {BATCHES}", "litellm")
HAYSTACK = Contestant("haystack", "haystack:embed", f"run_async, {BATCHES}, gathered by hand", "haystack-ai")
BASETEN_NUMPY = Contestant(
    "baseten client, numpy()", "baseten:floats", "1,000 texts a batch, JSON floats", "baseten-performance-client"
)
BASETEN_BASE64 = Contestant(
    "baseten client, by hand", "baseten:base64", "1,000 texts a batch, base64, pybase64", "baseten-performance-client"
)

PEERS: Sequence[Contestant] = (
    OPENAI,
    THREAD_POOL,
    LANGCHAIN,
    LLAMA_INDEX,
    LITELLM,
    HAYSTACK,
    BASETEN_NUMPY,
    BASETEN_BASE64,
)
