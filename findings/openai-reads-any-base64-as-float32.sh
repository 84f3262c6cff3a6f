#!/usr/bin/env bash
# openai 3.57.0, Python 3.11 and up.
#
# The SDK asks for vectors in base64 where the caller names no `encoding_format`, and reads what comes as float32. A server
# that encodes float64 gives a list of twice as many numbers, which are no part of the vector, and no error: nothing in a reply
# says of which type the bytes are (vLLM has a field of requests for that, `embed_dtype`). With encoding_format="float" the
# numbers are right.
#
# Output seen:
#   openai 3.57.0: [0.5, -0.5, 0.5, -0.5] as float64 in base64 is read as [0.0, 1.75, 0.0, -1.75, 0.0, 1.75, 0.0, -1.75]
#   openai 3.57.0: with encoding_format="float" it is read as [0.5, -0.5, 0.5, -0.5]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "openai==3.57.0" "numpy==2.4.6"
cat > "$work/read.py" <<'PYTHON'
import base64
import json
import struct
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import openai

VECTOR = [0.5, -0.5, 0.5, -0.5]


class Float64(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        in_base64 = asked.get("encoding_format") == "base64"
        embedding = base64.b64encode(struct.pack("<4d", *VECTOR)).decode() if in_base64 else VECTOR
        item = {"object": "embedding", "index": 0, "embedding": embedding}
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        body = json.dumps({"object": "list", "model": "m", "data": [item], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *parts):
        pass


server = HTTPServer(("127.0.0.1", 0), Float64)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(api_key="sk-x", base_url=f"http://127.0.0.1:{server.server_port}/v1")
read = client.embeddings.create(model="m", input="a").data[0].embedding
print(f"openai {openai.__version__}: {VECTOR} as float64 in base64 is read as {list(read)}")
read = client.embeddings.create(model="m", input="a", encoding_format="float").data[0].embedding
print(f'openai {openai.__version__}: with encoding_format="float" it is read as {list(read)}')
PYTHON
"$work/venv/bin/python" "$work/read.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
openai 3.57.0: [0.5, -0.5, 0.5, -0.5] as float64 in base64 is read as [0.0, 1.75, 0.0, -1.75, 0.0, 1.75, 0.0, -1.75]
openai 3.57.0: with encoding_format="float" it is read as [0.5, -0.5, 0.5, -0.5]
SEEN
echo "as described"
