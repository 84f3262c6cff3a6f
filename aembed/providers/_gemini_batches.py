"""The batch API of Gemini: one text a line, operations in the place of batches, uploads in two steps.

google-genai 3.6.1, batches.py, files.py and _api_client.py; ai.google.dev/gemini-api/docs/batch-api. The file of
responses has the errors, too, each beside the key of its line. Requests that stand in the batch itself (20 MB) are not
made: the uploaded file is what a batch that was lost is known by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

import msgspec

from aembed.batch_protocols import BatchFault, BatchState, BatchTerms
from aembed.core.batch_results import Pieces
from aembed.core.number_replies import Found, NumbersReader
from aembed.core.numbers import Numbers
from aembed.core.replies import decode_reply
from aembed.errors import InvalidReplyError
from aembed.providers._batch_wires import DAY, PAGE, BatchWire
from aembed.providers._batch_words import count_of, moment_of, status_of, text_of

# ai.google.dev/gemini-api/docs/batch-api: half the price, 24 hours as a rule and 48 at the most, files of 2 GB. Chosen:
# 50,000 texts a file, whose vectors of 3,072 numbers are some 3 GB.
TERMS = BatchTerms(
    max_texts_per_line=1,
    max_tokens_per_line=8_192,
    max_texts_per_file=50_000,
    max_lines_per_file=50_000,
    max_bytes_per_file=2_000_000_000,
    price_factor=0.5,
    window_seconds=2 * DAY,
)


class _Output(msgspec.Struct):
    responsesFile: str | None = None


class _Input(msgspec.Struct):
    fileName: str | None = None
    file_name: str | None = None


class _Stats(msgspec.Struct):
    requestCount: Any = 0
    successfulRequestCount: Any = 0
    failedRequestCount: Any = 0


class _Metadata(msgspec.Struct):
    state: str = ""
    displayName: str | None = None
    createTime: Any = None
    inputConfig: _Input | None = None
    output: _Output | None = None
    batchStats: _Stats | None = None


class _Error(msgspec.Struct):
    code: int | None = None
    message: str = ""


class _Operation(msgspec.Struct):
    name: str
    metadata: _Metadata
    error: _Error | None = None


class _Operations(msgspec.Struct):
    operations: list[msgspec.Raw] = []
    nextPageToken: str = ""


class _File(msgspec.Struct):
    name: str


class _Uploaded(msgspec.Struct):
    file: _File


class _Embedding(msgspec.Struct):
    values: Numbers


class _Response(msgspec.Struct):
    embedding: _Embedding
    tokenCount: int | str | None = None


class _Line(msgspec.Struct):
    key: str
    response: _Response


_OPERATION = msgspec.json.Decoder(_Operation)
_OPERATIONS = msgspec.json.Decoder(_Operations)
_UPLOADED = msgspec.json.Decoder(_Uploaded)
_LINE = msgspec.json.Decoder(_Line)


class GeminiBatchWire(BatchWire):
    """Ids are resource names: `files/abc`, `batches/abc`. Our key is the display name."""

    __slots__ = ()
    tells_cancelled: ClassVar[bool] = False

    def line(self, custom_id: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        (request,) = body["requests"]
        return {"key": custom_id, "request": request}

    def creation_path(self, model: str) -> str:
        return f"/models/{quote(model, safe='')}:asyncBatchEmbedContent"

    def creation(self, file_id: str, key: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"batch": {"displayName": key, "inputConfig": {"file_name": file_id}}}

    def batch(self, id: str) -> str:
        return f"/batches/{_last_of(id)}"

    def cancellation(self, id: str) -> str:
        return f"{self.batch(id)}:cancel"

    def file(self, id: str) -> str:
        return f"/files/{_last_of(id)}"

    def content(self, id: str) -> str:
        return f"{self.file(id)}:download?alt=media"

    def page(self, after: str | None) -> str:
        return f"/batches?{urlencode({'pageSize': PAGE, **({'pageToken': after} if after else {})})}"

    def file_id(self, body: bytes) -> str:
        return decode_reply(_UPLOADED, body).file.name

    def states(self, body: bytes, after: str | None) -> tuple[list[BatchState], str | None]:
        page = decode_reply(_OPERATIONS, body)
        return [self.state(bytes(each)) for each in page.operations], page.nextPageToken or None

    def state(self, body: bytes) -> BatchState:
        found = decode_reply(_OPERATION, body)
        told = found.metadata
        given, stats = told.inputConfig or _Input(), told.batchStats or _Stats()
        created = moment_of(told.createTime) or 0.0
        output = text_of(told.output.responsesFile) if told.output else None
        return BatchState(
            found.name,
            status_of(told.state.upper().partition("_STATE_")[2], has_results=bool(output)),
            key=told.displayName,
            input_file=given.fileName or given.file_name,
            output_file=output,
            created_at=created,
            expires_at=created + self.terms.window_seconds if created else None,
            total=count_of(stats.requestCount),
            completed=count_of(stats.successfulRequestCount),
            failed=count_of(stats.failedRequestCount),
            faults=(BatchFault(str(found.error.code or ""), found.error.message),) if found.error else (),
        )


class GeminiLineReader(NumbersReader[_Line]):
    """Reads the one vector of a line of responses whose key is known."""

    def __init__(self, line: Pieces, key: str) -> None:
        super().__init__(1, _LINE, self._find_vector)
        self._key = key
        for piece in line:
            self.feed(piece)

    def _find_vector(self, line: _Line) -> Found:
        # Law 3: the line was found by these words before it was parsed.
        if line.key != self._key:
            raise InvalidReplyError("the reply is not that of its line")
        count = line.response.tokenCount
        return Found([line.response.embedding.values], tokens=int(count) if count is not None else None)


def _last_of(name: str) -> str:
    return quote(name.rpartition("/")[2], safe="")
