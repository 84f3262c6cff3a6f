"""A model that runs in this process: loaded once, one forward pass at a time, in a thread.

The files of the libraries say how a model is loaded; what they share is here.

    learn, embed, counter  ->  load, once, in a thread      ConfigError says what to type
    embed  ->  count  ->  slices of texts of like length  ->  forward, in a thread, one at a time  ->  rows in order
                 +- a text is too long: BadRequestError with its tokens; no text is cut in silence

Nothing is downloaded: a model of a gigabyte that comes in the middle of a request is a surprise, and a server without
a network would wait for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

import anyio
import numpy as np

from aembed.core.sending import not_sent_yet
from aembed.core.vectors import check_squares, squares
from aembed.errors import BadRequestError, ConfigError, InputError
from aembed.limits import Limits
from aembed.preparation import NO_PREPARATION, Preparation
from aembed.protocols import TokenCounter
from aembed.providers._threads import run_in_thread
from aembed.types import InputType, Matrix, Reply, Space, Usage

RunInThread: TypeAlias = Callable[..., Awaitable[Any]]
Forward: TypeAlias = Callable[[list[str], InputType], Any]
"""Texts to what numpy makes a matrix of: called in a thread, never twice at a time."""

# Chosen: all-MiniLM-L6-v2 needs 0.12 s of a core for it, and a query waits for one. Larger, more of a pass is padding:
# 10.3 s of CPU time for 160 texts at 1,024, 9.3 at 512, 8.7 at 256 (fastembed 0.9.1).
SLICE_TOKENS = 512
"""Tokens of one forward pass, padding included; one text may have more."""
# Chosen: the vectors of a batch are stored together, so this many are lost with the process.
LIMITS = Limits(max_batch_size=32, max_tokens_per_batch=65_536, max_tokens_per_text=8_192)
# Chosen: English has four to five characters a token.
BLOCK_CHARACTERS = 16
"""Characters tokenized at once where a text is cut, for each token allowed: time linear to its length."""


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model. `tokenizer` is one of the package tokenizers, None for a model that pads and cuts nothing.

    `most` is how many of its tokens a text may have, None for a model that takes any number.
    """

    forward: Forward
    tokenizer: Any = None
    most: int | None = None


class InProcessProvider:
    """One model in this process. `load` makes it, in a thread; `download` is what to type where it cannot."""

    embeds_alike = False

    def __init__(
        self,
        space: Space,
        load: Callable[[], Model],
        *,
        download: str,
        limits: Limits = LIMITS,
        preparation: Preparation = NO_PREPARATION,
        run_in_thread: RunInThread = run_in_thread,
    ) -> None:
        self.space = space
        self.preparation = preparation
        self.limits = limits
        self.price_usd: float | None = 0.0
        self._load, self._download = load, download
        self._run_in_thread = run_in_thread
        self._loaded: tuple[Model, TokenizerCounter | None] | None = None
        # One forward pass at a time: tokenizers are set for a call and set back, and more would share the same cores.
        # A thread that nobody waits for any more may still run, so the turn alone does not keep that.
        self._loading, self._running = Lock(), Lock()
        self._documents, self._turn = anyio.Lock(), anyio.Lock()

    def __repr__(self) -> str:
        return f"<InProcessProvider {self.space}>"

    async def learn(self) -> None:
        """Loads the model, which tells how wide its vectors are and how long a text may be."""
        if self._loaded is None:
            await self._run_in_thread(self._model)

    async def embed(self, texts: Sequence[str], *, input_type: InputType) -> Reply:
        """Raises BadRequestError for a text that is too long, or of which the model knows nothing."""
        # A deadline is for an answer that may never come. This one comes, and asked for again is computed again.
        with anyio.CancelScope(shield=True):
            if input_type == "query":
                slices, parts = await self._embed(texts, input_type)
            else:
                # Documents of one request go before those of the next: who waits for a turn has cost nothing so far.
                with not_sent_yet.get()():
                    await self._documents.acquire()
                try:
                    slices, parts = await self._embed(texts, input_type)
                finally:
                    self._documents.release()
        matrix = np.empty((len(texts), parts[0].shape[1]), np.float32)
        for positions, part in zip(slices, parts, strict=True):
            matrix[positions] = part
        lengths = squares(matrix)
        if not lengths.all():
            error = BadRequestError("the model knows no token of the text: its vector is zero")
            error.offender = int(np.argmin(lengths))
            raise error
        check_squares(lengths)
        return Reply(matrix, self.space.model, Usage(0), checked=True)

    async def _embed(self, texts: Sequence[str], input_type: InputType) -> tuple[list[list[int]], list[Matrix]]:
        """A query waits for one slice, whatever documents wait."""
        slices = await self._run_in_thread(self._slices, texts)
        parts = []
        for positions in slices:
            async with self._turn:
                chosen = [texts[i] for i in positions]
                parts.append(await self._run_in_thread(self._forward, chosen, input_type))
        return slices, parts

    async def aclose(self) -> None:
        """Lets go of the model; it is loaded again when it is asked for again."""
        self._loaded = None

    def counter(self) -> TokenCounter | None:
        """The model's own tokenizer, for texts that may be too long. Loads the model: call it in a thread."""
        return self._model()[1]

    def _model(self) -> tuple[Model, TokenizerCounter | None]:
        """The model, loaded by the first thread that asks. Raises ConfigError."""
        with self._loading:
            if self._loaded is None:
                try:
                    model = self._load()
                    width = _matrix(model.forward(["dimensions"], "document")).shape[1]
                except ConfigError:
                    raise
                except Exception as error:
                    name, said = self.space.model, " ".join(str(error).split())[:300] or type(error).__name__
                    advice = "" if is_folder(name) else f"; to download it, type  {self._download}"
                    raise ConfigError(f"{self.space.provider} cannot load {name} ({said}){advice}") from error
                if self.space.dimensions not in (None, width):
                    raise ConfigError(f"{self.space.model} has {width} dimensions, not {self.space.dimensions}")
                self.space = replace(self.space, dimensions=width)
                if model.most is not None:
                    self.limits = replace(self.limits, max_tokens_per_text=model.most)
                self._loaded = model, TokenizerCounter(model.tokenizer) if model.tokenizer else None
            return self._loaded

    def _slices(self, texts: Sequence[str]) -> list[list[int]]:
        """Positions of texts of like length that make one forward pass each. Refuses a text that would be cut."""
        model, counter = self._model()
        if counter is None:
            return [list(range(len(texts)))]
        counts = counter.count_all(texts)
        longest = int(np.argmax(counts))
        if model.most is not None and counts[longest] > model.most:
            error = BadRequestError(f"the text has {counts[longest]:,} tokens, the model takes {model.most:,}")
            error.offender, error.about_length = longest, True
            error.requested_tokens, error.max_tokens = counts[longest], model.most
            raise error
        slices: list[list[int]] = []
        for position in sorted(range(len(texts)), key=counts.__getitem__):
            if not slices or (len(slices[-1]) + 1) * counts[position] > SLICE_TOKENS:
                slices.append([])
            slices[-1].append(position)
        return slices

    def _forward(self, texts: list[str], input_type: InputType) -> Matrix:
        model, _ = self._model()
        try:
            with self._running:
                return _matrix(model.forward(texts, input_type))
        except Exception as error:
            reason = f"the model failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise BadRequestError(reason)


