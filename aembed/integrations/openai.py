"""OpenAI's SDK: clients that have `embeddings.create` and nothing else, with aembed underneath.

Replies are of the SDK's own types, so that what a program, a framework or a type checker does with them goes on; the
extra `openai` brings them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from math import ceil
from typing import Any, Literal, Self, TypeAlias, Unpack, cast

import pybase64
from openai.types import CreateEmbeddingResponse, Embedding
from openai.types.create_embedding_response import Usage

from aembed.embedder import Embedder
from aembed.errors import ConfigError, InputError
from aembed.integrations.blocking import BlockingEmbedder, pieces_of
from aembed.options import EmbedderOptions
from aembed.providers import prefixes
from aembed.query_verbs import QUERY_TIMEOUT
from aembed.types import Matrix

Input: TypeAlias = str | Iterable[str]
Encoding: TypeAlias = Literal["float", "base64"]

_OF_A_PROVIDER = "give it to aembed.open_provider as headers=, and the provider to an Embedder, and that to this client"
OF_THE_SDK = {
    "max_retries": "how often and how long is tried again is retry=aembed.RetryPolicy(...)",
    "default_headers": _OF_A_PROVIDER,
    "organization": _OF_A_PROVIDER,
    "project": _OF_A_PROVIDER,
}
"""Options of the SDK's clients that aembed has in other words."""


class _Models:
    """The Embedders of a client: the one that it was made of, or one for each model and width that was asked for."""

    def __init__(self, embedder: Embedder | None, given: EmbedderOptions) -> None:
        options = _known(given)
        self._given = None if embedder is None else BlockingEmbedder(embedder, **options)
        self._options = options
        self.made = dict[tuple[str, int | None], BlockingEmbedder]()
        """Those to be closed with the client: not one that was given."""

    def of(self, model: str, dimensions: int | None) -> BlockingEmbedder:
        """Raises ConfigError for a model, or a width, that is not the Embedder's."""
        if self._given is None:
            if made := self.made.get((model, dimensions)):
                return made
            name = model if model.partition(":")[0] in prefixes() else f"openai:{model}"
            given: EmbedderOptions = {**self._options, "dimensions": dimensions} if dimensions else self._options
            # Of threads that come at the same time all get the one that was first.
            return self.made.setdefault((model, dimensions), BlockingEmbedder(name, **given))
        space = self._given.embedder.space
        if model not in (space.model, f"{space.provider}:{space.model}"):
            raise ConfigError(f"model={model!r} is not that of this client's Embedder, {space.provider}:{space.model}")
        if dimensions not in (None, space.dimensions):
            raise ConfigError(f"dimensions={dimensions} are not those of this client's Embedder, {space.dimensions}")
        return self._given

    def base_url(self) -> str:
        """Where requests for models of OpenAI go, or those of the Embedder; frameworks write it down."""
        given = self._options.get("base_url") if self._given is None else self._given.embedder.space.endpoint
        addresses = [given] if isinstance(given, str) else [*(given or ())]
        return next(iter(addresses), "") or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"


class Embeddings:
    """`client.embeddings` of OpenAI."""

    def __init__(self, models: _Models) -> None:
        self._models = models

    def create(
        self,
        *,
        input: Input,
        model: str,
        dimensions: int | None = None,
        encoding_format: Encoding = "float",
        timeout: float | None = None,
        user: str | None = None,
        **others: Any,
    ) -> CreateEmbeddingResponse:
        """As the SDK's. One text is a query, which shares its request with others; a list, of any length, is documents.

        `usage` is what was billed for a list, and for one text the provider's estimate of its tokens. `timeout`, in
        seconds, is that of one text; `user` is not sent. Texts that fail raise PartialError, token ids InputError.
        """
        _refuse_others(others)
        embedder = self._models.of(model, dimensions or None)
        if isinstance(input, str):
            vector = embedder.embed_query(input, timeout=timeout or QUERY_TIMEOUT)
            return _reply(embedder, _items(vector[None], encoding_format), _estimate(embedder, [input]))
        texts = _texts_of(input)
        found = embedder.embed_documents(texts)
        # Where the texts shared a request with those of others, what was billed is an estimate.
        billed = found.usage.tokens or _estimate(embedder, texts)
        return _reply(embedder, _items(found.vectors, encoding_format), billed)


