"""The batch APIs of services that speak of files and batches, as data: where they are, what goes out, what it means.

A file has one request a line; a batch is made of the file; its results are files, too. Without any change a BatchWire
is OpenAI's. Nothing here awaits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, get_args
from urllib.parse import quote, urlencode

import msgspec

from aembed.batch_protocols import BatchFault, BatchState, BatchStatus, BatchTerms
from aembed.core.replies import decode_reply

KEY = "aembed_key"
"""The name of our key in a batch's metadata."""
PAGE = 100
"""So many batches of a list at a time, the most that OpenAI gives."""
DAY = 86_400.0


class _Fault(msgspec.Struct):
    code: str | None = None
    message: str | None = None
    line: int | None = None


class _Faults(msgspec.Struct):
    data: list[_Fault] = []


class _Counts(msgspec.Struct):
    total: int = 0
    completed: int = 0
    failed: int = 0


class _Usage(msgspec.Struct):
    total_tokens: int | None = None


class _Batch(msgspec.Struct):
    id: str
    status: str
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: float | None = None
    expires_at: float | None = None
    request_counts: _Counts | None = None
    usage: _Usage | None = None
    errors: _Faults | None = None
    metadata: dict[str, Any] | None = None


class _Page(msgspec.Struct):
    data: list[msgspec.Raw]
    has_more: bool = False
    last_id: str | None = None


class _File(msgspec.Struct):
    id: str


_BATCH = msgspec.json.Decoder(_Batch)
_PAGE = msgspec.json.Decoder(_Page)
_FILE = msgspec.json.Decoder(_File)
_STATUSES: Mapping[str, BatchStatus] = {status: status for status in get_args(BatchStatus)}


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
        found = [self.state(bytes(each)) for each in page.data]
        return found, (page.last_id or found[-1].id) if page.has_more and found else None

    def state(self, body: bytes) -> BatchState:
        found = decode_reply(_BATCH, body)
        counts, faults = found.request_counts or _Counts(), found.errors.data if found.errors else []
        return BatchState(
            found.id,
            # A word that nobody knows yet is no end of a batch: it is looked at again.
            _STATUSES.get(found.status.lower(), "in_progress"),
            key=key_in(found.metadata),
            input_file=found.input_file_id,
            output_file=found.output_file_id,
            error_file=found.error_file_id,
            created_at=found.created_at or 0.0,
            expires_at=found.expires_at,
            total=counts.total,
            completed=counts.completed,
            failed=counts.failed,
            tokens=(found.usage.total_tokens or None) if found.usage else None,
            faults=tuple(BatchFault(each.code or "", each.message or "", each.line) for each in faults),
        )


def key_in(metadata: Mapping[str, Any] | None) -> str | None:
    key = (metadata or {}).get(KEY)
    return key if isinstance(key, str) else None


class VoyageBatchWire(BatchWire):
    """Its lines hold the texts alone; all else is said once for the batch."""

    __slots__ = ()

    def line(self, custom_id: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"custom_id": custom_id, "body": {"input": body["input"]}}

    def creation(self, file_id: str, key: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        parameters = {name: value for name, value in body.items() if name != "input"}
        return {**super().creation(file_id, key, body), "request_params": parameters}


class _MistralFault(msgspec.Struct):
    message: str = ""
    count: int = 1


class _MistralJob(msgspec.Struct):
    id: str
    status: str
    input_files: list[str] = []
    output_file: str | None = None
    error_file: str | None = None
    created_at: float | None = None
    total_requests: int = 0
    succeeded_requests: int = 0
    failed_requests: int = 0
    errors: list[_MistralFault] = []
    metadata: dict[str, Any] | None = None


class _MistralJobs(msgspec.Struct):
    data: list[msgspec.Raw] | None = None


_JOB = msgspec.json.Decoder(_MistralJob)
_JOBS = msgspec.json.Decoder(_MistralJobs)
_JOB_STATUSES: Mapping[str, BatchStatus] = {
    "QUEUED": "validating",
    "RUNNING": "in_progress",
    "SUCCESS": "completed",
    "FAILED": "failed",
    "TIMEOUT_EXCEEDED": "expired",
    "CANCELLATION_REQUESTED": "cancelling",
    "CANCELLED": "cancelled",
}


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
        found = [self.state(bytes(each)) for each in decode_reply(_JOBS, body).data or ()]
        return found, str(int(after or 0) + 1) if len(found) == PAGE else None

    def state(self, body: bytes) -> BatchState:
        found = decode_reply(_JOB, body)
        status = _JOB_STATUSES.get(found.status.upper(), "in_progress")
        created = found.created_at or 0.0
        return BatchState(
            found.id,
            # One that failed within has results all the same.
            "completed" if status == "failed" and (found.output_file or found.error_file) else status,
            key=key_in(found.metadata),
            input_file=found.input_files[0] if found.input_files else None,
            output_file=found.output_file,
            error_file=found.error_file,
            created_at=created,
            expires_at=created + self.terms.window_seconds if created else None,
            total=found.total_requests,
            completed=found.succeeded_requests,
            failed=found.failed_requests,
            faults=tuple(BatchFault("", each.message) for each in found.errors),
        )