class TokenizerCounter:
    """Counts and cuts in the tokens of a tokenizer of the package tokenizers, those at both ends included."""

    def __init__(self, tokenizer: Any) -> None:
        # A copy: cutting and padding are switched off here, and not for the model.
        self._tokenizer = type(tokenizer).from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.ends = self.count("")

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text).ids)

    def count_all(self, texts: Sequence[str]) -> list[int]:
        return [len(encoded.ids) for encoded in self._tokenizer.encode_batch(list(texts))]

    def cut(self, text: str, max_tokens: int) -> Iterator[str]:
        start, size = 0, BLOCK_CHARACTERS * max_tokens
        while start < len(text):
            block = text[start : start + size]
            piece = block[: self._piece_end(block, max_tokens)]
            yield piece
            start += len(piece)

    def _piece_end(self, block: str, max_tokens: int) -> int:
        """The last start of a token at which the piece, tokenized alone, is short enough."""
        offsets = self._tokenizer.encode(block, add_special_tokens=False).offsets
        room, end = max_tokens - self.ends, len(block)
        while end > 0:
            if self.count(block[:end]) <= max_tokens:
                return end
            room = min(room, len(offsets) - 1)
            end, room = (offsets[room][0] if room >= 0 else 0), room - 1
        raise InputError(f"no part of the text has {max_tokens} tokens or fewer")


def _matrix(vectors: Any) -> Matrix:
    return np.ascontiguousarray(vectors, dtype=np.float32)


def is_folder(model: str) -> bool:
    return model.startswith(("/", ".", "~")) or Path(model).is_dir()


def space_of(prefix: str, model: str, dimensions: int | None) -> Space:
    """A folder has its whole path, links followed, as its name: another folder of that name is another model."""
    if not is_folder(model):
        return Space(prefix, model, dimensions)
    folder = Path(model).expanduser().resolve()
    if not folder.is_dir():
        raise ConfigError(f"{prefix}: there is no folder {folder}")
    return Space(prefix, folder.as_posix(), dimensions)


def check_installed(prefix: str, module: str, command: str, options: Mapping[str, Any]) -> None:
    """Raises ConfigError where the library is missing, or for an option of services."""
    for name in ("api_key", "base_url", "http_client"):
        if options.get(name) is not None:
            raise ConfigError(f"{prefix}: takes no {name}; leave it out")
    if find_spec(module) is None:
        raise ConfigError(f"{prefix}: needs a package that is not installed; type  {command}")
