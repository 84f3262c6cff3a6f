#!/usr/bin/env bash
# agno 3.1.10 (openai 3.57.0), Python 3.11 and up.
#
# OpenAIEmbedder.async_get_embeddings_batch_and_usage asks for 100 texts a request. Where a request is refused, whatever
# the reason, its texts are asked for one by one. A rate limit is such a reason: the one request that was too many becomes
# a hundred more, each of which counts against the limit, too, and is tried again by the SDK where it is refused.
#
# The server here has no room for the first three seconds and answers 429 with `retry-after: 1`, as where another job has
# used up the minute; the SDK tries each request three times within these. From then on it takes everything.
#
# Output seen:
#   1,000 texts, for which 10 requests would do: vectors 1000
#   requests: 40 refused; then 1000 answered, of 1 text each
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "agno==3.1.10" "openai==3.57.0"
cat > "$work/ask.py" <<'PYTHON'
import asyncio
import json
import logging
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from agno.knowledge.embedder.openai import OpenAIEmbedder

logging.disable(logging.CRITICAL)
VECTOR = [0.6, 0.8]
answered, refused = [], []  # the number of texts of each request
lock = threading.Lock()


class OpenAI(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["content-length"])))["input"]
        texts, now = 1 if isinstance(given, str) else len(given), time.monotonic()
        with lock:
            takes = now > began + 3.2
            (answered if takes else refused).append(texts)
        if takes:
            data = [{"object": "embedding", "index": at, "embedding": VECTOR} for at in range(texts)]
            usage = {"prompt_tokens": texts, "total_tokens": texts}
            status, reply = 200, {"object": "list", "model": "m", "data": data, "usage": usage}
        else:
            status, reply = 429, {"error": {"message": "Rate limit reached for requests", "type": "requests"}}
        body = json.dumps(reply).encode()
        self.send_response(status)
        if not takes:
            self.send_header("retry-after", "1")
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


began = time.monotonic()
server = ThreadingHTTPServer(("127.0.0.1", 0), OpenAI)
threading.Thread(target=server.serve_forever, daemon=True).start()


async def main():
    url = f"http://127.0.0.1:{server.server_port}/v1"
    embedder = OpenAIEmbedder(id="m", api_key="key", base_url=url)
    lists = [[f"text {n} {i}" for i in range(100)] for n in range(10)]
    # Ten documents of 100 sections at the same time, as agno indexes them.
    found = await asyncio.gather(*map(embedder.async_get_embeddings_batch_and_usage, lists))
    return sum(bool(vector) for vectors, _ in found for vector in vectors)


vectors = asyncio.run(asyncio.wait_for(main(), 300))
print(f"1,000 texts, for which 10 requests would do: vectors {vectors}")
print(f"requests: {len(refused)} refused; then {len(answered)} answered, of {max(answered)} text each")
assert vectors > 900 and (len(answered), max(answered)) == (vectors, 1)
PYTHON
"$work/venv/bin/python" "$work/ask.py"
