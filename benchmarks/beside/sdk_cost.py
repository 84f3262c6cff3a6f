"""What a client costs beside the service's own SDK: CPU time for 1,000 vectors, each against one server process.

    python -m benchmarks.sdk_cost [--count 4800] [--repeats 3] [--quick]

Cohere, the Gemini API and Ollama answer numbers, Voyage base64, and Mistral what it is asked for: its SDK cannot decode
base64. The server has its replies ready and answers at once, in the shape that each service has. A child process embeds
all texts in full requests, four at a time; its first requests, one for each that go at a time, are for what is loaded
late. The contestants take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from time import process_time
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KEY, AT_ONCE = "sk-benchmark-0123456789", 4
TOKENS = 80
"""Of each text, as its service counts."""
SDKS = ("cohere==7.3.1", "google-genai==3.6.1", "mistralai==3.7.0", "voyageai==0.5.0", "ollama==0.6.3", "numpy>=1.26")
SERVICES = {
    "cohere": ("cohere:embed-v4.0", "", 96, 1_536),
    "gemini": ("gemini:gemini-embedding-2", "/v1beta", 100, 3_072),
    "mistral": ("mistral:mistral-embed", "/v1", 256, 1_024),
    "ollama": ("ollama:mxbai-embed-large", "", 256, 1_024),
    "voyage": ("voyage:voyage-3.5", "/v1", 1_000, 1_024),
}
"""The model, the path of base_url, texts in a request and dimensions."""
BASE64 = frozenset({"mistral", "voyage"})

Request = Callable[[Sequence[str]], Awaitable[int]]
"""Embeds these texts by one call, and says how many vectors came."""


# the server


def reply_to(target: str, count: int, in_base64: bool) -> bytes:
    import base64

    import numpy as np

    def numbers(width: int) -> list[list[float]]:
        # As float32 is written: eight or nine digits.
        rows = np.random.default_rng(1).standard_normal((8, width))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        table = [[float(str(value)) for value in row] for row in rows.astype(np.float32)]
        return [table[i % 8] for i in range(count)]

    tokens = TOKENS * count
    if target.endswith("/v2/embed"):
        meta = {"api_version": {"version": "2"}, "billed_units": {"input_tokens": tokens}}
        value: Any = {"id": "x", "texts": [], "embeddings": {"float": numbers(1_536)}, "meta": meta}
        value["response_type"] = "embeddings_by_type"
    elif target.endswith(":batchEmbedContents"):
        value = {
            "embeddings": [{"values": row} for row in numbers(3_072)],
            "usageMetadata": {"promptTokenCount": tokens},
        }
    elif target.endswith("/api/embed"):
        value = {"model": "mxbai-embed-large", "embeddings": numbers(1_024), "prompt_eval_count": tokens}
    elif target.endswith("/api/show"):
        value = {"model_info": {}}
    else:
        rows: list[Any] = numbers(1_024)
        if in_base64:
            rows = [base64.b64encode(np.array(row, "<f4").tobytes()).decode() for row in rows]
        data = [{"object": "embedding", "embedding": row, "index": i} for i, row in enumerate(rows)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
        value = {"id": "x", "object": "list", "data": data, "model": "mistral-embed", "usage": usage}
    return json.dumps(value, separators=(",", ":")).encode()


async def serve() -> None:
    ready: dict[tuple[str, int, bool], bytes] = {}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            target = head.split(" ", 2)[1].partition("?")[0]
            length = next((line for line in head.lower().split("\r\n") if line.startswith("content-length:")), ":0")
            asked = json.loads(await reader.readexactly(int(length.partition(":")[2])) or b"{}")
            texts = asked.get("texts") or asked.get("requests") or asked.get("input") or asked.get("inputs") or []
            held = (target, len(texts), asked.get("encoding_format") == "base64")
            if held not in ready:
                ready[held] = reply_to(*held)
            answered = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            writer.write(answered % len(ready[held]) + ready[held])
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=2**24)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _head(reader: asyncio.StreamReader) -> str:
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, ConnectionError):
        return ""


# the clients


def sdk_of(name: str, url: str) -> Request:
    model = SERVICES[name][0].partition(":")[2]

    async def by_cohere(texts: Sequence[str]) -> int:
        reply = await client.embed(
            model=model, texts=list(texts), input_type="search_document", embedding_types=["float"], truncate="NONE"
        )
        return len(reply.embeddings.float_)

    async def by_genai(texts: Sequence[str]) -> int:
        contents = [types.Content(parts=[types.Part(text=text)]) for text in texts]
        return len((await client.aio.models.embed_content(model=model, contents=contents)).embeddings)

    async def by_mistral(texts: Sequence[str]) -> int:
        return len((await client.embeddings.create_async(model=model, inputs=list(texts))).data)

    async def by_ollama(texts: Sequence[str]) -> int:
        return len((await client.embed(model=model, input=list(texts), truncate=False)).embeddings)

    async def by_voyage(texts: Sequence[str]) -> int:
        found = await client.embed(list(texts), model=model, input_type="document", truncation=False)
        return len(found.embeddings)

    client: Any
    if name == "cohere":
        import cohere

        client = cohere.AsyncClientV2(api_key=KEY, base_url=url)
        return by_cohere
    if name == "gemini":
        from google import genai
        from google.genai import types

        client = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=url))
        return by_genai
    if name == "mistral":
        from mistralai.client import Mistral

        client = Mistral(api_key=KEY, server_url=url)
        return by_mistral
    if name == "ollama":
        import ollama

        client = ollama.AsyncClient(host=url)
        return by_ollama
    import voyageai

    client = voyageai.AsyncClient(api_key=KEY, base_url=f"{url}/voyage/v1")
    return by_voyage


async def run_sdk(name: str, url: str, texts: Sequence[str]) -> tuple[float, int]:
    request, most = sdk_of(name, url), SERVICES[name][2]
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(part: Sequence[str]) -> int:
        async with turns:
            return await request(part)

    await asyncio.gather(*(one(["warm"]) for _ in range(AT_ONCE)))
    start = process_time()
    found = await asyncio.gather(*(one(part) for part in (texts[at : at + most] for at in range(0, len(texts), most))))
    return process_time() - start, sum(found)


async def run_ours(name: str, url: str, texts: Sequence[str]) -> tuple[float, int]:
    from aembed import Embedder, open_provider

    model, path, _, _ = SERVICES[name]
    key = {} if name == "ollama" else {"api_key": KEY}
    base = f"{url}/voyage{path}" if name == "voyage" else f"{url}{path}"
    async with Embedder(open_provider(model, base_url=base, **key), concurrency=AT_ONCE) as embedder:
        await embedder.embed_documents([f"warm {i}" for i in range(AT_ONCE)])
        start = process_time()
        embeddings = await embedder.embed_documents(texts)
        return process_time() - start, len(embeddings.vectors)


def texts_of(count: int) -> list[str]:
    return [f"{i}: a text of some sixty words, " + "which says little " * 16 for i in range(count)]


# side by side


def child(python: str, *arguments: str) -> tuple[float, int]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [python, str(Path(__file__)), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    seconds, vectors = done.stdout.split()[-2:]
    return float(seconds), int(vectors)


def main() -> int:
    from benchmarks.beside.peers.environment import python
    from benchmarks.results import Bar, finish, median, table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=4_800)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="nothing is kept")
    options = parser.parse_args()
    theirs = str(python("sdks", SDKS))
    server = subprocess.Popen([sys.executable, str(Path(__file__)), "serve"], stdout=subprocess.PIPE, text=True)
    assert server.stdout
    url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
    rows, bars = [], []
    try:
        for name, (model, *_) in SERVICES.items():
            found: dict[str, list[float]] = {"aembed": [], "sdk": []}
            for _ in range(options.repeats):
                for who, interpreter in (("aembed", sys.executable), ("sdk", theirs)):
                    seconds, vectors = child(interpreter, who, name, url, str(options.count))
                    if vectors != options.count:
                        raise RuntimeError(f"{who} {name}: {vectors} vectors of {options.count}")
                    found[who].append(1_000 * seconds / options.count)
            ours, own = median(found["aembed"]), median(found["sdk"])
            rows.append(
                {"service": name, "model": model, "aembed": ours, "sdk": own, "ratio": ours / own, "runs": found}
            )
            form, most = ("base64", 1 / 6) if name in BASE64 else ("numbers", 1 / 4)
            bars.append(Bar(f"client CPU, {name}, {form}, to its own SDK", ours / own, most=round(most, 4), unit=" x"))
    finally:
        server.terminate()
    head = ("service", "aembed", "its own SDK", "ratio")
    shown = ((r["service"], f"{r['aembed']:.3f} s", f"{r['sdk']:.3f} s", f"{r['ratio']:.3f}") for r in rows)
    print(f"CPU seconds for 1,000 vectors\n{table(head, shown)}\n")
    return finish("sdk_cost", rows, bars, keep=not options.quick)


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1] == "serve":
        asyncio.run(serve())
    elif len(sys.argv) == 5 and sys.argv[1] in ("aembed", "sdk"):
        run = run_ours if sys.argv[1] == "aembed" else run_sdk
        print(*asyncio.run(run(sys.argv[2], sys.argv[3], texts_of(int(sys.argv[4])))))
    else:
        sys.exit(main())
