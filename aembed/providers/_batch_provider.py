"""A provider over HTTP whose service may have a batch API: files with a request a line, and batches of them.

    lines -> upload -> create -> get, until it is over -> results, a line at a time -> delete

Each method is one request, with the key, headers, proxies, errors and records of live ones. What is said on the wire
stands in _batch_wires.py; what a line of results says is read in _batch_lines.py.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

from aembed.batch_protocols import BatchLine, BatchState, BatchTerms, QueueFullError
from aembed.core.batch_results import Inflater, LineSplitter, Pieces, is_whole
from aembed.errors import (
    AuthenticationError,
    BadRequestError,
    InvalidReplyError,
    NotFoundError,
    ProviderError,
    QuotaExceededError,
    RateLimitError,
    UnavailableError,
)
from aembed.preparation import Preparation
from aembed.providers._batch_lines import ReadsResults
from aembed.providers._batch_wires import BatchWire
from aembed.providers._errors import error_for, error_in, with_origin
from aembed.providers._exchanges import encode_body, explain
from aembed.providers._http import HTTPReply, Incoming, Upload, most_reply_bytes, multipart
from aembed.providers._options import Headers

T = TypeVar("T")

# Chosen: as long as a live request may take by default.
CALL_SECONDS = 60.0
"""How long a service may take to answer a question about a batch, or to send the next bytes of a file."""
# Chosen: a slow line at home uploads more than that.
SLOWEST_BYTES = 100_000
"""A file goes out with at least so many bytes a second."""
# Computed: a page of 100 batches has some 150 KB.
MOST_CALL_BYTES = 4_000_000
# Computed: 100,000 vectors of 4,096 numbers, each of 25 bytes.
MOST_FILE_BYTES = 12_000_000_000
MOST_REDIRECTS = 3
"""A download may be sent to another place so many times."""
_QUEUE_IS_FULL = re.compile(r"token_limit_exceeded|enqueued token limit", re.IGNORECASE)


class BatchHTTPProvider(ReadsResults):
    """`service.batches` says what its batch API is, where there is one."""

    @property
    def batch_terms(self) -> BatchTerms | None:
        """None where this service has no batches of embeddings."""
        wire = self.service.batches
        if wire is None:
            return None
        most = min(wire.terms.max_tokens_per_line, self.limits.max_tokens_per_batch)
        return replace(wire.terms, max_tokens_per_line=most)

    def batch_line(self, custom_id: str, texts: Sequence[str], *, preparation: Preparation) -> bytes:
        """One line of the file. Raises BadRequestError for a text that UTF-8 cannot carry."""
        body = {**self.payload(texts, preparation.document_type), **self._extra_body}
        return encode_body(self._wire.line(custom_id, body), texts) + b"\n"

    async def upload_batch_file(self, path: Path, key: str) -> str:
        with path.open("rb") as file:
            content_type, upload = multipart(
                self._wire.form, file, f"aembed-{re.sub(r'[^0-9A-Za-z_-]', '_', key)}.jsonl"
            )
            reply = await self.call("POST", self._wire.files, upload, {"content-type": content_type})
        return self._read(reply, self._wire.file_id)

    async def create_batch(self, file_id: str, key: str, *, preparation: Preparation) -> BatchState:
        """Raises QueueFullError where the queue of tokens is full."""
        body = {**self.payload((), preparation.document_type), **self._extra_body}
        created = encode_body(self._wire.creation(file_id, key, body), ())
        try:
            reply = await self.call("POST", self._wire.creation_path(self.model), created)
        except (BadRequestError, QuotaExceededError, RateLimitError) as error:
            if not _QUEUE_IS_FULL.search(f"{error} {error.body}"):
                raise
            full = QueueFullError(str(error), status_code=error.status_code, request_id=error.request_id)
            raise full from None
        return self._read(reply, self._wire.state)

    async def list_batches(self) -> AsyncIterator[BatchState]:
        after, seen = None, set[str]()
        while True:
            reply = await self.call("GET", self._wire.page(after))
            states, after = self._read(reply, partial(self._wire.states, after=after))
            new = [state for state in states if state.id not in seen]
            for state in new:
                yield state
            seen.update(state.id for state in new)
            # A service that knows no pages would give the first one for ever.
            if after is None or not new:
                return

    async def get_batch(self, id: str) -> BatchState:
        return self._read(await self.call("GET", self._wire.batch(id)), self._wire.state)

    async def cancel_batch(self, id: str) -> BatchState:
        """One that is over already is no error."""
        try:
            reply = await self.call("POST", self._wire.cancellation(id))
            return self._read(reply, self._wire.state) if self._wire.tells_cancelled else await self.get_batch(id)
        except (BadRequestError, UnavailableError) as error:
            if error.status_code in range(400, 500) and (state := await self.get_batch(id)).is_over:
                return state
            raise

    async def delete_batch_file(self, file_id: str) -> None:
        """Raises NotFoundError where the service knows no such request."""
        try:
            await self.call("DELETE", self._wire.file(file_id))
        except NotFoundError as error:
            if error.status_code in (405, 501):
                raise

    async def batch_results(self, state: BatchState, inputs: Mapping[str, int]) -> AsyncGenerator[BatchLine]:
        for file in (state.output_file, state.error_file):
            if file is not None:
                async with aclosing(self._lines(self._wire.content(file))) as lines:
                    async for line in lines:
                        yield await self.understand(line, inputs)

    @property
    def _wire(self) -> BatchWire:
        wire = self.service.batches
        if wire is None:
            raise NotFoundError(f"{self.service.name} has no batches of embeddings")
        return wire

    # one request

    async def call(
        self, method: str, path: str, content: bytes | Upload = b"", headers: Headers | None = None
    ) -> HTTPReply:
        """The reply where that is no error. `path` is seen from the base URL, or is a URL.

        A token that is refused has done nothing: the callable that gave it is asked for another one, once.
        """
        try:
            return await self._ask(method, path, content, headers)
        except AuthenticationError as error:
            if not error.at_once:
                raise
        return await self._ask(method, path, content, headers)

    async def _ask(self, method: str, path: str, content: bytes | Upload, headers: Headers | None) -> HTTPReply:
        url = path if "://" in path else f"{self.base_url}{path}"
        asked = {**self._headers, **await self._credentials.headers(), **(headers or {})}
        # What follows may be all that it takes to upload a file there.
        what = f"{method} {path.partition('?')[0]}"
        seconds = CALL_SECONDS + (content.size_bytes / SLOWEST_BYTES if isinstance(content, Upload) else 0.0)
        try:
            async with asyncio.timeout(seconds):
                match method:
                    case "POST":
                        reply = await self._http.post(url, asked, content, most_bytes=MOST_CALL_BYTES)
                    case "DELETE":
                        reply = await self._http.delete(url, asked, most_bytes=MOST_CALL_BYTES)
                    case _:
                        reply = await self._http.get(url, asked, most_bytes=MOST_CALL_BYTES)
        except TimeoutError:
            raise UnavailableError(f"{self.service.name} did not answer within {seconds:g} s ({what})") from None
        if 200 <= reply.status < 300:
            return reply
        raise await self._judge(reply, what, is_upload=isinstance(content, Upload))

    async def _judge(self, reply: HTTPReply, what: str, *, is_upload: bool = False) -> ProviderError:
        """The error that a refusal means. What it says of an upload may quote texts: it is not recorded."""
        own, secrets = self.error(reply.status, reply.headers, reply.body), self._secrets()
        if isinstance(own, ProviderError):
            error = with_origin(own, reply, secrets, own.hints or self.hints(reply.headers))
        else:
            error = error_for(reply, inputs=1, secrets=secrets, hints=self.hints(reply.headers), error=own)
        if isinstance(error, NotFoundError):
            error.args = (f"{error} ({what})",)
        if isinstance(error, AuthenticationError):
            error.at_once |= self._credentials.note_refused(self._credentials.key)
        if self._recorder is not None and not is_upload:
            await self._run_in_thread(self._recorder.write, (), reply.status, reply.headers, reply.body, error)
        return error

    def _read(self, reply: HTTPReply, read: Callable[[bytes], T]) -> T:
        """Raises InvalidReplyError, or the error that stands in a 200."""
        try:
            return read(reply.body)
        except InvalidReplyError as error:
            held = error_in(reply, inputs=1, secrets=self._secrets())
            raise held or with_origin(explain(error, reply, dimensions=None), reply, self._secrets()) from None

    async def _lines(self, path: str) -> AsyncGenerator[Pieces]:
        """Those of a file of results. Raises UnavailableError where the file is cut off, after its whole lines."""
        lines = LineSplitter(most_reply_bytes(self._wire.terms.max_texts_per_line, self.space.dimensions))
        async with AsyncExitStack() as stack:
            incoming = await self._open_file(path, stack)
            inflater: Inflater | None = None
            while data := await _in_time(incoming.read()):
                if inflater is None:
                    inflater = Inflater(data)
                for piece in inflater.feed(data):
                    for line in lines.feed(piece):
                        yield line
        if inflater and inflater.is_cut_off:
            raise UnavailableError("a compressed file of results was cut off")
        if last := lines.rest():
            # A file may end without the end of a line; one that was cut ends within it. What begins no line is none.
            if last[0].lstrip().startswith(b"{") and not await self._run_in_thread(is_whole, b"".join(last)):
                raise UnavailableError("a file of results ends within a line: it was cut off")
            yield last

    async def _open_file(self, path: str, stack: AsyncExitStack) -> Incoming:
        """Some services keep files elsewhere and say where: no key goes there, and no header of the user's."""
        url = f"{self.base_url}{path}"
        headers: Headers = {**self._headers, **await self._credentials.headers(), "accept": "*/*"}
        for _ in range(MOST_REDIRECTS + 1):
            download = self._http.download(url, headers, most_bytes=MOST_FILE_BYTES)
            reply = await _in_time(stack.enter_async_context(download))
            if not isinstance(reply, HTTPReply):
                return reply
            place = _place_in(reply, url)
            if place is None:
                raise await self._judge(reply, f"GET {path}")
            url, headers = place, headers if urlsplit(place)[:2] == urlsplit(url)[:2] else {"accept": "*/*"}
        raise UnavailableError(f"{self.service.name} sends a download from one place to another, again and again")


def _place_in(reply: HTTPReply, url: str) -> str | None:
    """Where the file is instead. Nothing that was encrypted goes on without it."""
    if reply.status not in (301, 302, 303, 307, 308) or not (location := reply.headers.get("location")):
        return None
    place = urljoin(url, location)
    schemes = {"https"} if url.startswith("https:") else {"https", "http"}
    return place if urlsplit(place).scheme in schemes else None


async def _in_time(coming: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(CALL_SECONDS):
            return await coming
    except TimeoutError:
        raise UnavailableError(f"nothing more came of a file of results for {CALL_SECONDS:g} s") from None
