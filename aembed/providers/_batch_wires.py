"""The batch APIs of services that speak of files and batches, as data: where they are, what goes out, what it means.

A file has one request a line; a batch is made of the file; its results are files, too. Without any change a BatchWire
is OpenAI's. Nothing here awaits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

import msgspec

from aembed.batch_protocols import BatchState, BatchTerms
from aembed.core.replies import decode_reply
from aembed.errors import InvalidReplyError
from aembed.providers._batch_words import count_of, faults_of, field_of, moment_of, status_of, text_of

KEY = "aembed_key"
"""The name of our key in a batch's metadata."""
PAGE = 100
"""So many batches of a list at a time, the most that OpenAI gives."""
DAY = 86_400.0


class _Batch(msgspec.Struct):
    """What its fields are of is a service's own affair (_batch_words.py)."""

    id: str
    status: Any
    input_file_id: Any = None
    output_file_id: Any = None
    error_file_id: Any = None
    created_at: Any = None
    expires_at: Any = None
    request_counts: Any = None
    usage: Any = None
    errors: Any = None
    metadata: Any = None


class _Page(msgspec.Struct):
    data: list[msgspec.Raw]
    has_more: bool = False
    last_id: str | None = None


class _File(msgspec.Struct):
    id: str


_BATCH = msgspec.json.Decoder(_Batch)
_PAGE = msgspec.json.Decoder(_Page)
_FILE = msgspec.json.Decoder(_File)


