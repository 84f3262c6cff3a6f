"""Models of a few kilobytes, made in the test and run by the real libraries: one vector for each token."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

WORDS = ("cat", "dog", "moon", "sun", "query", ":", "##s")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
DIMENSIONS = 8
MOST = 16
"""Tokens that a text may have, those at both ends included."""


def tokenizer() -> Tokenizer:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS[:25])]
    made = Tokenizer(WordPiece({token: i for i, token in enumerate(dict.fromkeys(tokens))}, unk_token="[UNK]"))
    made.normalizer = BertNormalizer()
    made.pre_tokenizer = BertPreTokenizer()
    made.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return made


def table(seed: int = 1) -> np.ndarray:
    """The vector of each token."""
    rows = np.random.default_rng(seed).normal(size=(tokenizer().get_vocab_size(), DIMENSIONS))
    return rows.astype(np.float32)


def write_onnx(folder: Path, *, file: str = "model.onnx", pooling: str | None = "mean", tasks: bool = False) -> Path:
    """A folder as sentence-transformers writes it. `tasks`: the graph takes a task_id, which turns its vectors."""
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["found"])]
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])]
    constants = [numpy_helper.from_array(table(), "table")]
    if tasks:
        inputs.append(helper.make_tensor_value_info("task_id", TensorProto.INT64, []))
        constants.append(numpy_helper.from_array(table(2)[:5], "tasks"))
        nodes.append(helper.make_node("Gather", ["tasks", "task_id"], ["turn"]))
        nodes.append(helper.make_node("Add", ["found", "turn"], ["last_hidden_state"]))
    else:
        nodes.append(helper.make_node("Identity", ["found"], ["last_hidden_state"]))
    shape = ["batch", "tokens", DIMENSIONS]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "tiny", inputs, [output], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / file)
    tokenizer().save(str(folder / "tokenizer.json"))
    write(folder / "tokenizer_config.json", {"model_max_length": MOST, "pad_token": "[PAD]"})
    write(folder / "config.json", {"hidden_size": DIMENSIONS, "pad_token_id": 0})
    if pooling:
        write(folder / "1_Pooling" / "config.json", {f"pooling_mode_{pooling}": True, "word_embedding_dimension": 8})
    return folder


def write_model2vec(folder: Path) -> Path:
    from model2vec import StaticModel

    StaticModel(table(), tokenizer(), normalize=True).save_pretrained(folder)
    return folder


def write_cached(cache: Path, repository: str, **options: object) -> None:
    """The model as huggingface_hub would have downloaded it."""
    root = cache / f"models--{repository.replace('/', '--')}"
    write_onnx(root / "snapshots" / "abc123", **options)  # type: ignore[arg-type]
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc123")


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
