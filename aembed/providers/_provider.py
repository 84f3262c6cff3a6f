"""What every provider that is reached over HTTP does: one request, its reply or its error, as safely as the next one.

    embed()    key -> payload -> POST -+- reply: read as it comes -> checked -> Reply
                                       +- refused, broken: the error that it means, without key and texts

A wire format says what differs from OpenAI's: `path`, `headers`, `payload`, `reader`, `hints`, `error`. It awaits
nothing, and is found by its prefix: the name of its file here, or an entry point of the group `aembed.providers`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import isfinite
from typing import Any, Protocol, TypeAlias, Unpack

import anyio
import msgspec

from aembed.core.billing import utf8_bytes
from aembed.core.headers import parse_hints
from aembed.core.replies import CutShortError, Parsed, ReplyReader
from aembed.core.vectors import DimensionError
from aembed.errors import (
    AuthenticationError,
    BadRequestError,
    ConfigError,
    InvalidReplyError,
    NotFoundError,
    ProviderError,
    UnavailableError,
)
from aembed.preparation import Preparation
from aembed.providers._credentials import Credentials
from aembed.providers._errors import error_for, error_in, redacted_line, request_id, with_origin
from aembed.providers._form import Form, VectorLengths
from aembed.providers._http import HTTP, HTTPClient, HTTPReply, cut_short, most_reply_bytes
from aembed.providers._options import (
    Headers,
    HTTPOptions,
    KeySource,
    base_url_of,
    check_choice,
    check_dimensions,
    check_encoding,
    check_fields,
    check_flag,
    check_headers,
    check_tokens,
    headers_of,
    is_own,
    key_of,
)
from aembed.providers._prefixes import asked_for, chosen_preparation
from aembed.providers._recorder import recorder_of
from aembed.providers._secrets import Secret
from aembed.providers._server_answers import read_answers
from aembed.providers._service import Service
from aembed.providers._threads import run_in_thread
from aembed.types import Hints, InputType, Reply, Space, Usage

logger = logging.getLogger("aembed")

RunInThread: TypeAlias = Callable[..., Awaitable[Any]]

FLOATS_BATCH_SIZE = 256
"""Numbers in JSON hold the interpreter while they are parsed: 18 ms for 256 vectors of 1,536, 144 ms for 2,048."""
# Chosen: a server in one's own network answers at once or not at all. Larger, the first job waits for one that hangs;
# smaller, one that is just starting is not understood.
ANSWER_SECONDS = 1.0
"""How long a server may take to say what its model is."""
# Chosen: a few sentences. What is longer is no advice, and a log is not the place for it.
MOST_WARNING = 500
INLINE_BYTES = 1_000_000
"""A reply of another kind up to this size is parsed within a few ms; a larger one in a thread (law 11)."""


class Reader(Protocol):
    """Reads the reply to one request: `feed` takes bytes as they come, `parse` is what they say."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def is_whole(self) -> bool:
        """Whether `parse` has all the work still to do."""
        ...

    def feed(self, data: bytes | memoryview) -> None: ...
    def whole_reply(self) -> bytes | bytearray: ...
    def parse(self, *, dimensions: int | None, normalised: bool = False, proven: bool = False) -> Parsed:
        """Raises InvalidReplyError for anything that is not exactly one sound vector for each input."""
        ...


