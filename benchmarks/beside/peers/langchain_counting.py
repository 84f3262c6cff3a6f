"""LangChain as it comes: it counts the tokens of each text, and sends token ids in the place of texts."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import cache

import tiktoken
from langchain_openai import OpenAIEmbeddings

from benchmarks.beside.peers.job import MODEL, Embed, Job, Rows


class Tokens(str):
    """Its bytes are those that the simulated service makes the vector of."""

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        return array("i", _encoding().encode_ordinary(str(self))).tobytes()


@cache
def _encoding() -> tiktoken.Encoding:
    return tiktoken.get_encoding("cl100k_base")


def sent(text: str) -> str:
    return Tokens(text)


def embed(job: Job) -> Embed:
    client = OpenAIEmbeddings(model=MODEL, api_key=job.key, base_url=job.url, timeout=job.timeout)

    async def run(texts: Sequence[str]) -> Rows:
        return await client.aembed_documents(list(texts))

    return run
