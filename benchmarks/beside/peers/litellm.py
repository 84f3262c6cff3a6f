"""LiteLLM: it packs nothing and gathers nothing, so both are done by hand, and base64 is decoded by hand too."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network at import

import numpy as np
import pybase64
from litellm import aembedding

from benchmarks.beside.peers.job import MODEL, Embed, Job, Rows, batches, gathered


def embed(job: Job) -> Embed:
    warnings.filterwarnings("ignore", message="Pydantic serializer warnings")  # it types base64 as floats
    options: dict[str, Any] = {} if job.retries is None else {"max_retries": job.retries}

    async def request(batch: Sequence[str]) -> Rows:
        reply = await aembedding(
            f"openai/{MODEL}",
            list(batch),
            api_base=job.url,
            api_key=job.key,
            timeout=job.timeout,
            encoding_format="base64",
            **options,
        )
        return [np.frombuffer(pybase64.b64decode(item["embedding"]), "<f4") for item in reply.data]

    async def run(texts: Sequence[str]) -> Rows:
        return await gathered(batches(texts, job.max_texts, job.max_tokens), request, job.concurrency)

    return run