class HTTPProvider:
    """One model of one service. Without any change it speaks OpenAI's format.

    `service` says what is known of the service; it may be an attribute of a class with a format of its own. `api_key`
    is the key, or an async callable that gives a token, called again once that was refused; without it, and without
    `base_url`, the service's variables of the environment are read. `dimensions` shortens the vectors where the model
    can. `http_client` is an httpx or httpx2 AsyncClient: used, never changed, never closed. The options are those of
    `HTTPOptions`. Raises ConfigError before any I/O.
    """

    service: Service

    def __init__(
        self,
        model: str,
        *,
        service: Service | None = None,
        api_key: str | KeySource | None = None,
        base_url: str | None = None,
        dimensions: int | None = None,
        concurrency: int = 8,
        http_client: HTTPClient | None = None,
        run_in_thread: RunInThread = run_in_thread,
        **options: Unpack[HTTPOptions],
    ) -> None:
        self.service = service = service or self.service
        self.model = model
        known = service.model(model)
        allow_http = check_flag("allow_http", options.get("allow_http", False))
        self.base_url = base_url_of(service, base_url, allow_http)
        own = bool(service.base_url) and self.base_url == service.base_url
        self.dimensions = check_dimensions(model, known, dimensions)
        """The width that is asked for; None where the model gives its own."""
        self._credentials = Credentials(key_of(service, api_key, required=own), service.key_header)
        self._headers = headers_of(service, check_headers(options.get("headers")))
        self._extra_body = check_fields("extra_body", options.get("extra_body"))
        chosen = chosen_preparation(
            wanted := service.preparation_of(model),
            document_prefix=options.get("document_prefix"),
            query_prefix=options.get("query_prefix"),
            input_types=options.get("input_types"),
        )
        self.preparation = wanted if chosen is None else chosen
        self._check_input_types()
        self._may_cut = check_flag("truncate", options.get("truncate", False))
        self._recorder = recorder_of(options.get("record"), self._secrets)
        self._normalised = known.has_length_1(dimensions)
        self._form = Form(check_encoding(options.get("encoding")), base64="base64" in service.encodings)
        self._lengths = VectorLengths(check_choice("normalize", options.get("normalize")), known=self._normalised)
        self._counts_tokens = service.counts_tokens
        asks = service.tells and dimensions is None and known.dimensions is None
        self._asks = bool(asks) and is_own(self.base_url)
        self._warned = False
        self._http = HTTP(concurrency=concurrency, http_client=http_client)
        self._run_in_thread = run_in_thread
        place = "" if own else self.base_url
        self.space = Space(service.name, model, dimensions or known.dimensions, place, preparation=asked_for(chosen))
        limits = service.limits_of(known, check_tokens(options.get("max_tokens_per_text")))
        self.limits = replace(limits, estimated=not (own and service.counts_are_known))
        if self._form.numbers:
            self._use_numbers()
        self.price_usd = known.price_usd

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.space}>"

    # what a wire format says

    @property
    def path(self) -> str:
        """What stands behind the base URL."""
        return self.service.endpoint

    def headers(self, url: str, body: bytes) -> Headers:
        """Further headers of one request, beside its key and those of every request: a signature, for instance."""
        return {}

    def payload(self, texts: Sequence[str], input_type: str) -> Mapping[str, Any]:
        """The body of a request, as JSON will hold it. The input type is the service's own word, "" for none."""
        return {"model": self.model, "input": texts, **self.fields(input_type)}

    def fields(self, input_type: str) -> dict[str, Any]:
        """What the service says that a body holds beside model and texts: encoding, width, input type, no cutting."""
        service, encodings = self.service, self.service.encodings
        asked = encodings.get("float" if self._form.is_asking_numbers else "base64") or {}
        fields = {**asked, **(service.cut if self._may_cut else service.uncut)}
        if input_type:
            fields[service.input_type_field] = input_type
        if self.dimensions is not None and service.dimensions_field:
            fields[service.dimensions_field] = self.dimensions
        return fields

    def reader(self, inputs: int) -> Reader:
        """What reads the reply to a request of so many inputs."""
        return ReplyReader(inputs)

    def hints(self, headers: Mapping[str, str]) -> Hints | None:
        """What the headers of a reply say of waiting and limits, where this service has headers of its own for that;
        None: as everybody's say. Their names are in lower case."""
        return None

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError | None:
        """What a refusal means where this service means something of its own by it; None: as everybody's words say."""
        return None

    # what is the same for all

    embeds_alike = True
    """But for what a preparation says, documents and queries are sent alike."""

    async def embed(self, texts: Sequence[str], *, input_type: InputType) -> Reply:
        """One request, whose texts have the prefixes of `preparation` already."""
        return await self.embed_prepared(texts, input_type=input_type, preparation=self.preparation)

    async def embed_prepared(self, texts: Sequence[str], *, input_type: InputType, preparation: Preparation) -> Reply:
        """The same with the preparation of a store.

        Where the server turns out not to speak base64 it fails and may be sent again `at_once`.
        """
        numbers, key = self._form.is_asking_numbers, self._credentials.key
        try:
            return await self._embed(texts, preparation.type(input_type))
        except ProviderError as error:
            error.at_once |= self._form.note_failure(error, numbers=numbers)
            if isinstance(error, AuthenticationError):
                error.at_once |= self._credentials.note_refused(key or self._credentials.key)
            raise

    async def learn(self) -> None:
        """Asks a server of one's own what its model is, once, where neither an option nor a row says it."""
        if not self._asks:
            return
        body = b""
        url, headers = f"{self.base_url}/{self.service.tells}", {**self._headers, **await self._credentials.headers()}
        try:
            with anyio.move_on_after(ANSWER_SECONDS):
                body = (await self._http.get(url, headers, most_bytes=INLINE_BYTES)).body
        except UnavailableError:
            return  # it is asked before the next job
        except ProviderError:
            pass
        self._asks = False
        told = read_answers(body, self.model)
        self._counts_tokens &= told.counts_tokens
        self.space = replace(self.space, dimensions=self.space.dimensions or told.dimensions)
        most = min(told.max_tokens_per_text or self.limits.max_tokens_per_text, self.limits.max_tokens_per_text)
        self.limits = replace(self.limits, max_tokens_per_text=most)

    async def aclose(self) -> None:
        """Closes the connections made here, not an `http_client` that was passed."""
        await self._http.aclose()

    async def _embed(self, texts: Sequence[str], input_type: str) -> Reply:
        body = self._encode_payload(texts, input_type)
        reader, broken_before = self.reader(len(texts)), self._form.broken_numbers
        url, key_header = f"{self.base_url}{self.path}", await self._credentials.headers()
        reply = None
        try:
            reply = await self._http.post(
                url,
                {**self._headers, **key_header, **self.headers(url, body)},
                body,
                most_bytes=most_reply_bytes(len(texts), self.space.dimensions),
                take=reader.feed,
            )
            if not 200 <= reply.status < 300:
                raise self._refusal(reply, texts)
            parsed = await self._parse(reply, reader, texts)
        except ProviderError as error:
            await self._record(texts, reply, reader, error)
            raise
        self._form.note_answered(numbers=parsed.floats, broken_before=broken_before)
        if parsed.floats:
            self._use_numbers()
        self._pass_on(reply)
        return Reply(
            self._lengths.scale(parsed.matrix, parsed.squares, self.model),
            parsed.model,
            parsed.usage if self._counts_tokens else Usage(None, parsed.usage.cost_usd),
            self.hints(reply.headers) or parse_hints(reply.headers),
            request_id(reply, self._secrets()),
            _server_seconds(reply),
            checked=True,
        )

    def _encode_payload(self, texts: Sequence[str], input_type: str) -> bytes:
        """A lone surrogate has no UTF-8. Python's error would carry the text."""
        try:
            return msgspec.json.encode({**self.payload(texts, input_type), **self._extra_body})
        except UnicodeEncodeError:
            error = BadRequestError("a text holds a lone surrogate, which UTF-8 cannot carry")
        error.offender = next(i for i, text in enumerate(texts) if any("\ud800" <= c <= "\udfff" for c in text))
        raise error

    def _refusal(self, reply: HTTPReply, texts: Sequence[str]) -> ProviderError:
        """The error that a status means. Where nothing is at that address it is named; it holds no key."""
        secrets, hints = self._secrets(), self.hints(reply.headers)
        if own := self.error(reply.status, reply.headers, reply.body):
            return with_origin(own, reply, secrets, own.hints or hints)
        error = error_for(reply, inputs=len(texts), tokens=self._estimate_tokens(texts), secrets=secrets, hints=hints)
        if error.status_code in (404, 405) and isinstance(error, NotFoundError) and "model" not in str(error).lower():
            usual = self.service.path or "/v1"
            hint = "" if self.base_url.endswith(usual) else f"; should base_url be {self.base_url}{usual}?"
            error.args = (f"{error} (POST {self.base_url}{self.path}{hint})",)
        return error

    async def _parse(self, reply: HTTPReply, reader: Reader, texts: Sequence[str]) -> Parsed:
        """The body of a 2xx reply. Raises InvalidReplyError, or the error that stands in it."""
        parse = partial(
            reader.parse,
            dimensions=self.space.dimensions,
            normalised=self._normalised,
            proven=self._form.is_proven,
        )
        try:
            in_thread = reader.is_whole and reader.size_bytes > INLINE_BYTES
            return await self._run_in_thread(parse) if in_thread else parse()
        except CutShortError as error:
            invalid: ProviderError = error if reply.framed else cut_short()
        except DimensionError as error:
            if self.dimensions is not None:
                error.args = (f"{error}; where a server ignores dimensions=, leave that out",)
            invalid = error
        except InvalidReplyError as error:
            invalid = error
        reply, secrets = replace(reply, body=bytes(reader.whole_reply())), self._secrets()
        held = error_in(reply, inputs=len(texts), tokens=self._estimate_tokens(texts), secrets=secrets)
        raise held or with_origin(invalid, reply, secrets, self.hints(reply.headers))

    def _pass_on(self, reply: HTTPReply) -> None:
        """What the provider wants its user to know (Voyage: that an account has a small limit), once."""
        if (said := reply.headers.get("x-api-warning")) and not self._warned:
            self._warned = True
            warning = redacted_line(said, self._secrets())[:MOST_WARNING]
            logger.warning("%s says: %s", self.service.name, warning)

    async def _record(
        self, texts: Sequence[str], reply: HTTPReply | None, reader: Reader, error: ProviderError
    ) -> None:
        """Of a reply that broke off there is what had come; where nothing had, there is nothing to record."""
        if self._recorder is None or (reply is None and not reader.size_bytes):
            return
        status, headers = (reply.status, reply.headers) if reply else (None, {})
        body = reply.body if reply and reply.body else bytes(reader.whole_reply())
        await self._run_in_thread(self._recorder.write, texts, status, headers, body, error)

    def _check_input_types(self) -> None:
        types = self.preparation.document_type or self.preparation.query_type
        if types and not self.service.input_type_field:
            raise ConfigError(f"{self.service.name}: has no field for input_types; use document_prefix, query_prefix")

    def _secrets(self) -> list[Secret]:
        """The key as it is, and what else goes out in headers."""
        key = self._credentials.key
        return [*([key] if key else []), *(value for value in self._headers.values() if isinstance(value, Secret))]

    def _estimate_tokens(self, texts: Sequence[str]) -> float:
        """Tokens, as limits are counted."""
        return sum(map(utf8_bytes, texts)) / self.limits.bytes_per_token

    def _use_numbers(self) -> None:
        if self.limits.max_batch_size > FLOATS_BATCH_SIZE:
            self.limits = replace(self.limits, max_batch_size=FLOATS_BATCH_SIZE)


def _server_seconds(reply: HTTPReply) -> float | None:
    try:
        milliseconds = float(reply.headers.get("openai-processing-ms", ""))
    except ValueError:
        return None
    return milliseconds / 1000 if isfinite(milliseconds) and milliseconds >= 0 else None
