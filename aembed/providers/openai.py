"""`openai:`, `ollama:`, `tei:`, and every server that speaks OpenAI's `POST /embeddings` (base_url=).

Sources: the docstring of openai-python's embeddings resource (2,048 inputs and 300,000 tokens a request,
8,192 tokens an input, no empty string); the 300,000 are counted as UTF-8 bytes / 4 (recorded replies).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from math import isfinite
from os import PathLike
from typing import Any, TypeAlias

import anyio
import msgspec

from aembed.core.billing import utf8_bytes
from aembed.core.headers import parse_hints
from aembed.core.replies import CutShortError, Parsed, ReplyReader
from aembed.core.vectors import DimensionError
from aembed.errors import BadRequestError, InvalidReplyError, NotFoundError, ProviderError, UnavailableError
from aembed.providers._errors import error_for, error_in, redacted_line, request_id, with_origin
from aembed.providers._form import Encoding, Form, VectorLengths
from aembed.providers._http import HTTP, HTTPClient, HTTPReply, cut_short, most_reply_bytes
from aembed.providers._presets import PRESETS
from aembed.providers._recorder import recorder_of
from aembed.providers._secrets import Secret
from aembed.providers._server_answers import read_answers
from aembed.providers._settings import (
    ENDPOINT,
    base_url_of,
    check_choice,
    check_dimensions,
    check_encoding,
    check_flag,
    check_tokens,
    headers_of,
    is_own,
    key_of,
)
from aembed.providers._threads import run_in_thread
from aembed.types import InputType, Reply, Space, Usage

logger = logging.getLogger("aembed")

RunInThread: TypeAlias = Callable[..., Awaitable[Any]]

FLOATS_BATCH_SIZE = 256
"""Numbers in JSON hold the interpreter while they are parsed: 18 ms for 256 vectors of 1,536, 144 ms for 2,048."""
OPTIONS = {
    "allow_http": "true or false",
    "encoding": "base64, float or null",
    "max_tokens_per_text": "a whole number",
    "normalize": "true, false or null",
    "record": "the path of a folder",
}
"""What `open_provider` and the command's --option take for this format."""
# Chosen: a server in one's own network answers at once or not at all. Larger, the first job waits for one that hangs;
# smaller, one that is just starting is not understood.
ANSWER_SECONDS = 1.0
"""How long a server may take to say what its model is."""
# Chosen: a few sentences. What is longer is no advice, and a log is not the place for it.
MOST_WARNING = 500
INLINE_BYTES = 1_000_000
"""A reply of another kind up to this size is parsed within a few ms; a larger one in a thread (law 11)."""


