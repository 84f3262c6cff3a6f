"""`gemini:` speaks the Gemini API's own format, `POST /v1beta/models/MODEL:batchEmbedContents`.

Sources: google-genai 3.6.1 (fields, x-goog-api-key; where both variables are set it takes GOOGLE_API_KEY),
pydantic-ai-slim 2.68.0, recorded replies. google-genai 3.6.1 asks at /v1, earlier releases at /v1beta; all replies that
were recorded came from /v1beta, so that is asked here. Another one is named by base_url=. The API neither cuts nor
refuses by a field: what 001 does with more than 2,048 tokens nobody says, so texts are counted first. A wrong key is a
400; that, RetryInfo and quotas of a day are read in _verdicts.py and _complaints.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from aembed.core.batch_results import Pieces
from aembed.core.number_replies import Found, NumbersReader
from aembed.core.numbers import Numbers
from aembed.errors import InvalidReplyError, NotFoundError, ProviderError
from aembed.limits import Limits
from aembed.providers._batch_provider import BatchHTTPProvider
from aembed.providers._exchanges import Reader
from aembed.providers._gemini_batches import TERMS, GeminiBatchWire, GeminiLineReader
from aembed.providers._http import Upload
from aembed.providers._options import OPTIONS
from aembed.providers._prefixes import default_preparation
from aembed.providers._service import Service

__all__ = ["OPTIONS", "GeminiProvider", "open_provider"]

GEMINI = Service(
    name="gemini",
    base_url="https://generativelanguage.googleapis.com/v1beta",
    # At most 100 texts, and a body of at most 4,194,304 bytes. Computed: 900,000 tokens of 4 bytes, and 120 bytes
    # around each of 100 texts, leave 582,000 bytes for what JSON has to escape.
    limits=Limits(max_batch_size=100, max_tokens_per_batch=900_000, max_tokens_per_text=8_192),
    endpoint="",
    path="/v1beta",
    key_variable="GOOGLE_API_KEY",
    other_key_variables=("GEMINI_API_KEY",),
    key_header="x-goog-api-key",
    encodings={"float": {}},
    input_type_field="taskType",
    input_types=("RETRIEVAL_DOCUMENT", "RETRIEVAL_QUERY"),
    dimensions_field="outputDimensionality",
    batches=GeminiBatchWire(TERMS),
)


class _Embedding(msgspec.Struct):
    values: Numbers


class _Usage(msgspec.Struct):
    promptTokenCount: int | None = None


class _Reply(msgspec.Struct):
    embeddings: list[_Embedding]
    usageMetadata: _Usage | None = None


_REPLY = msgspec.json.Decoder(_Reply)


class GeminiProvider(BatchHTTPProvider):
    """One model of the Gemini API, with the keywords of HTTPProvider."""

    service = GEMINI

    @property
    def path(self) -> str:
        return f"/models/{quote(self.model, safe='')}:batchEmbedContents"

    def payload(self, texts: Sequence[str], input_type: str) -> Mapping[str, Any]:
        # Each text is a request of its own: several strings in one become one vector (gemini-embedding-2).
        fields = {"model": f"models/{self.model}", **self.fields(input_type)}
        return {"requests": [{**fields, "content": {"parts": [{"text": text}]}} for text in texts]}

    def reader(self, inputs: int) -> Reader:
        return NumbersReader(inputs, _REPLY, _find)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError | type[ProviderError] | None:
        """A file that is gone is a 403 there."""
        return NotFoundError if status == 403 and b"may not exist" in body else None

    def reader_of_line(self, line: Pieces, custom_id: str, inputs: int) -> Reader:
        return GeminiLineReader(line, custom_id)

    async def upload_batch_file(self, path: Path, key: str) -> str:
        """In two requests: the first one asks where the second one goes to."""
        base = urlsplit(self.base_url)
        with path.open("rb") as file:
            upload = Upload(file)
            asked = {
                "x-goog-upload-protocol": "resumable",
                "x-goog-upload-command": "start",
                "x-goog-upload-header-content-length": str(upload.size_bytes),
                "x-goog-upload-header-content-type": "application/jsonl",
            }
            named = msgspec.json.encode({"file": {"displayName": key, "mimeType": "application/jsonl"}})
            begun = await self.call("POST", f"{base.scheme}://{base.netloc}/upload{base.path}/files", named, asked)
            place = begun.headers.get("x-goog-upload-url", "")
            # The texts go to the server that was chosen, and to no other one.
            if urlsplit(place)[:2] != base[:2]:
                raise InvalidReplyError("the service did not say where a file is uploaded to")
            finish = {"x-goog-upload-command": "upload, finalize", "x-goog-upload-offset": "0"}
            sent = await self.call("POST", place, upload, finish)
        return self._read(sent, self._wire.file_id)


def _find(reply: _Reply) -> Found:
    usage = reply.usageMetadata
    return Found([each.values for each in reply.embeddings], tokens=usage.promptTokenCount if usage else None)


def open_provider(prefix: str, model: str, **options: Any) -> GeminiProvider:
    """What has known prefixes (gemini-embedding-2) takes no task type, which is said by the prefix."""
    service = replace(GEMINI, input_types=("", "")) if default_preparation(model) else GEMINI
    return GeminiProvider(model.removeprefix("models/"), service=service, **options)
