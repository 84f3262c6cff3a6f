"""`fake:NAME`: in process, deterministic, with faults to order and a ledger of its own. For tests.

It refuses what OpenAI refuses (an empty text, 2,049 inputs, more than 300,000 tokens of 4 bytes) and what JSON does
not carry (a subclass of str, a lone surrogate), and bills what it accepted when it came, whether or not anyone waits
for the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from hashlib import shake_128
from math import ceil
from typing import Any, TypeAlias

import anyio
import numpy as np

from aembed.errors import BadRequestError, ConfigError
from aembed.limits import Limits
from aembed.preparation import NO_PREPARATION, Preparation
from aembed.types import InputType, Matrix, Reply, Space, Usage

Fault: TypeAlias = Exception | float | None
"""Raise that, answer that many seconds later, or do nothing out of the ordinary."""
Script: TypeAlias = Callable[[int, Sequence[str]], Fault] | Sequence[Fault]
"""What happens to the request of that number, counted from 0; a sequence has one entry a request."""

OPTIONS: dict[str, str] = {}
_standing_in: list[FakeProvider] = []
"""The last one is what `fake:` names mean now, where there is one."""
# Those of OpenAI (providers/_rows.py).
LIMITS = Limits(max_batch_size=2_048, max_tokens_per_batch=300_000, max_tokens_per_text=8_191)


@dataclass(frozen=True, slots=True)
class Sent:
    """One request as the provider saw it. `outcome` is "answered" or the name of the error.

    `asked` is what a preparation said beside its prefixes, which are in the texts (Preparation.asks).
    """

    number: int
    inputs: int
    tokens: int
    input_type: InputType
    outcome: str
    texts: tuple[str, ...] = ()
    asked: str = ""


@dataclass(slots=True)
class Ledger:
    """What the provider itself counted. `log` holds the texts if `keep_texts` was given."""

    requests: int = 0
    texts: int = 0
    billed_tokens: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    log: list[Sent] = field(default_factory=list)


class FakeProvider:
    """Answers each text with a vector of length 1 that is made from the text, and what else it is asked for, alone.

    `preparation` is what its model wants of new stores. `latency` is in seconds; `script` orders faults, and may be set
    anew at any time; `vectors` are answers for some texts in the place of those; `ledger` tells what was sent and
    billed.
    """

    def __init__(
        self,
        model: str = "fake",
        dimensions: int = 64,
        *,
        latency: float = 0.0,
        script: Script | None = None,
        limits: Limits = LIMITS,
        price_usd: float | None = 0.0,
        keep_texts: bool = False,
        preparation: Preparation = NO_PREPARATION,
        vectors: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        _check_width(dimensions)
        for text, vector in (vectors or {}).items():
            if len(vector) != dimensions:
                raise ConfigError(f"the vector of {text[:50]!r} has {len(vector)} numbers; dimensions={dimensions}")
        self.space = Space("fake", model, dimensions)
        self.limits = limits
        self.preparation = preparation
        self.price_usd = price_usd
        self.ledger = Ledger()
        self._dimensions = dimensions
        self._orders = _Orders(script, latency)
        self._vectors = {text.encode(): np.asarray(vector, np.float32) for text, vector in (vectors or {}).items()}
        self._keep_texts = keep_texts

    def __repr__(self) -> str:
        ledger = self.ledger
        return f"<FakeProvider {self.space}: {ledger.requests} requests, {ledger.in_flight} in flight>"

    embeds_alike = True

    @property
    def script(self) -> Script | None:
        """What happens to the requests, counted from the first of all."""
        return self._orders.script

    @script.setter
    def script(self, script: Script | None) -> None:
        self._orders.script = script

    @contextmanager
    def standing_in(self) -> Iterator[FakeProvider]:
        """Meanwhile every "fake:NAME" is this one, with that name and the width asked for: one script, one ledger."""
        _standing_in.append(self)
        try:
            yield self
        finally:
            _standing_in.remove(self)

    def named(self, model: str, dimensions: int | None) -> FakeProvider:
        """The same one, under another name: they share script and ledger."""
        other = copy(self)
        if dimensions is not None:
            other._dimensions = _check_width(dimensions)
        other.space = Space("fake", model, other._dimensions)
        if self._vectors and other._dimensions != self._dimensions:
            raise ConfigError(f"dimensions={dimensions}: the vectors that were given have {self._dimensions}")
        return other

    async def embed(self, texts: Sequence[str], *, input_type: InputType) -> Reply:
        """One request. Raises what the script says, or BadRequestError where OpenAI would."""
        return await self._embed(texts, input_type, "")

    async def embed_prepared(self, texts: Sequence[str], *, input_type: InputType, preparation: Preparation) -> Reply:
        """As `embed`; texts of another input type, arithmetic or dtype have other vectors."""
        if not (asked := preparation.asks(input_type)):
            return await self.embed(texts, input_type=input_type)
        return await self._embed(texts, input_type, asked)

    async def _embed(self, texts: Sequence[str], input_type: InputType, asked: str) -> Reply:
        encoded, ledger = _as_json_has_them(texts), self.ledger
        number, ledger.requests = ledger.requests, ledger.requests + 1
        ledger.in_flight += 1
        ledger.max_in_flight = max(ledger.max_in_flight, ledger.in_flight)
        try:
            return await self._answer(number, texts, encoded, input_type, asked)
        finally:
            ledger.in_flight -= 1

    async def aclose(self) -> None:
        """There is nothing to close."""

    async def _answer(
        self, number: int, texts: Sequence[str], encoded: Sequence[bytes], input_type: InputType, asked: str
    ) -> Reply:
        tokens = ceil(sum(map(len, encoded)) / self.limits.bytes_per_token)
        fault = _refusal_of(encoded, self.limits) or _order(self._orders.script, number, texts)
        failed = isinstance(fault, Exception)
        outcome = type(fault).__name__ if failed else "answered"
        kept = tuple(texts) if self._keep_texts else ()
        self.ledger.log.append(Sent(number, len(texts), tokens, input_type, outcome, kept, asked))
        if not failed:
            self.ledger.texts += len(texts)
            self.ledger.billed_tokens += tokens
        seconds = fault if isinstance(fault, float | int) else self._orders.latency
        if seconds > 0:
            await anyio.sleep(seconds)
        if isinstance(fault, Exception):
            raise fault
        meant = [asked.encode() + text for text in encoded] if asked else encoded
        matrix = fake_vectors(meant, self._dimensions)
        for row, text in enumerate(encoded if self._vectors else ()):
            if text in self._vectors:
                matrix[row] = self._vectors[text]
        return Reply(matrix, self.space.model, Usage(tokens), request_id=f"fake-{number}")


@dataclass(slots=True)
class _Orders:
    """What those of several names share."""

    script: Script | None
    latency: float


def _check_width(dimensions: int) -> int:
    if dimensions < 1:
        raise ConfigError(f"dimensions={dimensions} must be 1 or more")
    return dimensions


def _order(script: Script | None, number: int, texts: Sequence[str]) -> Fault:
    if script is None:
        return None
    if callable(script):
        return script(number, texts)
    return script[number] if number < len(script) else None


def _as_json_has_them(texts: Sequence[str]) -> list[bytes]:
    """As over HTTP: TypeError for what JSON's encoder does not take, BadRequestError for what UTF-8 does not carry."""
    for index, text in enumerate(texts):
        if type(text) is not str:
            raise TypeError(f"text {index} is of the type {type(text).__name__}, which JSON has no word for")
    try:
        return [text.encode() for text in texts]
    except UnicodeEncodeError:
        error = BadRequestError("a text holds a lone surrogate, which UTF-8 cannot carry")
    error.offender = next(i for i, text in enumerate(texts) if any("\ud800" <= c <= "\udfff" for c in text))
    raise error