class OpenAIProvider:
    """One model behind `POST {base_url}/embeddings`.

    `dimensions` shortens the vectors where the model can. `allow_http` sends key and texts unencrypted to a server that
    is not on this machine. `encoding` is "base64" or "float": which form of the vectors is asked for; None finds out
    what the server speaks. `max_tokens_per_text` is what its model takes, where that is less than is known here.
    `normalize` scales each vector to length 1; None keeps them, and tells once where they are of another length.
    `record` is a folder for replies that are refused or broken, without texts and keys; so is AEMBED_RECORD in the
    environment. Without `api_key` and `base_url` it reads OPENAI_API_KEY, OPENAI_BASE_URL, OPENAI_ORG_ID and
    OPENAI_PROJECT_ID, as the official SDK does; a key is needed at the provider's own address only. `http_client` is an
    httpx or httpx2 AsyncClient: used, never changed, never closed. Raises ConfigError before any I/O.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        dimensions: int | None = None,
        concurrency: int = 8,
        http_client: HTTPClient | None = None,
        allow_http: bool = False,
        encoding: Encoding | None = None,
        max_tokens_per_text: int | None = None,
        normalize: bool | None = None,
        record: str | PathLike[str] | None = None,
        preset: str = "openai",
        run_in_thread: RunInThread = run_in_thread,
    ) -> None:
        row = PRESETS[preset]
        known = row.model(model)
        self._asked = check_dimensions(model, known, dimensions)
        self._base_url = base_url_of(row, base_url, check_flag("allow_http", allow_http))
        own = self._base_url == row.base_url
        self._key = key_of(row, api_key, required=own)
        self._headers = headers_of(row, self._key)
        self._recorder = recorder_of(record, self._secrets)
        self._normalised = known.normalised
        self._form = Form(check_encoding(encoding), base64=row.base64)
        self._lengths = VectorLengths(check_choice("normalize", normalize), known=known.normalised)
        self._counts_tokens = row.counts_tokens
        self._asks = row.tells and dimensions is None and model not in row.models and is_own(self._base_url)
        self._warned = False
        self._http = HTTP(concurrency=concurrency, http_client=http_client)
        self._run_in_thread = run_in_thread
        self.space = Space(row.name, model, dimensions or known.dimensions, "" if own else self._base_url)
        limits = row.limits_of(known, check_tokens(max_tokens_per_text))
        self.limits = replace(limits, estimated=not (own and row.counts_are_known))
        if self._form.numbers:
            self._use_numbers()
        self.price_usd = known.price_usd

    def __repr__(self) -> str:
        return f"<OpenAIProvider {self.space}>"

    embeds_alike = True

    async def embed(self, texts: Sequence[str], *, input_type: InputType) -> Reply:
        """One request. Where the server turns out not to speak base64 it fails and may be sent again `at_once`.

        `input_type` is not sent: these models embed documents and queries alike.
        """
        numbers = self._form.is_asking_numbers
        try:
            return await self._embed(texts, numbers=numbers)
        except ProviderError as error:
            error.at_once |= self._form.note_failure(error, numbers=numbers)
            raise

    async def learn(self) -> None:
        """Asks a server of one's own what its model is, once, where neither an option nor a row says it."""
        if not self._asks:
            return
        body = b""
        try:
            with anyio.move_on_after(ANSWER_SECONDS):
                body = (await self._http.get(f"{self._base_url}/models", self._headers, most_bytes=INLINE_BYTES)).body
        except UnavailableError:
            return  # it is asked before the next job
        except ProviderError:
            pass
        self._asks = False
        told = read_answers(body, self.space.model)
        self._counts_tokens &= told.counts_tokens
        self.space = replace(self.space, dimensions=self.space.dimensions or told.dimensions)
        most = min(told.max_tokens_per_text or self.limits.max_tokens_per_text, self.limits.max_tokens_per_text)
        self.limits = replace(self.limits, max_tokens_per_text=most)

    async def aclose(self) -> None:
        """Closes the connections made here, not an `http_client` that was passed."""
        await self._http.aclose()

    def payload(self, texts: Sequence[str], *, numbers: bool = False) -> bytes:
        """The body of a request. Without `encoding_format` every server answers numbers."""
        fields: dict[str, Any] = {"model": self.space.model, "input": texts}
        if not numbers:
            fields["encoding_format"] = "base64"
        if self._asked is not None:
            fields["dimensions"] = self._asked
        return msgspec.json.encode(fields)

    async def _embed(self, texts: Sequence[str], *, numbers: bool) -> Reply:
        reader, broken_before = ReplyReader(len(texts)), self._form.broken_numbers
        reply = None
        try:
            reply = await self._http.post(
                f"{self._base_url}{ENDPOINT}",
                self._headers,
                self._encode_payload(texts, numbers=numbers),
                most_bytes=most_reply_bytes(len(texts), self.space.dimensions),
                take=reader.feed,
            )
            if not 200 <= reply.status < 300:
                raise self._with_address(
                    error_for(reply, inputs=len(texts), tokens=self._estimate_tokens(texts), key=self._key)
                )
            parsed = await self._parse(reply, reader, texts)
        except ProviderError as error:
            await self._record(texts, reply, reader, error)
            raise
        self._form.note_answered(numbers=parsed.floats, broken_before=broken_before)
        if parsed.floats:
            self._use_numbers()
        self._pass_on(reply)
        return Reply(
            self._lengths.scale(parsed.matrix, parsed.squares, self.space.model),
            parsed.model,
            parsed.usage if self._counts_tokens else Usage(None, parsed.usage.cost_usd),
            parse_hints(reply.headers),
            request_id(reply, self._key),
            _server_seconds(reply),
            checked=True,
        )

    def _pass_on(self, reply: HTTPReply) -> None:
        """What the provider wants its user to know (Voyage: that an account has a small limit), once."""
        if (said := reply.headers.get("x-api-warning")) and not self._warned:
            self._warned = True
            logger.warning("%s says: %s", self.space.provider, redacted_line(said, self._key)[:MOST_WARNING])

    def _with_address(self, error: ProviderError) -> ProviderError:
        """Where nothing is at that address it is named; it holds no key (check_base_url)."""
        if error.status_code in (404, 405) and isinstance(error, NotFoundError) and "model" not in str(error).lower():
            usual = "" if self._base_url.endswith("/v1") else f"; should base_url be {self._base_url}/v1?"
            error.args = (f"{error} (POST {self._base_url}{ENDPOINT}{usual})",)
        return error

    async def _record(
        self, texts: Sequence[str], reply: HTTPReply | None, reader: ReplyReader, error: ProviderError
    ) -> None:
        """Of a reply that broke off there is what had come; where nothing had, there is nothing to record."""
        if self._recorder is None or (reply is None and not reader.size_bytes):
            return
        status, headers = (reply.status, reply.headers) if reply else (None, {})
        body = reply.body if reply and reply.body else bytes(reader.whole_reply())
        await self._run_in_thread(self._recorder.write, texts, status, headers, body, error)

    def _secrets(self) -> list[Secret]:
        """The key as it is, and what else goes out in headers."""
        others = [value for value in self._headers.values() if isinstance(value, Secret)]
        return [*([self._key] if self._key else []), *others]

    def _encode_payload(self, texts: Sequence[str], *, numbers: bool) -> bytes:
        """A lone surrogate has no UTF-8. Python's error would carry the text."""
        try:
            return self.payload(texts, numbers=numbers)
        except UnicodeEncodeError:
            error = BadRequestError("a text holds a lone surrogate, which UTF-8 cannot carry")
        error.offender = next(i for i, text in enumerate(texts) if any("\ud800" <= c <= "\udfff" for c in text))
        raise error

    def _estimate_tokens(self, texts: Sequence[str]) -> float:
        """Tokens, as limits are counted."""
        return sum(map(utf8_bytes, texts)) / self.limits.bytes_per_token

    async def _parse(self, reply: HTTPReply, reader: ReplyReader, texts: Sequence[str]) -> Parsed:
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
            if self._asked is not None:
                error.args = (f"{error}; where a server ignores dimensions=, leave that out",)
            invalid = error
        except InvalidReplyError as error:
            invalid = error
        reply = replace(reply, body=bytes(reader.whole_reply()))
        held = error_in(reply, inputs=len(texts), tokens=self._estimate_tokens(texts), key=self._key)
        raise held or with_origin(invalid, reply, self._key)

    def _use_numbers(self) -> None:
        if self.limits.max_batch_size > FLOATS_BATCH_SIZE:
            self.limits = replace(self.limits, max_batch_size=FLOATS_BATCH_SIZE)


def open_provider(prefix: str, model: str, **options: Any) -> OpenAIProvider:
    return OpenAIProvider(model, preset=prefix, **options)


def _server_seconds(reply: HTTPReply) -> float | None:
    try:
        milliseconds = float(reply.headers.get("openai-processing-ms", ""))
    except ValueError:
        return None
    return milliseconds / 1000 if isfinite(milliseconds) and milliseconds >= 0 else None
