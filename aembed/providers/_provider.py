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
from typing import Any, TypeAlias, Unpack
from urllib.parse import urljoin

import anyio

from aembed.core.billing import utf8_bytes
from aembed.core.headers import parse_hints
from aembed.core.replies import Parsed, ReplyReader
from aembed.errors import AuthenticationError, InvalidReplyError, ProviderError, UnavailableError
from aembed.preparation import Preparation
from aembed.providers._credentials import Credentials
from aembed.providers._errors import error_for, error_in, request_id, with_origin
from aembed.providers._exchanges import Notices, Reader, encode_body, explain, name_address, server_seconds, usage_in
from aembed.providers._form import Form, VectorLengths
from aembed.providers._http import HTTP, HTTPClient, HTTPReply, most_reply_bytes
from aembed.providers._options import Headers, HTTPOptions, KeySource
from aembed.providers._recorder import recorder_of
from aembed.providers._secrets import Secret
from aembed.providers._server_answers import ServerAnswers, read_answers
from aembed.providers._service import Service
from aembed.providers._settings import Settings
from aembed.providers._threads import run_in_thread
from aembed.types import Hints, InputType, Reply

__all__ = ["INLINE_BYTES", "HTTPProvider", "Reader"]

logger = logging.getLogger("aembed")

RunInThread: TypeAlias = Callable[..., Awaitable[Any]]

FLOATS_BATCH_SIZE = 256
"""Numbers in JSON hold the interpreter while they are parsed: 18 ms for 256 vectors of 1,536, 144 ms for 2,048."""
# Chosen: a server in one's own network answers at once or not at all. Larger, the first job waits for one that hangs;
# smaller, one that is just starting is not understood.
ANSWER_SECONDS = 1.0
"""How long a server may take to say what its model is."""
INLINE_BYTES = 1_000_000
"""A reply of another kind up to this size is parsed within a few ms; a larger one in a thread (law 11)."""


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
        settings = Settings.check(service, model, api_key, base_url, dimensions, options)
        self.base_url, self.dimensions, self.preparation = settings.base_url, settings.dimensions, settings.preparation
        self.space, self.limits, self.price_usd = settings.space, settings.limits, settings.price_usd
        self._credentials = Credentials(settings.key, service.key_header)
        self._headers, self._extra_body = settings.headers, settings.extra_body
        self._may_cut, self._normalised, self._asks = settings.may_cut, settings.normalised, settings.asks
        self._counts_tokens = service.counts_tokens
        self._recorder = recorder_of(options.get("record"), self._secrets)
        self._form = Form(settings.encoding, base64="base64" in service.encodings)
        self._lengths = VectorLengths(settings.normalize, known=settings.normalised)
        self._notices = Notices(service.name)
        self._http = HTTP(concurrency=concurrency, http_client=http_client)
        self._run_in_thread = run_in_thread
        if self._form.numbers:
            self._use_numbers()

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

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError | type[ProviderError] | None:
        """What a refusal means where this service means something of its own by it: a class, whose message is what the
        body says, or the error itself; None: as everybody's words say."""
        return None

    def question(self) -> bytes:
        """What is asked of a server of one's own, by POST to the service's `tells`; b"": nothing, it is a GET."""
        return b""

    def answers(self, body: bytes) -> ServerAnswers:
        """What such a server said."""
        return read_answers(body, self.model)

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
        """Asks a server of one's own what its model is and how much it takes, once."""
        if not self._asks:
            return
        body = b""
        url = urljoin(f"{self.base_url}/", self.service.tells)
        headers = {**self._headers, **await self._credentials.headers()}
        try:
            with anyio.move_on_after(ANSWER_SECONDS):
                if question := self.question():
                    body = (await self._http.post(url, headers, question, most_bytes=INLINE_BYTES)).body
                else:
                    body = (await self._http.get(url, headers, most_bytes=INLINE_BYTES)).body
        except UnavailableError:
            return  # it is asked before the next job
        except ProviderError:
            pass
        self._asks = False
        told = self.answers(body)
        self._counts_tokens &= told.counts_tokens
        self.space = replace(self.space, dimensions=self.space.dimensions or told.dimensions)
        self.limits = told.narrow(self.limits)
        if self._form.numbers:
            self._use_numbers()
        if not self._may_cut:
            told.warn_of_cuts(self.space)

    async def aclose(self) -> None:
        """Closes the connections made here, not an `http_client` that was passed."""
        await self._http.aclose()

    def sign_account(self, salt: bytes) -> bytes:
        """An HMAC of the key, by which workers know that they share its limits."""
        return self._credentials.sign(salt)

    async def _embed(self, texts: Sequence[str], input_type: str) -> Reply:
        body = encode_body({**self.payload(texts, input_type), **self._extra_body}, texts)
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
            if self._recorder is not None and (reply is not None or reader.size_bytes):
                await self._run_in_thread(self._recorder.note, texts, reply, reader, error)
            raise
        self._form.note_answered(
            numbers=parsed.floats,
            broken_before=broken_before,
            width=parsed.matrix.shape[1],
            doubles=parsed.doubles,
        )
        if parsed.floats and not self._form.is_proven:
            self._use_numbers()
        self._notices.pass_on(reply, self._secrets())
        return Reply(
            self._lengths.scale(parsed.matrix, parsed.squares, self.model),
            parsed.model,
            usage_in(reply, parsed.usage, self.service, counts_tokens=self._counts_tokens),
            self.hints(reply.headers) or parse_hints(reply.headers),
            request_id(reply, self._secrets()),
            server_seconds(reply),
            checked=True,
        )

    def _refusal(self, reply: HTTPReply, texts: Sequence[str]) -> ProviderError:
        """The error that a status means."""
        secrets, hints = self._secrets(), self.hints(reply.headers)
        own, tokens = self.error(reply.status, reply.headers, reply.body), self._estimate_tokens(texts)
        if isinstance(own, ProviderError):
            return with_origin(own, reply, secrets, own.hints or hints)
        error = error_for(reply, inputs=len(texts), tokens=tokens, secrets=secrets, hints=hints, error=own)
        name_address(error, self.service, self.base_url, self.path)
        return error

    async def _parse(self, reply: HTTPReply, reader: Reader, texts: Sequence[str]) -> Parsed:
        """The body of a 2xx reply. Raises InvalidReplyError, or the error that stands in it."""
        parse = partial(
            reader.parse,
            dimensions=self.space.dimensions or self._form.width,
            normalised=self._normalised,
            proven=self._form.is_proven,
        )
        try:
            in_thread = reader.is_whole and reader.size_bytes > INLINE_BYTES
            return await self._run_in_thread(parse) if in_thread else parse()
        except InvalidReplyError as error:
            invalid = explain(error, reply, dimensions=self.dimensions)
        reply, secrets = replace(reply, body=bytes(reader.whole_reply())), self._secrets()
        held = error_in(reply, inputs=len(texts), tokens=self._estimate_tokens(texts), secrets=secrets)
        raise held or with_origin(invalid, reply, secrets, self.hints(reply.headers))

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
