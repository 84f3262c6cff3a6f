#!/usr/bin/env bash
# llama-index-core 0.14.25, llama-index-embeddings-openai 0.7.0, openai 3.57.0, Python 3.11 and up.
#
# The key of an `embeddings_cache` is the text and nothing else. Where two models share the cache (after a change of the
# model, or of `dimensions`, it is the same file or server as before) the second one is answered with the vectors of the
# first, without a request and without a word. Their widths may even differ, as here: a new text among old ones has four
# numbers where the others have two.
#
# Output seen:
#   text-embedding-3-small: widths [2, 2], texts of requests ['a', 'b']
#   text-embedding-3-large: widths [2, 2, 4], texts of requests ['c']
#   text-embedding-3-large, a cache of its own: widths [4, 4, 4], texts of requests ['a', 'b', 'c']
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "llama-index-core==0.14.25" "llama-index-embeddings-openai==0.7.0" "openai==3.57.0"
cat > "$work/ask.py" <<'PYTHON'
import base64
import json
import struct
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.embeddings.openai import OpenAIEmbedding

SMALL, LARGE = "text-embedding-3-small", "text-embedding-3-large"
WIDTHS = {SMALL: 2, LARGE: 4}  # they stand for 1,536 and 3,072
ledger = []  # the texts that were asked for


class OpenAI(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        ledger.extend(asked["input"])
        width = WIDTHS[asked["model"]]
        vector = base64.b64encode(struct.pack(f"<{width}f", *[0.5] * width)).decode()
        data = [{"object": "embedding", "index": at, "embedding": vector} for at in range(len(asked["input"]))]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        body = json.dumps({"object": "list", "model": asked["model"], "data": data, "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *parts):
        pass


server = HTTPServer(("127.0.0.1", 0), OpenAI)
threading.Thread(target=server.serve_forever, daemon=True).start()


def ask(model, texts, cache, words=""):
    ledger.clear()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    embedding = OpenAIEmbedding(model=model, api_key="k", api_base=url, embeddings_cache=cache)
    vectors = embedding.get_text_embedding_batch(texts)
    print(f"{model}{words}: widths {[len(vector) for vector in vectors]}, texts of requests {ledger}")


shared = SimpleKVStore()
ask(SMALL, ["a", "b"], shared)
ask(LARGE, ["a", "b", "c"], shared)
ask(LARGE, ["a", "b", "c"], SimpleKVStore(), ", a cache of its own")
PYTHON
"$work/venv/bin/python" "$work/ask.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
text-embedding-3-small: widths [2, 2], texts of requests ['a', 'b']
text-embedding-3-large: widths [2, 2, 4], texts of requests ['c']
text-embedding-3-large, a cache of its own: widths [4, 4, 4], texts of requests ['a', 'b', 'c']
SEEN
echo "as described"
