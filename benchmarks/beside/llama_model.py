"""Writes a tiny BERT with random weights and its vocabulary as GGUF: `python llama_model.py FILE`.

Run by the Python of the server that loads it. No model hub is asked.
"""

from __future__ import annotations

import string
import sys

import gguf
import numpy as np

WIDTH, INNER, LAYERS, HEADS, CONTEXT = 64, 128, 2, 4, 512
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CHARACTERS = string.ascii_lowercase + string.digits
WORD_BEGINS = "\u2581"
"""llama.cpp marks the pieces that begin a word, where WordPiece marks those that go on."""


def write(path: str) -> None:
    words = [WORD_BEGINS + word for word in (*CHARACTERS, "text", "number", "says", "safe")]
    tokens = [*SPECIAL, *words, *CHARACTERS]
    writer = gguf.GGUFWriter(path, "bert")
    _describe(writer, tokens)
    random = np.random.default_rng(0)

    def add(name: str, *shape: int, ones: bool = False) -> None:
        values = np.ones(shape) if ones else 0.3 * random.standard_normal(shape)
        writer.add_tensor(name, values.astype(np.float32))

    def add_layer(name: str, *shape: int, ones: bool = False) -> None:
        add(f"{name}.weight", *shape, ones=ones)
        add(f"{name}.bias", shape[0])

    add("token_embd.weight", len(tokens), WIDTH)
    add("token_types.weight", 2, WIDTH)
    add("position_embd.weight", CONTEXT, WIDTH)
    add_layer("token_embd_norm", WIDTH, ones=True)
    for number in range(LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add_layer(f"blk.{number}.{part}", WIDTH, WIDTH)
        add_layer(f"blk.{number}.attn_output_norm", WIDTH, ones=True)
        add_layer(f"blk.{number}.ffn_up", INNER, WIDTH)
        add_layer(f"blk.{number}.ffn_down", WIDTH, INNER)
        add_layer(f"blk.{number}.layer_output_norm", WIDTH, ones=True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: gguf.GGUFWriter, tokens: list[str]) -> None:
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")
    writer.add_token_list(tokens)
    kinds = [gguf.TokenType.CONTROL] * len(SPECIAL) + [gguf.TokenType.NORMAL] * (len(tokens) - len(SPECIAL))
    writer.add_token_types(kinds)
    writer.add_token_type_count(2)
    pad, unknown, begins, ends, mask = range(len(SPECIAL))
    writer.add_pad_token_id(pad)
    writer.add_unk_token_id(unknown)
    writer.add_bos_token_id(begins)
    writer.add_eos_token_id(ends)
    writer.add_sep_token_id(ends)
    writer.add_mask_token_id(mask)


if __name__ == "__main__":
    write(sys.argv[1])
