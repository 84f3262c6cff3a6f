#!/usr/bin/env bash
# graphiti-core 0.31.2 (openai 3.57.0, httpx 0.28.1, which it imports and does not ask for), Python 3.11 and up.
#
# OpenAIEmbedder with its own defaults asks text-embedding-3-small for a vector of the model's whole width, without a
# `dimensions` in the request, and keeps the first 1,024 of its 1,536 numbers as they are. Such a vector is no more 1
# long, so a dot product is no cosine of it, and one that the service itself has shortened (`dimensions=1024`, which
# scales it) is another vector. Gemini's embedder of the same package asks for the width that it keeps.
#
# Output seen:
#   the request names no dimensions; 1536 numbers came, of length 1.000
#   create: 1024 numbers of length 0.816; create_batch: 1024 numbers of length 0.816
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "graphiti-core==0.31.2" "openai==3.57.0" "httpx==0.28.1"
cat > "$work/ask.py" <<'PYTHON'
import asyncio
import base64
import json
import struct
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from math import hypot

from graphiti_core.embedder.openai import OpenAIEmbedder, OpenAIEmbedderConfig

NUMBERS = [1536**-0.5] * 1536
VECTOR = base64.b64encode(struct.pack("<1536f", *NUMBERS)).decode()
requests = []


class OpenAI(BaseHTTPRequestHandler):
    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["content-length"])))
        requests.append(given)
        texts = given["input"] if isinstance(given["input"], list) else [given["input"]]
        data = [{"object": "embedding", "index": at, "embedding": VECTOR} for at in range(len(texts))]
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        body = json.dumps({"object": "list", "model": given["model"], "data": data, "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


server = HTTPServer(("127.0.0.1", 0), OpenAI)
threading.Thread(target=server.serve_forever, daemon=True).start()


async def main():
    config = OpenAIEmbedderConfig(api_key="key", base_url=f"http://127.0.0.1:{server.server_port}/v1")
    embedder = OpenAIEmbedder(config)
    return await embedder.create("one text"), (await embedder.create_batch(["a", "b"]))[1]


one, of_batch = asyncio.run(main())
assert not any("dimensions" in request for request in requests), requests
print(f"the request names no dimensions; {len(NUMBERS)} numbers came, of length {hypot(*NUMBERS):.3f}")
print(
    f"create: {len(one)} numbers of length {hypot(*one):.3f}; "
    f"create_batch: {len(of_batch)} numbers of length {hypot(*of_batch):.3f}"
)
assert (len(one), round(hypot(*one), 3), len(of_batch), round(hypot(*of_batch), 3)) == (1024, 0.816, 1024, 0.816)
PYTHON
"$work/venv/bin/python" "$work/ask.py"