@dataclass(frozen=True, slots=True)
class BatchWire:
    """`window` is how the service calls the time that it allows itself. `file_seconds`: an uploaded file is asked to be
    deleted after that time, should nobody come to do it; None where the service has no field for that."""

    terms: BatchTerms
    window: str = "24h"
    file_seconds: int | None = None

    files: ClassVar[str] = "/files"
    batches: ClassVar[str] = "/batches"
    endpoint: ClassVar[str] = "/v1/embeddings"
    tells_cancelled: ClassVar[bool] = True
    """The answer to a cancellation is the batch."""

    def line(self, custom_id: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """One line of the file. `body` is that of a live request."""
        return {"custom_id": custom_id, "method": "POST", "url": self.endpoint, "body": body}

    @property
    def form(self) -> Mapping[str, str]:
        """The fields beside an uploaded file."""
        if self.file_seconds is None:
            return {"purpose": "batch"}
        after = {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(self.file_seconds)}
        return {"purpose": "batch", **after}

    def creation(self, file_id: str, key: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """What makes a batch. `body` is that of a live request without its texts."""
        return {
            "input_file_id": file_id,
            "endpoint": self.endpoint,
            "completion_window": self.window,
            "metadata": {KEY: key},
        }

    def creation_path(self, model: str) -> str:
        """Where that is posted to."""
        return self.batches

    def batch(self, id: str) -> str:
        return f"{self.batches}/{quote(id, safe='')}"

    def cancellation(self, id: str) -> str:
        return f"{self.batch(id)}/cancel"

    def file(self, id: str) -> str:
        return f"{self.files}/{quote(id, safe='')}"

    def content(self, id: str) -> str:
        return f"{self.file(id)}/content"

    def page(self, after: str | None) -> str:
        """One page of the list, the youngest first; None is the first one."""
        return f"{self.batches}?{urlencode({'limit': PAGE, **({'after': after} if after else {})})}"

    # what the service says; all of these raise InvalidReplyError

    def file_id(self, body: bytes) -> str:
        return decode_reply(_FILE, body).id

    def states(self, body: bytes, after: str | None) -> tuple[list[BatchState], str | None]:
        """Those of the page that `after` named, and what names the next one; None where there is none."""
        page = decode_reply(_PAGE, body)
        found = self._readable_states(page.data)
        return found, (page.last_id or found[-1].id) if page.has_more and found else None

    def _readable_states(self, listed: Sequence[msgspec.Raw]) -> list[BatchState]:
        """Other programs may have batches that are of another kind; one that names our key has to be read."""
        found = list[BatchState]()
        for each in map(bytes, listed):
            try:
                found.append(self.state(each))
            except InvalidReplyError:
                if KEY.encode() in each:
                    raise
        return found

    def state(self, body: bytes) -> BatchState:
        found = decode_reply(_BATCH, body)
        output, errors = text_of(found.output_file_id), text_of(found.error_file_id)
        created, counts = moment_of(found.created_at), found.request_counts
        return BatchState(
            found.id,
            status_of(found.status, has_results=bool(output)),
            key=key_in(found.metadata),
            input_file=text_of(found.input_file_id),
            output_file=output,
            error_file=errors,
            created_at=created or 0.0,
            expires_at=moment_of(found.expires_at) or (created + self.terms.window_seconds if created else None),
            total=count_of(field_of(counts, "total")),
            completed=count_of(field_of(counts, "completed")),
            failed=count_of(field_of(counts, "failed")),
            tokens=count_of(field_of(found.usage, "total_tokens")) or None,
            faults=faults_of(found.errors),
        )


def key_in(metadata: Any) -> str | None:
    key = field_of(metadata, KEY)
    return key if isinstance(key, str) else None


class VoyageBatchWire(BatchWire):
    """Its lines hold the texts alone; all else is said once for the batch."""

    __slots__ = ()

    def line(self, custom_id: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"custom_id": custom_id, "body": {"input": body["input"]}}

    def creation(self, file_id: str, key: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        parameters = {name: value for name, value in body.items() if name != "input"}
        return {**super().creation(file_id, key, body), "request_params": parameters}


class _MistralJob(msgspec.Struct):
    id: str
    status: Any
    input_files: Any = None
    output_file: Any = None
    error_file: Any = None
    created_at: Any = None
    total_requests: Any = 0
    succeeded_requests: Any = 0
    failed_requests: Any = 0
    errors: Any = None
    metadata: Any = None


class _MistralJobs(msgspec.Struct):
    data: list[msgspec.Raw] | None = None


_JOB = msgspec.json.Decoder(_MistralJob)
_JOBS = msgspec.json.Decoder(_MistralJobs)


class MistralBatchWire(BatchWire):
    """Jobs of one model each. mistralai 3.7.0, jobs.py and models/batchjob.py."""

    __slots__ = ()
    batches: ClassVar[str] = "/batch/jobs"

    def line(self, custom_id: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"custom_id": custom_id, "body": {name: value for name, value in body.items() if name != "model"}}

    def creation(self, file_id: str, key: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return {
            "input_files": [file_id],
            "endpoint": self.endpoint,
            "model": body["model"],
            "metadata": {KEY: key},
            "timeout_hours": int(self.terms.window_seconds // 3_600),
        }

    def page(self, after: str | None) -> str:
        return f"{self.batches}?{urlencode({'page': after or 0, 'page_size': PAGE, 'order_by': '-created'})}"

    def states(self, body: bytes, after: str | None) -> tuple[list[BatchState], str | None]:
        listed = decode_reply(_JOBS, body).data or []
        return self._readable_states(listed), str(int(after or 0) + 1) if len(listed) == PAGE else None

    def state(self, body: bytes) -> BatchState:
        found = decode_reply(_JOB, body)
        output, errors = text_of(found.output_file), text_of(found.error_file)
        created = moment_of(found.created_at)
        return BatchState(
            found.id,
            status_of(found.status, has_results=bool(output or errors)),
            key=key_in(found.metadata),
            input_file=text_of(found.input_files),
            output_file=output,
            error_file=errors,
            created_at=created or 0.0,
            expires_at=created + self.terms.window_seconds if created else None,
            total=count_of(found.total_requests),
            completed=count_of(found.succeeded_requests),
            failed=count_of(found.failed_requests),
            faults=faults_of(found.errors),
        )
