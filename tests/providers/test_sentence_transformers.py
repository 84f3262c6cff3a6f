"""The real library with a transformer of one layer, made here. It needs PyTorch: `nox -s sentence-transformers`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aembed import Embedder, MemoryStore, Record, open_provider
from aembed.errors import BadRequestError, ConfigError

pytest.importorskip("sentence_transformers")

from tests.providers import tiny_models

PROMPTS = {"query": "query: ", "document": ""}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_transformer(tmp_path_factory.mktemp("transformer"))


def write_transformer(folder: Path) -> Path:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as models
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokens = tiny_models.tokenizer()
    # As all-MiniLM-L6-v2 has it: what its tokenizer pads and cuts to is not what the model takes.
    tokens.enable_padding(length=12)
    tokens.enable_truncation(12)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=tokens.get_vocab_size(),
        hidden_size=tiny_models.DIMENSIONS,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=tiny_models.MOST,
    )
    BertModel(config).save_pretrained(folder / "bert")
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokens, model_max_length=tiny_models.MOST, **special)
    fast.save_pretrained(folder / "bert")
    transformer = models.Transformer(str(folder / "bert"))
    pooling = models.Pooling(tiny_models.DIMENSIONS)
    SentenceTransformer(modules=[transformer, pooling], prompts=PROMPTS, device="cpu").save(str(folder / "whole"))
    return folder / "whole"


def vectors_of(folder: Path, texts: list[str], *, query: bool = False) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    found: np.ndarray = model.encode_query(texts) if query else model.encode_document(texts)
    return found


async def test_it_gives_what_the_library_gives(folder: Path) -> None:
    texts = [("cat", "cat dog moon", "sun " * 5)[i % 3] for i in range(70)]
    async with Embedder(f"sentence-transformers:{folder}") as embedder:
        embeddings = await embedder.embed_documents(texts)
        query = await embedder.embed_query("cat moon")
        assert np.allclose(embeddings.vectors, vectors_of(folder, texts), atol=1e-5)
        assert np.allclose(query, vectors_of(folder, ["cat moon"], query=True)[0], atol=1e-5)
        assert not np.allclose(query, vectors_of(folder, ["cat moon"])[0], atol=1e-3)
        report = await embedder.embed_into(MemoryStore(), [Record("a", "cat"), Record("b", "")])
        assert (report.stored, report.failed, report.cost_usd) == (1, 1, 0.0)


async def test_a_prompt_counts_for_how_long_a_text_may_be(folder: Path) -> None:
    provider = open_provider(f"sentence-transformers:{folder}")
    await provider.learn()  # type: ignore[attr-defined]
    assert provider.limits.max_tokens_per_text == tiny_models.MOST - 2
    with pytest.raises(BadRequestError, match="22 tokens, the model takes 14"):
        await provider.embed(["cat " * 20], input_type="document")
    async with Embedder(f"sentence-transformers:{folder}", too_long="truncate") as embedder:
        cut = (await embedder.embed_documents(["cat " * 20])).vectors[0]
    assert np.allclose(cut, vectors_of(folder, ["cat " * 12])[0], atol=1e-5)


async def test_shortened_vectors_are_1_long(folder: Path) -> None:
    embeddings = await Embedder(f"sentence-transformers:{folder}", dimensions=4).embed_documents(["cat", "dog"])
    whole = vectors_of(folder, ["cat", "dog"])[:, :4]
    assert np.allclose(embeddings.vectors, whole / np.linalg.norm(whole, axis=1)[:, None], atol=1e-5)
    with pytest.raises(ConfigError, match="has 8 dimensions, not 9"):
        await Embedder(f"sentence-transformers:{folder}", dimensions=9).embed_documents(["cat"])


async def test_a_static_model_has_no_longest_text(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    module = StaticEmbedding(tiny_models.tokenizer(), embedding_weights=tiny_models.table())
    SentenceTransformer(modules=[module], device="cpu").save(str(tmp_path))
    async with Embedder(f"sentence-transformers:{tmp_path}") as embedder:
        found = (await embedder.embed_documents(["cat " * 3_000 + "dog " * 3_000])).vectors[0]
    rows, tokens = tiny_models.table(), tiny_models.tokenizer()
    assert np.allclose(found, rows[[tokens.token_to_id("cat"), tokens.token_to_id("dog")]].mean(axis=0), atol=1e-3)


async def test_a_model_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"cannot load no/such-model.*to download it, type  python -c"):
        await Embedder("sentence-transformers:no/such-model").embed_documents(["cat"])
