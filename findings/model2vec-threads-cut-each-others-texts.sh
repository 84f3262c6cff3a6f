#!/usr/bin/env bash
# model2vec 0.10.0, Python 3.11 and up.
#
# StaticModel.encode(max_length=None) makes the vector of the whole text. It sets the truncation of the model's one
# tokenizer for the time of the call, and sets it back. Where another thread encodes with the same model at that time, if
# only two words, some of the vectors are those of the first 512 tokens, without an error or a warning.
#
# The model here is made in the script: two words, a vector each. The text has 600 times the first and 600 times the other.
#
# Output seen:
#   model2vec 0.10.0, one thread: none of 300 vectors is that of the first 512 tokens
#   model2vec 0.10.0, beside a thread that encodes two words: some vectors are that of the first 512 tokens
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "model2vec==0.10.0"
cat > "$work/encode.py" <<'PYTHON'
import threading
from importlib.metadata import version

import numpy as np
from model2vec import StaticModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

tokenizer = Tokenizer(WordLevel({"one": 0, "two": 1, "[UNK]": 2}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = Whitespace()
model = StaticModel(np.eye(3, 2, dtype=np.float32), tokenizer)
text = "one " * 600 + "two " * 600
seen = f"model2vec {version('model2vec')}"


def cut(tries):
    """How many of the tries gave the vector of the first 512 tokens, all of which are "one"."""
    found = 0
    for _ in range(tries):
        vector = model.encode([text], max_length=None)[0]
        if np.allclose(vector, [1, 0]):
            found += 1
        else:
            assert np.allclose(vector, [0.5, 0.5]), vector
    return found


print(f"{seen}, one thread: {cut(300) or 'none'} of 300 vectors is that of the first 512 tokens")
done = threading.Event()


def beside():
    while not done.is_set():
        model.encode(["one two"])


other = threading.Thread(target=beside)
other.start()
found = any(cut(300) for _ in range(100))
done.set()
other.join()
print(
    f"{seen}, beside a thread that encodes two words: {'some' if found else 'no'} vectors are that of the first 512 tokens"
)
PYTHON
"$work/venv/bin/python" "$work/encode.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
model2vec 0.10.0, one thread: none of 300 vectors is that of the first 512 tokens
model2vec 0.10.0, beside a thread that encodes two words: some vectors are that of the first 512 tokens
SEEN
echo "as described"
