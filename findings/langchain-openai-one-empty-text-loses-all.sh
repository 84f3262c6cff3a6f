#!/usr/bin/env bash
# langchain-openai 1.7.4 (tiktoken 0.14.0, openai 3.57.0), Python 3.11 and up.
#
# OpenAIEmbeddings leaves an empty text out of its requests, and asks for it when all others are there: one request
# more, whose input is "". An input "cannot be an empty string" by OpenAI's reference. Where the server keeps to that
# and answers 400, the call raises at its very end, and the vectors that were paid for before are lost with it.
# `skip_empty=True`, which by its name leaves empty texts out, changes nothing about it: what it skips are vectors of
# one number.
#
# The server here refuses an empty string and bills what it answers with 200. The vocabulary is one of single bytes,
# written here, so that none is downloaded.
#
# Output seen:
#   without the empty text: vectors 2500, inputs of requests [1000, 1000, 500], texts billed 2500
#   skip_empty=False: BadRequestError, vectors 0, inputs of requests [1000, 1000, 500, ''], texts billed 2500
#   skip_empty=True: BadRequestError, vectors 0, inputs of requests [1000, 1000, 500, ''], texts billed 2500
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "langchain-openai==1.7.4" "tiktoken==0.14.0" "openai==3.57.0"
mkdir -p "$work/plugin/tiktoken_ext"
cat > "$work/plugin/tiktoken_ext/bytes_only.py" <<'PYTHON'
def bytes_only():
    ranks = {bytes([byte]): byte for byte in range(256)}
    return {"name": "bytes_only", "pat_str": r"\S+|\s+", "mergeable_ranks": ranks, "special_tokens": {}}


ENCODING_CONSTRUCTORS = {"bytes_only": bytes_only}
PYTHON
cat > "$work/ask.py" <<'PYTHON'
import base64
import json
import struct
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import openai
import tiktoken.model
from langchain_openai import OpenAIEmbeddings

tiktoken.model.MODEL_TO_ENCODING["bytes"] = "bytes_only"
VECTOR = base64.b64encode(struct.pack("<2f", 0.5, 0.5)).decode()
sent = []  # for each request: the number of its inputs, or the string that it has in their place
billed = []  # for each request that was answered with 200: the number of its inputs


class OpenAI(BaseHTTPRequestHandler):
    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["content-length"])))["input"]
        sent.append(given if isinstance(given, str) else len(given))
        if given == "":
            status, reply = 400, {"error": {"message": "invalid input", "type": "invalid_request_error"}}
        else:
            data = [{"object": "embedding", "index": at, "embedding": VECTOR} for at in range(len(given))]
            usage = {"prompt_tokens": len(given), "total_tokens": len(given)}
            status, reply = 200, {"object": "list", "model": "m", "data": data, "usage": usage}
            billed.append(len(given))
        body = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *parts):
        pass


server = HTTPServer(("127.0.0.1", 0), OpenAI)
threading.Thread(target=server.serve_forever, daemon=True).start()
options = {"model": "text-embedding-3-small", "api_key": "k", "tiktoken_model_name": "bytes"}
options["base_url"] = f"http://127.0.0.1:{server.server_port}/v1"


def ask(words, texts, **more):
    sent.clear()
    billed.clear()
    vectors, raised = 0, ""
    try:
        vectors = len(OpenAIEmbeddings(**options, **more).embed_documents(texts))
    except openai.BadRequestError as error:
        raised = f"{type(error).__name__}, "
    print(f"{words}: {raised}vectors {vectors}, inputs of requests {sent}, texts billed {sum(billed)}")


texts = ["text"] * 2500
ask("without the empty text", texts)
for is_set in (False, True):
    ask(f"skip_empty={is_set}", ["", *texts], skip_empty=is_set)
PYTHON
PYTHONPATH="$work/plugin" "$work/venv/bin/python" "$work/ask.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
without the empty text: vectors 2500, inputs of requests [1000, 1000, 500], texts billed 2500
skip_empty=False: BadRequestError, vectors 0, inputs of requests [1000, 1000, 500, ''], texts billed 2500
skip_empty=True: BadRequestError, vectors 0, inputs of requests [1000, 1000, 500, ''], texts billed 2500
SEEN
echo "as described"
