#!/usr/bin/env bash
# lancedb 0.40.0 (openai 3.57.0, pyarrow 26.0.1), Python 3.11 and up.
#
# The embedding function "openai" of its registry catches the 400 of a request and goes on with None for each text of
# that request. So one text that OpenAI refuses (it is too long, say) makes bad vectors of all that are added with it:
# on_bad_vectors="drop" adds no row at all, "null" adds all of them without a vector, and neither raises. By default
# there is an error, which speaks of vectors of variable length and not of the refusal; that one goes to the log only,
# with all of the texts.
#
# Output seen:
#   99 good texts, on_bad_vectors=drop: no error, rows 99, with a vector 99
#   99 good texts and one too long, on_bad_vectors=drop: no error, rows 0, with a vector 0
#   99 good texts and one too long, on_bad_vectors=null: no error, rows 100, with a vector 0
#   99 good texts and one too long, on_bad_vectors=error: variable length vectors, rows 0, with a vector 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "lancedb==0.40.0" "openai==3.57.0" "pyarrow==26.0.1"
cat > "$work/add.py" <<'PYTHON'
import base64
import json
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import lancedb
from lancedb.embeddings import get_registry
from lancedb.pydantic import LanceModel, Vector

VECTOR = base64.b64encode(struct.pack("<4f", *[0.5] * 4)).decode()


class OpenAI(BaseHTTPRequestHandler):
    def do_POST(self):
        texts = json.loads(self.rfile.read(int(self.headers["content-length"])))["input"]
        if max(map(len, texts)) > 8192:
            message = "this model's maximum context length is 8192 tokens"
            status, reply = 400, {"error": {"message": message, "type": "invalid_request_error"}}
        else:
            data = [{"object": "embedding", "index": at, "embedding": VECTOR} for at in range(len(texts))]
            usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
            status, reply = 200, {"object": "list", "model": "m", "data": data, "usage": usage}
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
url = f"http://127.0.0.1:{server.server_port}/v1"
function = get_registry().get("openai").create(name="text-embedding-3-small", dim=4, base_url=url)


class Row(LanceModel):
    text: str = function.SourceField()
    vector: Vector(4) = function.VectorField()


database = lancedb.connect(sys.argv[1])


def add(words, texts, on_bad_vectors):
    table = database.create_table("rows", schema=Row, mode="overwrite")
    end = "no error"
    try:
        table.add([{"text": text} for text in texts], on_bad_vectors=on_bad_vectors)
    except Exception as error:
        end = "variable length vectors" if "has variable length vectors" in str(error) else repr(error)
    found = table.to_arrow()
    held = found.num_rows - found["vector"].null_count
    print(f"{words}, on_bad_vectors={on_bad_vectors}: {end}, rows {found.num_rows}, with a vector {held}")


good = [f"text {number}" for number in range(99)]
add("99 good texts", good, "drop")
for choice in ("drop", "null", "error"):
    add("99 good texts and one too long", [*good, "word " * 9000], choice)
PYTHON
OPENAI_API_KEY=k "$work/venv/bin/python" "$work/add.py" "$work/database" 2>/dev/null | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
99 good texts, on_bad_vectors=drop: no error, rows 99, with a vector 99
99 good texts and one too long, on_bad_vectors=drop: no error, rows 0, with a vector 0
99 good texts and one too long, on_bad_vectors=null: no error, rows 100, with a vector 0
99 good texts and one too long, on_bad_vectors=error: variable length vectors, rows 0, with a vector 0
SEEN
echo "as described"
