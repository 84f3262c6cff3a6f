"""Writes a tiny BERT with random weights and its tokenizer into a folder: `python overload_model.py FOLDER`.

Run by the Python of the server that loads it. No model hub is asked.
"""

from __future__ import annotations

import string
import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

MOST_TOKENS = 128
CHARACTERS = string.ascii_lowercase + string.digits


def write(folder: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS, *(f"##{one}" for one in CHARACTERS)]
    folder.mkdir()
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(vocab_file=str(vocabulary), model_max_length=MOST_TOKENS).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=MOST_TOKENS,
    )
    BertModel(config).save_pretrained(folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