class AsyncEmbeddings:
    """`client.embeddings` of AsyncOpenAI."""

    def __init__(self, models: _Models) -> None:
        self._models = models

    async def create(
        self,
        *,
        input: Input,
        model: str,
        dimensions: int | None = None,
        encoding_format: Encoding = "float",
        timeout: float | None = None,
        user: str | None = None,
        **others: Any,
    ) -> CreateEmbeddingResponse:
        """See Embeddings.create."""
        _refuse_others(others)
        embedder = self._models.of(model, dimensions or None)
        if isinstance(input, str):
            vector = await embedder.aembed_query(input, timeout=timeout or QUERY_TIMEOUT)
            return _reply(embedder, _items(vector[None], encoding_format), _estimate(embedder, [input]))
        texts = _texts_of(input)
        found = await embedder.aembed_documents(texts)
        items: list[Embedding] = []
        for piece in pieces_of(found.vectors):
            items += _items(piece, encoding_format, len(items))
            await asyncio.sleep(0)
        return _reply(embedder, items, found.usage.tokens or _estimate(embedder, texts))


class OpenAI:
    """A client as `openai.OpenAI`, of which `embeddings.create` is there: `OpenAI(api_key=..., base_url=...)`.

    `options` are those of Embedder. `model` of each call names a model of OpenAI's, or "provider:model"; or the client
    is made of an Embedder, and takes its model alone. It may be called in any thread (BlockingEmbedder).
    """

    def __init__(self, embedder: Embedder | None = None, **options: Unpack[EmbedderOptions]) -> None:
        self._models = _Models(embedder, options)
        self.base_url = self._models.base_url()
        self.embeddings = Embeddings(self._models)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the Embedders that it made; see Embedder.aclose."""
        for embedder in [*self._models.made.values()]:
            embedder.close()


class AsyncOpenAI:
    """A client as `openai.AsyncOpenAI`: as OpenAI, awaited in any event loop."""

    def __init__(self, embedder: Embedder | None = None, **options: Unpack[EmbedderOptions]) -> None:
        self._models = _Models(embedder, options)
        self.base_url = self._models.base_url()
        self.embeddings = AsyncEmbeddings(self._models)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the Embedders that it made; see Embedder.aclose."""
        for embedder in [*self._models.made.values()]:
            await embedder.aclose()


def _texts_of(input: Iterable[str]) -> list[str]:
    if not isinstance(input, Iterable):
        raise InputError(f"input is {type(input).__name__}; give a text, or a list of texts")
    texts: list[Any] = [*input]
    if any(isinstance(each, int | list | tuple) for each in texts):
        raise InputError(
            "input holds token ids, and not every list of them is the tokens of a text; give the texts "
            "(in langchain-openai by check_embedding_ctx_length=False)"
        )
    return texts


def _known(options: EmbedderOptions) -> EmbedderOptions:
    """Raises ConfigError for an option that is not Embedder's, unless it is empty."""
    for name, value in options.items():
        if name not in EmbedderOptions.__annotations__ and value:
            advice = OF_THE_SDK.get(name, "its options are those of aembed.Embedder")
            raise ConfigError(f"{name}= is not known here; {advice}")
    known = {name: value for name, value in options.items() if name in EmbedderOptions.__annotations__}
    return cast(EmbedderOptions, known)


def _refuse_others(others: dict[str, Any]) -> None:
    """What is empty, or the SDK's word for nothing, may be there: it is false."""
    for name, value in others.items():
        if value:
            raise ConfigError(f"{name}= cannot go with one call, as calls share requests; see aembed.open_provider")


def _items(matrix: Matrix, encoding: Encoding, first: int = 0) -> list[Embedding]:
    rows: list[Any]
    if encoding == "base64":
        rows = [pybase64.b64encode_as_string(row.astype("<f4").tobytes()) for row in matrix]
    else:
        rows = matrix.tolist()
    items = [Embedding(embedding=[], index=index, object="embedding") for index in range(first, first + len(rows))]
    for item, row in zip(items, rows, strict=True):
        item.embedding = row  # As the SDK itself does it: checked one by one the numbers would cost more than all else.
    return items


def _reply(embedder: BlockingEmbedder, items: list[Embedding], tokens: int | None) -> CreateEmbeddingResponse:
    usage = Usage(prompt_tokens=tokens or 0, total_tokens=tokens or 0)
    reply = CreateEmbeddingResponse(data=[], model=embedder.embedder.space.model, object="list", usage=usage)
    reply.data = items
    return reply


def _estimate(embedder: BlockingEmbedder, texts: list[str]) -> int:
    """Of the tokens of texts whose request is shared: what was billed for it is nobody's alone."""
    size_bytes = sum([len(text.encode("utf-8", "replace")) for text in texts])
    return ceil(size_bytes / embedder.embedder._engine.limits.bytes_per_token)
