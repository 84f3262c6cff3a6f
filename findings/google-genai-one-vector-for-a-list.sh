#!/usr/bin/env bash
# google-genai 3.6.1, Python 3.11 and up.
#
# embed_content takes a list of texts and gives a vector for each with gemini-embedding-001. With gemini-embedding-2 the
# same call makes one input of the list: its texts go out as the parts of one content, and one vector comes back for all
# of them. There is no error and no warning, and zip(texts, vectors) keeps the first text with a vector that is of all. A
# list of Content objects gives a vector for each with both models.
#
# Output seen:
#   google-genai 3.6.1, gemini-embedding-001, 3 texts: inputs of the request 3, vectors 3
#   google-genai 3.6.1, gemini-embedding-001, 3 contents: inputs of the request 3, vectors 3
#   google-genai 3.6.1, gemini-embedding-2, 3 texts: inputs of the request 1, vectors 1
#   google-genai 3.6.1, gemini-embedding-2, 3 contents: inputs of the request 3, vectors 3
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "google-genai==3.6.1"
cat > "$work/ask.py" <<'PYTHON'
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from google import genai
from google.genai import types

TEXTS = ["one", "two", "three"]
ledger = []  # for each request: its inputs


class Gemini(BaseHTTPRequestHandler):
    def do_POST(self):
        inputs = json.loads(self.rfile.read(int(self.headers["content-length"])))["requests"]
        ledger.append(len(inputs))
        body = json.dumps({"embeddings": [{"values": [0.6, 0.8]} for _ in inputs]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *parts):
        pass


server = HTTPServer(("127.0.0.1", 0), Gemini)
threading.Thread(target=server.serve_forever, daemon=True).start()
options = types.HttpOptions(base_url=f"http://127.0.0.1:{server.server_port}")
client = genai.Client(api_key="k", vertexai=False, http_options=options)
contents = [types.Content(parts=[types.Part(text=text)]) for text in TEXTS]
for model in ("gemini-embedding-001", "gemini-embedding-2"):
    for kind, given in (("texts", TEXTS), ("contents", contents)):
        vectors = client.models.embed_content(model=model, contents=given).embeddings
        print(
            f"google-genai {genai.__version__}, {model}, {len(given)} {kind}: "
            f"inputs of the request {ledger[-1]}, vectors {len(vectors)}"
        )
PYTHON
"$work/venv/bin/python" "$work/ask.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
google-genai 3.6.1, gemini-embedding-001, 3 texts: inputs of the request 3, vectors 3
google-genai 3.6.1, gemini-embedding-001, 3 contents: inputs of the request 3, vectors 3
google-genai 3.6.1, gemini-embedding-2, 3 texts: inputs of the request 1, vectors 1
google-genai 3.6.1, gemini-embedding-2, 3 contents: inputs of the request 3, vectors 3
SEEN
echo "as described"
