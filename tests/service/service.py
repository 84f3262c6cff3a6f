"""The simulated service without its network: understands a request, judges it, bills it, keeps the ledger.

Pure: bytes and the time go in, an Exchange comes out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec
import numpy as np

from tests.service import refusals
from tests.service.faults import Fault, Request, Script, Status
from tests.service.ledger import Event, Ledger, tokens_in
from tests.service.limits import RateLimits
from tests.service.vectors import base64_of, digest, framed, vectors_of

Bill: TypeAlias = Callable[[Sequence[bytes]], int]
Counts: TypeAlias = Callable[[Sequence[int]], int]
"""The tokens of texts of so many bytes."""

_ROW = b'{"object":"embedding","index":%d,"embedding":"%b"}'
_ROWS_PER_PIECE = 128
_FIELDS = {"input", "model", "encoding_format", "dimensions", "user"}


def above(share: float) -> Counts:
    """UTF-8 bytes / 4, and that share of them more."""
    return lambda sizes: math.ceil(tokens_in(sum(sizes)) * (1.0 + share))


def each_text(sizes: Sequence[int]) -> int:
    """UTF-8 bytes / 4, rounded up for each text."""
    return sum(map(tokens_in, sizes))


@dataclass(frozen=True, slots=True)
class Model:
    """`shortens`: takes `dimensions`. `answers_as` is the name in its replies, where it differs."""

    dimensions: int
    shortens: bool = True
    answers_as: str | None = None


MODELS = {
    "text-embedding-3-small": Model(1_536),
    "text-embedding-3-large": Model(3_072),
    "text-embedding-ada-002": Model(1_536, shortens=False, answers_as="text-embedding-ada-002-v2"),
}


@dataclass(frozen=True, slots=True)
class Rules:
    """What a request may carry. `key` None takes any key, or none.

    The token limits are OpenAI's, all counted as UTF-8 bytes / 4. For the sum that is how OpenAI counts; for one input
    it is an estimate: the real service counts that with its tokenizer. `bills` is what the inputs of a request cost,
    as its reply and the ledger say; without it that is the estimate, too (tests/service/bills.py has others). `counts`
    is how the sum is counted by a server that counts otherwise (`above`, `each_text`). `says_usage` False: replies do
    not say what they cost.
    """

    max_inputs: int = 2_048
    max_tokens: int = 300_000
    max_tokens_per_input: int = 8_192
    key: str | None = None
    models: Mapping[str, Model] = field(default_factory=lambda: MODELS)
    bills: Bill | None = None
    counts: Counts | None = None
    says_usage: bool = True


@dataclass(frozen=True, slots=True)
class Call:
    """A request that keeps the rules: its inputs by digest, with their sizes in bytes."""

    request: Request
    digests: Sequence[bytes]
    sizes: Sequence[int]
    dimensions: int
    base64: bool
    answers_as: str
    bill: int
    says_usage: bool = True

    def pieces(self) -> Iterator[bytes]:
        """The body of the proper reply, made while it is sent: a large one never stands in memory whole."""
        if not self.base64:
            yield msgspec.json.encode(self.as_json())
            return
        for start, end in _pieces(len(self.digests)):
            rows = framed(self.digests[start:end], self.dimensions, start, _ROW)
            yield rows if start else b'{"object":"list","data":[' + rows[1:]
        yield self._closing()

    def pieces_bytes(self) -> int | None:
        """Their size, where it is known without making them."""
        if not self.base64:
            return None
        count = len(self.digests)
        indexes = len("".join(map(str, range(count))))
        row = len(_ROW % (0, b"")) - 1 + 4 * -(-4 * self.dimensions // 3)
        return len(b'{"object":"list","data":[') + count * row + indexes + count - 1 + len(self._closing())

    def _closing(self) -> bytes:
        return b"]," + msgspec.json.encode({"model": self.answers_as} | self._usage())[1:]

    def as_json(self) -> dict[str, Any]:
        """The proper reply as JSON values, for those that edit it."""
        values: Sequence[Any]
        if self.base64:
            values = [row.decode() for row in base64_of(self.digests, self.dimensions)]
        else:
            values = vectors_of(self.digests, self.dimensions).tolist()
        data = [{"object": "embedding", "index": i, "embedding": value} for i, value in enumerate(values)]
        return {"object": "list", "data": data, "model": self.answers_as} | self._usage()

    def _usage(self) -> dict[str, Any]:
        return {"usage": {"prompt_tokens": self.bill, "total_tokens": self.bill}} if self.says_usage else {}


def _pieces(rows: int) -> Iterator[tuple[int, int]]:
    """Where each piece starts and ends: within one, all indexes have as many digits."""
    start = 0
    while start < rows:
        end = min(start + _ROWS_PER_PIECE, 10 ** len(str(start)), rows)
        yield start, end
        start = end


@dataclass(frozen=True, slots=True)
class Exchange:
    """What to do with one request. Without a fault its call gets the proper reply; a refusal is a Status."""

    number: int
    at: float
    call: Call | None
    fault: Fault | None
    billed: bool
    headers: Mapping[str, str]

    @property
    def tokens(self) -> int:
        return self.call.request.tokens if self.call else 0

    @property
    def bill(self) -> int:
        return self.call.bill if self.call else 0


class Refused(Exception):
    def __init__(self, status: Status) -> None:
        super().__init__(refusals.label(status))
        self.status = status


class Service:
    """`rate_headers`: replies carry `x-ratelimit-*`; `retry_after`: a 429 carries its wait in headers too."""

    def __init__(
        self,
        rules: Rules = Rules(),
        limits: RateLimits | None = None,
        script: Script | None = None,
        *,
        rate_headers: bool = True,
        retry_after: bool = True,
    ) -> None:
        self.rules = rules
        self.limits = limits or RateLimits()
        self.script = script
        self.rate_headers = rate_headers
        self.retry_after = retry_after
        self.ledger = Ledger()
        self.received = 0

    def receive(self, headers: Mapping[str, str], body: bytes, now: float) -> Exchange:
        """Judges and bills one request, which is in flight from now on: `leave` ends that."""
        number, self.received = self.received, self.received + 1
        try:
            call = understand(self.rules, headers, body, number, now)
        except Refused as refused:
            return self._noted(Exchange(number, now, None, refused.status, False, {}))
        return self._noted(self._judge(call))

    def leave(self, exchange: Exchange, *, intact: bool) -> None:
        """The reply is written, or the client is gone. `intact`: the whole, right reply went out."""
        self.ledger.left(exchange.tokens)
        if exchange.billed and not intact:
            self.ledger.lost_tokens += exchange.bill

    def _judge(self, call: Call) -> Exchange:
        request = call.request
        fault = self.script(request) if self.script else None
        if fault:
            self.ledger.faults[type(fault).__name__] += 1
        billed = fault is None or fault.billed
        if billed and (excess := self.limits.admit(request.tokens, request.at)):
            fault, billed = refusals.rate_limited(excess, request.model, headers=self.retry_after), False
        headers = self.limits.headers(request.at) if self.rate_headers else {}
        return Exchange(request.number, request.at, call, fault, billed, headers)

    def _noted(self, exchange: Exchange) -> Exchange:
        call, ledger = exchange.call, self.ledger
        ledger.arrived(exchange.tokens)
        ledger.decided(Event(exchange.at, len(call.sizes) if call else 0, exchange.tokens, _verdict(exchange)))
        if call and exchange.billed:
            project = call.request.headers.get("openai-project", "")
            ledger.billed(zip(call.digests, call.sizes, strict=True), exchange.bill, project)
        return exchange


def _verdict(exchange: Exchange) -> str:
    if exchange.billed:
        return "accepted"
    return refusals.label(exchange.fault) if isinstance(exchange.fault, Status) else type(exchange.fault).__name__


def understand(rules: Rules, headers: Mapping[str, str], body: bytes, number: int, now: float) -> Call:
    """Raises Refused where OpenAI answers 400, 401 or 404."""
    _check_key(rules, headers)
    fields = _fields(body)
    name, model = _model(rules, fields)
    inputs = _inputs(rules, fields.get("input"))
    contents = _contents(inputs)
    sizes = [len(content) for content in contents]
    tokens, encoding = _tokens(rules, sizes), fields.get("encoding_format", "float")
    if encoding not in {"float", "base64"}:
        raise Refused(refusals.invalid_field("encoding_format"))
    is_base64 = encoding == "base64"
    request = Request(number, now, name, [str(text) for text in inputs], tokens, headers, is_base64)
    dimensions = _dimensions(model, fields.get("dimensions"))
    answers_as = model.answers_as or name
    bill = rules.bills(contents) if rules.bills else request.tokens
    keys = [digest(content) for content in contents]
    return Call(request, keys, sizes, dimensions, is_base64, answers_as, bill, rules.says_usage)


def _check_key(rules: Rules, headers: Mapping[str, str]) -> None:
    sent = headers.get("authorization", "").removeprefix("Bearer ")
    if rules.key is not None and sent != rules.key:
        raise Refused(refusals.bad_key(f"{sent[:3]}****{sent[-4:]}" if sent else "none"))


def _fields(body: bytes) -> dict[str, Any]:
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refused(refusals.not_json()) from None
    if not isinstance(fields, dict):
        raise Refused(refusals.not_json())
    if unknown := sorted(fields.keys() - _FIELDS):
        raise Refused(refusals.unknown_field(unknown[0]))
    return fields


def _model(rules: Rules, fields: Mapping[str, Any]) -> tuple[str, Model]:
    name = fields.get("model")
    if not isinstance(name, str):
        raise Refused(Status(400, refusals.error("you must provide a model parameter")))
    if name not in rules.models:
        raise Refused(refusals.unknown_model(name))
    return name, rules.models[name]


def _inputs(rules: Rules, given: Any) -> list[Any]:
    inputs = given if isinstance(given, list) and not _all_of(given, int) else [given]
    if len(inputs) > rules.max_inputs:
        raise Refused(refusals.too_many_inputs(len(inputs), rules.max_inputs))
    return inputs


def _contents(inputs: Sequence[Any]) -> list[bytes]:
    """Texts as UTF-8; a list of tokens as 4 bytes each, so that both count alike."""
    if _all_of(inputs, str) and all(inputs):
        return [text.encode() for text in inputs]
    if inputs and all(isinstance(item, list) and _all_of(item, int) for item in inputs):
        with suppress(OverflowError):
            return [np.array(item, dtype="<i4").tobytes() for item in inputs]
    raise Refused(refusals.invalid_field("input"))


def _all_of(items: Sequence[Any], kind: type) -> bool:
    return bool(items) and all(type(item) is kind for item in items)


def _tokens(rules: Rules, sizes: Sequence[int]) -> int:
    longest, total = tokens_in(max(sizes)), rules.counts(sizes) if rules.counts else tokens_in(sum(sizes))
    if longest > rules.max_tokens_per_input:
        raise Refused(refusals.input_too_long(longest, rules.max_tokens_per_input))
    if total > rules.max_tokens:
        raise Refused(refusals.too_many_tokens(total, rules.max_tokens))
    return total


def _dimensions(model: Model, asked: Any) -> int:
    if asked is None:
        return model.dimensions
    if not model.shortens:
        raise Refused(Status(400, refusals.error("This model does not support specifying dimensions.")))
    if type(asked) is not int or not 1 <= asked <= model.dimensions:
        raise Refused(refusals.invalid_field("dimensions"))
    return asked
