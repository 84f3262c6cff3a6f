#!/usr/bin/env bash
# cohere 7.3.1, Python 3.11 and up.
#
# Client.embed and AsyncClient.embed cut a list into requests of 96 texts and send them all at once: the first one up to
# the 64 threads of its pool, the other one up to the 100 connections of httpx's. Where a single request is refused the
# call raises that error, and what the other requests brought is thrown away, paid for: the error does not hold it.
#
# The server here answers nobody until as many requests are with it as the line says; it bills what it answers with 200.
#
# Output seen:
#   cohere 7.3.1, Client: 64 requests at once for 6144 texts, vectors 6144, texts billed 6144
#   cohere 7.3.1, AsyncClient: 100 requests at once for 9600 texts, vectors 9600, texts billed 9600
#   cohere 7.3.1, Client: 10 requests at once for 960 texts, BadRequestError for 1 of them, vectors 0, texts billed 864
#   cohere 7.3.1, AsyncClient: 10 requests at once for 960 texts, BadRequestError for 1 of them, vectors 0, texts billed 864
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "cohere==7.3.1"
cat > "$work/ask.py" <<'PYTHON'
import asyncio
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cohere

REFUSED = "refused"
billed = []  # for each request that was answered with 200: its texts
together = threading.Barrier(1)


class Service(BaseHTTPRequestHandler):
    def do_POST(self):
        texts = json.loads(self.rfile.read(int(self.headers["content-length"])))["texts"]
        together.wait(timeout=60)
        if REFUSED in texts:
            time.sleep(0.5)  # the others have been answered by then
            status, reply = 400, {"id": "1", "message": "invalid request"}
        else:
            status, units = 200, {"input_tokens": len(texts)}
            vectors = {"float": [[0.6, 0.8] for _ in texts]}
            reply = {"id": "1", "response_type": "embeddings_by_type", "texts": texts, "embeddings": vectors}
            reply["meta"] = {"billed_units": units}
            billed.append(len(texts))
        body = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *parts):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


server = Server(("127.0.0.1", 0), Service)
threading.Thread(target=server.serve_forever, daemon=True).start()
place = {"api_key": "k", "base_url": f"http://127.0.0.1:{server.server_port}"}
options = {"model": "embed-v4.0", "input_type": "search_document", "embedding_types": ["float"]}


async def ask_async(texts):
    return await cohere.AsyncClient(**place).embed(texts=texts, **options)


def ask(kind, requests, texts):
    global together
    together = threading.Barrier(requests)
    billed.clear()
    vectors, raised = 0, ""
    try:
        if kind == "Client":
            reply = cohere.Client(**place).embed(texts=texts, **options)
        else:
            reply = asyncio.run(ask_async(texts))
        vectors = len(reply.embeddings.float_)
    except cohere.BadRequestError as error:
        raised = f"{type(error).__name__} for 1 of them, "
    print(
        f"cohere {cohere.__version__}, {kind}: {requests} requests at once for {len(texts)} texts, {raised}"
        f"vectors {vectors}, texts billed {sum(billed)}"
    )


ask("Client", 64, ["text"] * 64 * 96)
ask("AsyncClient", 100, ["text"] * 100 * 96)
for kind in ("Client", "AsyncClient"):
    ask(kind, 10, ["text"] * 959 + [REFUSED])
PYTHON
"$work/venv/bin/python" "$work/ask.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
cohere 7.3.1, Client: 64 requests at once for 6144 texts, vectors 6144, texts billed 6144
cohere 7.3.1, AsyncClient: 100 requests at once for 9600 texts, vectors 9600, texts billed 9600
cohere 7.3.1, Client: 10 requests at once for 960 texts, BadRequestError for 1 of them, vectors 0, texts billed 864
cohere 7.3.1, AsyncClient: 10 requests at once for 960 texts, BadRequestError for 1 of them, vectors 0, texts billed 864
SEEN
echo "as described"