def _refusal_of(encoded: Sequence[bytes], limits: Limits) -> BadRequestError | None:
    if not 1 <= len(encoded) <= limits.max_batch_size:
        error = BadRequestError(f"400: {len(encoded)} inputs, max {limits.max_batch_size}", status_code=400)
        error.max_batch_size = limits.max_batch_size
        return error
    if b"" in encoded:
        error = BadRequestError("400: an input is an empty string", status_code=400)
        error.offender = encoded.index(b"")
        return error
    tokens = sum(map(len, encoded)) / limits.bytes_per_token
    if tokens > limits.max_tokens_per_batch:
        reason = f"400: requested {tokens:.0f} tokens, max {limits.max_tokens_per_batch} tokens per request"
        error = BadRequestError(reason, status_code=400)
        error.max_tokens_per_batch = limits.max_tokens_per_batch
        return error
    return None


def fake_vectors(encoded: Sequence[bytes], dimensions: int) -> Matrix:
    """Shape (n, dimensions), length 1: each from a digest of its text, a byte a dimension."""
    digests = b"".join([shake_128(text).digest(dimensions) for text in encoded])
    matrix = np.frombuffer(digests, np.uint8).reshape(len(encoded), dimensions).astype(np.float32)
    # The mean of a byte: without this all values are positive, and all vectors point nearly the same way.
    matrix -= np.float32(127.5)
    matrix /= np.sqrt(np.einsum("ij,ij->i", matrix, matrix))[:, None]
    return matrix


def open_provider(prefix: str, model: str, **options: Any) -> FakeProvider:
    for name in ("api_key", "base_url", "http_client"):
        if options.get(name) is not None:
            raise ConfigError(f"fake: takes no {name}; leave it out")
    dimensions = options.get("dimensions")
    if _standing_in:
        return _standing_in[-1].named(model, dimensions)
    return FakeProvider(model, 64 if dimensions is None else dimensions)
