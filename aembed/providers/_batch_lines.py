"""What a line of results says: a reply, which is checked like a live one; a refusal; or that the line never ran."""

from __future__ import annotations

import re
from collections.abc import Mapping

from aembed.batch_protocols import BatchLine
from aembed.core.batch_results import (
    Envelope,
    LineReader,
    Pieces,
    find_custom_id,
    holds_vectors,
    own_id,
    read_envelope,
)
from aembed.errors import InvalidReplyError, ProviderError, UnavailableError
from aembed.providers._errors import error_for, error_in, with_origin
from aembed.providers._exchanges import Reader
from aembed.providers._http import HTTPReply
from aembed.providers._provider import INLINE_BYTES, HTTPProvider
from aembed.types import Reply, Usage

# Chosen: to read so much takes a ms, which is no reason for a thread.
_INLINE_BYTES = INLINE_BYTES // 8


_UNRUN = re.compile(rb"batch_(expired|cancell?ed)\b", re.IGNORECASE)


class ReadsResults(HTTPProvider):
    """Lines are read by the same decoder as the service's live replies, with the same settings."""

    async def understand(self, pieces: Pieces, inputs: Mapping[str, int]) -> BatchLine:
        """`inputs` says how many texts each line holds, by its custom id."""
        if sum(map(len, pieces)) <= _INLINE_BYTES:
            line = self._read_line(pieces, inputs)
        else:
            line = await self._run_in_thread(self._read_line, pieces, inputs)
        if line.reply is not None:
            # All vectors of one model are of one width, where nothing else has told it.
            self._form.width = line.reply.matrix.shape[1]
        return line

    def reader_of_line(self, line: Pieces, custom_id: str, inputs: int) -> Reader:
        """What reads the reply in a line whose vectors stand where they are expected."""
        return LineReader(inputs, line, custom_id)

    def _read_line(self, pieces: Pieces, inputs: Mapping[str, int]) -> BatchLine:
        custom_id = own_id(find_custom_id(pieces), inputs)
        quick: BatchLine | None = None
        if custom_id is not None and holds_vectors(pieces):
            quick = self._read_vectors(self.reader_of_line(pieces, custom_id, inputs[custom_id]), custom_id)
            if quick.reply:
                return quick
        line = b"".join(pieces)
        try:
            found = read_envelope(line)
        except InvalidReplyError as error:
            return quick or BatchLine(None, error=self._with_line(error, line))
        custom_id = own_id(found.custom_id, inputs)
        if found.status is None:
            return quick or self._unanswered(found, custom_id or found.custom_id)
        if not 200 <= found.status < 300:
            return BatchLine(custom_id or found.custom_id, error=self._refused(found, inputs.get(custom_id or "", 1)))
        if custom_id is None:
            return BatchLine(found.custom_id, error=InvalidReplyError("the service answered a line that was not sent"))
        reader = self.reader(inputs[custom_id])
        reader.feed(found.body)
        read = self._read_vectors(reader, custom_id)
        return read if read.reply else quick or read

    def _unanswered(self, found: Envelope, custom_id: str | None) -> BatchLine:
        if unrun := _UNRUN.search(found.error):
            return BatchLine(custom_id, unrun="expired" if unrun[1].lower() == b"expired" else "cancelled")
        reply = HTTPReply(200, {}, b'{"error":%b}' % found.error)
        held = error_in(reply, inputs=1, secrets=self._secrets())
        neither = InvalidReplyError("the line holds neither a reply nor an error")
        return BatchLine(custom_id, error=held or neither)

    def _refused(self, found: Envelope, inputs: int) -> ProviderError:
        assert found.status is not None
        if found.status < 100:
            return UnavailableError(f"the service gave this line the status {found.status}, which is none")
        reply, own = HTTPReply(found.status, {}, found.body), self.error(found.status, {}, found.body)
        if isinstance(own, ProviderError):
            return with_origin(own, reply, self._secrets(), own.hints)
        return error_for(reply, inputs=inputs, secrets=self._secrets(), error=own)

    def _read_vectors(self, reader: Reader, custom_id: str) -> BatchLine:
        try:
            parsed = reader.parse(
                dimensions=self.space.dimensions or self._form.width,
                normalised=self._normalised,
                proven=self._form.is_proven,
            )
        except InvalidReplyError as error:
            line = bytes(reader.whole_reply())
            held = error_in(HTTPReply(200, {}, line), inputs=1, secrets=self._secrets())
            return BatchLine(custom_id, error=held or self._with_line(error, line))
        usage = parsed.usage if self._counts_tokens else Usage(None, parsed.usage.cost_usd)
        matrix = self._lengths.scale(parsed.matrix, parsed.squares, self.model)
        return BatchLine(custom_id, Reply(matrix, parsed.model, usage, checked=True))

    def _with_line(self, error: InvalidReplyError, line: bytes) -> ProviderError:
        return with_origin(error, HTTPReply(200, {}, line[:4096]), self._secrets())
