"""A service that answers by the rules of one real service, over real sockets, and keeps a ledger of what it billed.

Without any change it is OpenAI's format. A service says in attributes what it calls its fields, how much it takes and
what its words are; one with a format of its own overrides `is_embedding`, `decode` and `encode`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import msgspec
import numpy as np
import pybase64

from aembed.types import Matrix
from tests.providers.raw_server import Request, Writer, listening, read_request, reply
from tests.service.vectors import digest, vectors_of

REFUSED = "xyzzy"
"""A text that holds this word is refused for its content."""
KEY = "sk-conformance-0123456789abcdef"
WAIT = 0.05
"""Seconds to wait after a 429, as small as its words can say."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Any
    """JSON values, or the bytes themselves."""
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    def __init__(self, answer: Answer) -> None:
        super().__init__(str(answer))
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for, whatever its fields are called. `input_type` is "document", "query" or "" for none.

    `uncut`: a text that is too long is to be refused. `dimensions` None: those of the model.
    """

    texts: Sequence[str]
    input_type: str = ""
    dimensions: int | None = None
    base64: bool = False
    uncut: bool = True


@dataclass(slots=True)
class Ledger:
    """`requests` are those that asked for vectors. `asked` are those of them that were answered and billed."""

    requests: int = 0
    billed_tokens: int = 0
    cut: int = 0
    """Texts that were cut, because the request did not say that they must not be."""
    asked: list[Asked] = field(default_factory=list)
    decoded: list[Asked] = field(default_factory=list)
    """All that were understood, those that were then refused, too."""
    others: list[str] = field(default_factory=list)
    """Paths that were asked for beside."""

    @property
    def input_types(self) -> set[str]:
        return {asked.input_type for asked in self.decoded}


class ScriptedService:
    """One service. `script` has answers for single requests, by their number from 0; a callable does what it likes
    with the connection.

    Tokens are UTF-8 bytes / 4, rounded up for each text.
    """

    prefix: ClassVar[str]
    model: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    """What a user has to say beside model, key and address."""
    base_path: ClassVar[str] = "/v1"
    """The path of the address that the user gives."""
    endpoint: ClassVar[str] = "/embeddings"
    key_header: ClassVar[str] = "authorization"
    needs_key: ClassVar[bool] = True
    request_id_header: ClassVar[str] = "x-request-id"
    """"" where it names none."""

    width: ClassVar[int] = 1_024
    shorter: ClassVar[int | None] = None
    """A smaller width that `dimensions=` may ask for; None where it cannot."""
    max_inputs: ClassVar[int] = 2_048
    max_tokens: ClassVar[int] = 300_000
    max_tokens_per_text: ClassVar[int] = 8_192

    input_type_field: ClassVar[str] = ""
    input_types: ClassVar[Mapping[str, str]] = {}
    """The service's words, and what they mean: "document" or "query"."""
    needs_input_type: ClassVar[bool] = False
    prefixes: ClassVar[tuple[str, str]] = ("", "")
    """What the model wants before documents and queries, where that is in the text."""
    dimensions_field: ClassVar[str] = "dimensions"
    encoding_field: ClassVar[str] = "encoding_format"
    encodings: ClassVar[Mapping[str | None, str]] = {None: "float", "float": "float", "base64": "base64"}
    """What the values of that field mean; None: what is meant without it. Any other value is refused."""
    uncut_field: ClassVar[str] = ""
    uncut_value: ClassVar[Any] = False
    cuts: ClassVar[bool] = False
    """It cuts long texts where that field does not say that it must not."""
    more_fields: ClassVar[frozenset[str]] = frozenset({"user"})
    has_usage: ClassVar[bool] = True
    has_index: ClassVar[bool] = True
    floats_only_limit: ClassVar[int | None] = None
    """A smaller number of texts that a client may choose, as numbers are long."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.script: dict[int, Answer | Callable[[Writer], Any]] = {}
        self.scrambled = False
        """Answers come in the reverse order, with their indexes."""
        self.loses_one = False
        """Answers have a vector too few."""
        self.port = 0
        self.arrived = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.base_path}"

    # the wire

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not writer.is_closing():
                answer = self.respond(await read_request(reader, 1))
                self.arrived.set()
                if isinstance(answer, Answer):
                    writer.write(self._bytes(answer))
                    await writer.drain()
                else:
                    await answer(writer)
        writer.close()

    def _bytes(self, answer: Answer) -> bytes:
        named = {"content-type": "application/json"}
        if self.request_id_header:
            named[self.request_id_header] = f"req-{self.ledger.requests}"
        body = answer.body if isinstance(answer.body, bytes) else msgspec.json.encode(answer.body)
        return reply(body, answer.status, {**named, **answer.headers})

    def respond(self, request: Request) -> Answer | Callable[[Writer], Any]:
        if not self.is_embedding(request):
            self.ledger.others.append(request.target)
            return self.tell(request)
        number, self.ledger.requests = self.ledger.requests, self.ledger.requests + 1
        if self.needs_key and self.key_in(request.headers) != KEY:
            return self.wrong_key(self.key_in(request.headers))
        try:
            asked = self.decode(request)
        except Refused as refused:
            return refused.answer
        self.ledger.decoded.append(asked)
        if number in self.script:
            return self.script.pop(number)
        return self.judge(asked)

    def judge(self, asked: Asked) -> Answer:
        """Bills and answers a request that keeps the rules."""
        if len(asked.texts) > self.max_inputs:
            return self.too_many_inputs(len(asked.texts))
        tokens = [tokens_in(text) for text in asked.texts]
        for position, count in enumerate(tokens):
            if count > self.max_tokens_per_text:
                if asked.uncut:
                    return self.too_long(position, count)
                self.ledger.cut += 1
        if sum(tokens) > self.max_tokens:
            return self.too_many_tokens(sum(tokens))
        for position, text in enumerate(asked.texts):
            if REFUSED in text:
                return self.refused_text(position)
        billed = sum(min(count, self.max_tokens_per_text) for count in tokens)
        self.ledger.billed_tokens += billed
        self.ledger.asked.append(asked)
        answered = replace(asked, texts=asked.texts[:-1]) if self.loses_one else asked
        return Answer(200, self.encode(answered, billed), self.headers_of_success(billed))

    # what differs from one service to another

    def is_embedding(self, request: Request) -> bool:
        return request.target == f"{self.base_path}{self.endpoint}"

    def tell(self, request: Request) -> Answer:
        """What stands at other addresses, such as the list of models."""
        return Answer(404, {"detail": "Not Found"})

    def key_in(self, headers: Mapping[str, str]) -> str:
        value = headers.get(self.key_header, "")
        return value.removeprefix("Bearer ") if self.key_header == "authorization" else value

    def decode(self, request: Request) -> Asked:
        """Raises Refused for what this service does not know."""
        fields = json.loads(request.body)
        known = {"model", "input", self.input_type_field, self.dimensions_field, self.encoding_field, self.uncut_field}
        for name in fields.keys() - known - self.more_fields:
            raise Refused(self.malformed(f"Unrecognized request argument supplied: {name}"))
        if fields.get("model") != self.model:
            raise Refused(self.unknown_model(str(fields.get("model"))))
        texts = fields.get("input")
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise Refused(self.malformed("'$.input' is invalid"))
        return Asked(
            texts, self.input_type_in(fields), self.dimensions_in(fields), self.base64_in(fields), self.uncut_in(fields)
        )

    def input_type_in(self, fields: Mapping[str, Any]) -> str:
        said = fields.get(self.input_type_field) if self.input_type_field else None
        if said is None and self.needs_input_type:
            raise Refused(self.malformed(f"'{self.input_type_field}' parameter is required for this model"))
        if said is not None and said not in self.input_types:
            raise Refused(self.malformed(f"{self.input_type_field}: {said} is not one of {[*self.input_types]}"))
        return self.input_types[said] if said else ""

    def dimensions_in(self, fields: Mapping[str, Any]) -> int | None:
        asked = fields.get(self.dimensions_field) if self.dimensions_field else None
        if asked is not None and (self.shorter is None or asked > self.width):
            raise Refused(self.malformed(f"This model does not support specifying dimensions: {asked}"))
        return None if asked is None else int(asked)

    def base64_in(self, fields: Mapping[str, Any]) -> bool:
        said = fields.get(self.encoding_field)
        if said not in self.encodings:
            raise Refused(self.malformed(f"{self.encoding_field}: {said} is not supported"))
        return self.encodings[said] == "base64"

    def uncut_in(self, fields: Mapping[str, Any]) -> bool:
        return not self.cuts or (bool(self.uncut_field) and fields.get(self.uncut_field) == self.uncut_value)

    def encode(self, asked: Asked, billed: int) -> Any:
        """The body of a good reply."""
        vectors = self.vectors(asked)
        items = [self.item(row, asked) | ({"index": i} if self.has_index else {}) for i, row in enumerate(vectors)]
        usage = {"usage": self.usage(billed)} if self.has_usage else {}
        return {"object": "list", "data": items[::-1] if self.scrambled else items, "model": self.model, **usage}

    def item(self, row: Matrix, asked: Asked) -> dict[str, Any]:
        value = pybase64.b64encode(row.astype("<f4").tobytes()).decode() if asked.base64 else row.tolist()
        return {"object": "embedding", "embedding": value}

    def usage(self, billed: int) -> dict[str, Any]:
        return {"prompt_tokens": billed, "total_tokens": billed}

    def headers_of_success(self, billed: int) -> Mapping[str, str]:
        return {}

    # its words

    def malformed(self, reason: str) -> Answer:
        return Answer(400, openai_error(reason))

    def unknown_model(self, model: str) -> Answer:
        return Answer(404, openai_error(f"The model `{model}` does not exist", code="model_not_found"))

    def too_many_inputs(self, count: int) -> Answer:
        reason = (
            f"Invalid 'input': array too long. Expected an array with maximum length {self.max_inputs}, but got an "
        )
        return Answer(400, openai_error(f"{reason}array with length {count} instead.", param="input"))

    def too_many_tokens(self, count: int) -> Answer:
        reason = f"Requested {count} tokens, max {self.max_tokens} tokens per request"
        return Answer(400, openai_error(reason, "max_tokens_per_request", code="max_tokens_per_request"))

    def too_long(self, position: int, tokens: int) -> Answer:
        most = self.max_tokens_per_text
        return Answer(400, openai_error(f"Invalid 'input[{position}]': maximum input length is {most} tokens."))

    def refused_text(self, position: int) -> Answer:
        return Answer(400, openai_error("The input could not be processed."))

    def rate_limited(self) -> Answer:
        reason = (
            f"Rate limit reached for {self.model} on requests per min (RPM). Please try again in {WAIT * 1000:.0f}ms."
        )
        return Answer(429, openai_error(reason, "requests", code="rate_limit_exceeded"))

    def outage(self) -> Answer:
        return Answer(500, openai_error("The server had an error while processing your request.", "server_error"))

    def wrong_key(self, key: str) -> Answer:
        return Answer(401, openai_error(f"Incorrect API key provided: {key}.", code="invalid_api_key"))

    def no_money(self) -> Answer:
        reason = "You exceeded your current quota, please check your plan and billing details."
        return Answer(429, openai_error(reason, "insufficient_quota", code="insufficient_quota"))

    # what it is judged by

    def vectors(self, asked: Asked) -> Matrix:
        digests = [digest(f"{asked.input_type}\0{text}".encode()) for text in asked.texts]
        return vectors_of(digests, asked.dimensions or self.width)

    def right(self, texts: Sequence[str], input_type: str, dimensions: int | None = None) -> Matrix:
        """The vectors that these texts have as documents or queries: told by its field, or by prefixes."""
        told = input_type if self.input_types else ""
        prefix = self.prefixes[0 if input_type == "document" else 1]
        found = self.vectors(Asked([prefix + text for text in texts], told, dimensions))
        return found.astype(np.float32)


def openai_error(
    message: str, kind: str = "invalid_request_error", *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def tokens_in(text: str) -> int:
    return -(-len(text.encode()) // 4)


@asynccontextmanager
async def running(kind: type[ScriptedService]) -> AsyncIterator[ScriptedService]:
    async with listening(kind()) as service:
        yield service
