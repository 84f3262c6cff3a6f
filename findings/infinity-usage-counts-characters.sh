#!/usr/bin/env bash
# infinity-emb 0.0.78 (transformers 4.49.0, torch 2.13.0), Python 3.11.
#
# `usage` of POST /embeddings has the field names of OpenAI, and holds characters: two words of eight letters are 17
# tokens there, whatever the model's tokenizer makes of them. A budget in tokens, or an estimate that is corrected by
# `usage`, is wrong by the length of a token. And a text that is longer than the model takes is cut without a word, in
# the reply or in its status: what follows its 128th token changes nothing, and is still counted.
#
# Output seen:
#   GET /models: owned_by infinity
#   'abcdefgh abcdefgh': usage 17, characters 17, tokens of the model's tokenizer 18
#   150 and 300 words of two letters: status 200 and 200, the same vector: True, usage 449 and 899
#
# The model is a BERT with random weights, written here: its tokenizer knows single letters, and it takes 128 tokens.
set -euo pipefail
work=$(mktemp -d)
server=""
trap 'test -z "$server" || kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "torch==2.13.0"
"$work/venv/bin/pip" install -q "infinity-emb[server,torch]==0.0.78" "transformers==4.49.0" "numpy<2" "click==8.1.8"
cat > "$work/model.py" <<'PYTHON'
import string
import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

folder = Path(sys.argv[1])
folder.mkdir()
letters = string.ascii_lowercase
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
(folder / "vocab.txt").write_text("\n".join(words))
BertTokenizerFast(vocab_file=str(folder / "vocab.txt"), model_max_length=128).save_pretrained(folder)
torch.manual_seed(0)
size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=128, **size)).save_pretrained(folder)
PYTHON
"$work/venv/bin/python" "$work/model.py" "$work/tiny" 2>/dev/null
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
INFINITY_ANONYMOUS_USAGE_STATS=0 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "$work/venv/bin/infinity_emb" v2 \
    --host 127.0.0.1 --port "$port" --model-id "$work/tiny" --served-model-name tiny --engine torch --device cpu \
    --no-bettertransformer --no-model-warmup > "$work/log" 2>&1 &
server=$!
cat > "$work/ask.py" <<'PYTHON'
import json
import sys
import time
import urllib.request

from transformers import BertTokenizerFast

port, folder = sys.argv[1:]


def asked(path, body=None):
    content = json.dumps(body).encode() if body else None
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", content, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return reply.status, json.load(reply)


for _ in range(600):
    try:
        print("GET /models: owned_by", asked("/models")[1]["data"][0]["owned_by"])
        break
    except OSError:
        time.sleep(0.2)
text = "abcdefgh abcdefgh"
status, reply = asked("/embeddings", {"model": "tiny", "input": [text]})
tokens = len(BertTokenizerFast.from_pretrained(folder)(text)["input_ids"])
usage = reply["usage"]["total_tokens"]
print(f"{text!r}: usage {usage}, characters {len(text)}, tokens of the model's tokenizer {tokens}")
ends = [asked("/embeddings", {"model": "tiny", "input": [" ".join(["ab"] * words)]}) for words in (150, 300)]
vectors = [reply["data"][0]["embedding"] for _, reply in ends]
statuses = " and ".join(str(status) for status, _ in ends)
usages = " and ".join(str(reply["usage"]["total_tokens"]) for _, reply in ends)
alike = max(abs(one - other) for one, other in zip(*vectors, strict=True)) < 1e-5
print(f"150 and 300 words of two letters: status {statuses}, the same vector: {alike}, usage {usages}")
PYTHON
"$work/venv/bin/python" "$work/ask.py" "$port" "$work/tiny" 2>/dev/null | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
GET /models: owned_by infinity
'abcdefgh abcdefgh': usage 17, characters 17, tokens of the model's tokenizer 18
150 and 300 words of two letters: status 200 and 200, the same vector: True, usage 449 and 899
SEEN
echo "as described"
