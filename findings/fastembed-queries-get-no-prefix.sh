#!/usr/bin/env bash
# fastembed 0.9.1, onnxruntime 1.32.0, Python 3.11 and up.
#
# TextEmbedding.list_supported_models() says of some models "Prefixes for queries/documents: necessary", and there are
# functions for each kind, query_embed and passage_embed. Of those models none has a function of its own: both make the
# same vector of a text, that of the text without a prefix. One model in the list tells the two apart
# (jinaai/jina-embeddings-v3, by a number that its graph takes).
#
# The model here is made in the script, of two layers, and is given to fastembed as the files of BAAI/bge-small-en.
#
# Output seen:
#   fastembed 0.9.1: of 41 models 16 need prefixes, and 0 of these have a query_embed of their own
#   fastembed 0.9.1, BAAI/bge-small-en: query_embed, passage_embed and embed make the same vector of a text: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "fastembed==0.9.1" "onnxruntime==1.32.0" "onnx==1.23.2"
cat > "$work/embed.py" <<'PYTHON'
import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from fastembed import TextEmbedding
from fastembed.text.text_embedding_base import TextEmbeddingBase
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

folder = Path(sys.argv[1])
words = ["[PAD]", "[UNK]", "what", "is", "a", "cat", "Represent", "this", "sentence"]
tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = Whitespace()
tokenizer.save(str(folder / "tokenizer.json"))
(folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512, "pad_token": "[PAD]"}))
table = numpy_helper.from_array(np.random.default_rng(1).normal(size=(9, 384)).astype(np.float32), "table")
graph = helper.make_graph(
    [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])],
    "tiny",
    [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
    [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "tokens", 384])],
    [table],
)
opsets = [helper.make_opsetid("", 17)]
onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / "model_optimized.onnx")

seen = f"fastembed {version('fastembed')}"
kinds = {
    row["model"]: kind
    for kind in TextEmbedding.EMBEDDINGS_REGISTRY
    for row in map(vars, kind._list_supported_models())
}
listed = {row["model"]: row["description"] for row in TextEmbedding.list_supported_models()}
needing = [
    name for name, text in listed.items() if "queries/documents: " in text
    and not text.partition("queries/documents: ")[2].startswith("not ")
]
own = [name for name in needing if kinds[name].query_embed is not TextEmbeddingBase.query_embed]
print(f"{seen}: of {len(listed)} models {len(needing)} need prefixes, and {len(own)} of these have a query_embed of their own")

model = TextEmbedding("BAAI/bge-small-en", specific_model_path=str(folder))
vectors = [list(embed(["what is a cat"]))[0] for embed in (model.query_embed, model.passage_embed, model.embed)]
same = all(np.array_equal(vectors[0], vector) for vector in vectors)
print(f"{seen}, BAAI/bge-small-en: query_embed, passage_embed and embed make the same vector of a text: {same}")
PYTHON
mkdir "$work/model"
"$work/venv/bin/python" "$work/embed.py" "$work/model" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
fastembed 0.9.1: of 41 models 16 need prefixes, and 0 of these have a query_embed of their own
fastembed 0.9.1, BAAI/bge-small-en: query_embed, passage_embed and embed make the same vector of a text: True
SEEN
echo "as described"
