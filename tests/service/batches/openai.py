"""The batch API in OpenAI's words: /v1/files and /v1/batches."""

from __future__ import annotations

from math import inf, isinf
from typing import Any

from tests.service import refusals
from tests.service.batches.batch import Batch
from tests.service.batches.faults import TakesEffectLater
from tests.service.batches.files import StoredFile
from tests.service.batches.provider import Batches
from tests.service.batches.wire import Answer, Problem, Request, Route, Routes, content_of, no_batch, no_file, said

HOUR, DAY = 3_600, 86_400
_MOMENTS = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


class OpenAIWire:
    """`window` is the only completion window that it takes."""

    window = ("24h", DAY)

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self.routes = Routes(
            batches,
            [
                Route("POST", "/v1/files", "upload", self.upload),
                Route("GET", "/v1/files", "list", self.list_files),
                Route("GET", "/v1/files/([^/]+)", "file", self.file),
                Route("DELETE", "/v1/files/([^/]+)", "delete", self.delete),
                Route("GET", "/v1/files/([^/]+)/content", "content", self.content),
                *self.routes_of_batches(),
            ],
        )

    def routes_of_batches(self) -> list[Route]:
        return [
            Route("POST", "/v1/batches", "create", self.create),
            Route("GET", "/v1/batches", "list", self.list_batches),
            Route("GET", "/v1/batches/([^/]+)", "get", self.get),
            Route("POST", "/v1/batches/([^/]+)/cancel", "cancel", self.cancel),
        ]

    # files

    def upload(self, request: Request, id: str, now: float, late: TakesEffectLater | None) -> Answer:
        fields, (name, content) = request.form()
        if fields.get("purpose") != "batch":
            raise Problem(400, refusals.error("Invalid value for 'purpose'.", param="purpose"))
        if len(content) > self.batches.limits.file_bytes:
            raise Problem(413, refusals.error("The file is too large."))
        seconds = inf
        if "expires_after[seconds]" in fields:
            seconds = _lifetime(fields.get("expires_after[anchor]"), fields["expires_after[seconds]"])
        return said(self.as_file(self.batches.upload(name, "batch", content, now, seconds)))

    def file(self, request: Request, id: str, now: float, late: TakesEffectLater | None) -> Answer:
        return said(self.as_file(self._file(id, now)))

    def list_files(self, request: Request, id: str, now: float, late: TakesEffectLater | None) -> Answer:
        self.batches.settle(now)
        there = [self.as_file(file) for file in reversed(self.batches.files.there(now))]
        return said(_page(there, request))

    def delete(self, request: Request, id: str, now: float, late: TakesEffectLater | None) -> Answer:
        if not self.batches.files.delete(self._file(id, now).id, now):
            raise no_file(id)
        return said({"object": "file", "deleted": True, "id": id})

    def content(self, request: Request, id: str, now: float, late: TakesEffectLater | None) -> Answer:
        return content_of(self._file(id, now), request)

    def _file(self, id: str, now: float) -> StoredFile:
        self.batches.settle(now)
        found = self.batches.files.find(id, now)
        if found is None:
            raise no_file(id)
        return found

    def as_file(self, file: StoredFile) -> dict[str, Any]:
        return {
            "object": "file",
            "id": file.id,
            "purpose": file.purpose,
            "filename": file.name,
            "bytes": file.size or 0,
            "created_at": self.time(file.created_at),
            "expires_at": None if isinf(file.expires_at) else self.time(file.expires_at),
            "status": "processed",
            "status_details": None,
        }

    # batches

    def create(self, request: Request, id: str, now: float, late: TakesEffectLater | None) -> Answer:
        fields = request.json()
        window, seconds = self.window
        if fields.get("completion_window") != window:
            raise Problem(400, refusals.error(f"Invalid completion_window: only {window} is supported."))
        if fields.get("endpoint") != "/v1/embeddings":
            raise Problem(400, refusals.error("Invalid endpoint.", param="endpoint"))
        file = fields.get("input_file_id")
        if self.batches.files.find(str(file), now) is None:
            raise Problem(400, refusals.error(f"Invalid input_file_id: no such file {file}.", param="input_file_id"))
        metadata = fields.get("metadata")
        if metadata is not None and (
            len(metadata) > 16 or any(len(name) > 64 or len(value) > 512 for name, value in metadata.items())
        ):
            raise Problem(400, refusals.error("Invalid metadata.", param="metadata"))
        lives = fields.get("output_expires_after")
        return said(
            self.as_batch(
                self.batches.create(
                    [str(file)],
                    now,
                    late,
                    metadata=metadata,
                    window=seconds,
                    parameters=self.parameters(fields),
                    output_seconds=_lifetime(lives.get("anchor"), lives.get("seconds")) if lives else inf,
                )
            )
        )

    def parameters(self, fields: dict[str, Any]) -> dict[str, Any]:
        """What a batch says once for all its lines."""
        return {}

    def get(self, request: Request, id: str, now: float, late: TakesEffectLater | None) -> Answer:
        return said(self.as_batch(self._batch(id, now)))

    def list_batches(self, request: Request, id: str, now: float, late: TakesEffectLater | None) -> Answer:
        return said(_page([self.as_batch(batch) for batch in self.batches.listed(now)], request))

    def cancel(self, request: Request, id: str, now: float, late: TakesEffectLater | None) -> Answer:
        batch = self._batch(id, now)
        if batch.is_over:
            raise Problem(409, refusals.error(f"Cannot cancel a batch with status '{batch.status}'."))
        self.batches.cancel(batch, now)
        return said(self.as_batch(batch))

    def _batch(self, id: str, now: float) -> Batch:
        found = self.batches.find(id, now)
        if found is None:
            raise no_batch(id)
        return found

    def as_batch(self, batch: Batch) -> dict[str, Any]:
        errors = [
            {"code": each.code, "line": each.line, "message": each.message, "param": None} for each in batch.errors
        ]
        model = batch.lines[0].body.get("model") if batch.lines else None
        moments = {f"{name}_at": self.time(batch.moments.get(name)) for name in _MOMENTS}
        done, failed = len(batch.answered), len(batch.failed)
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": "/v1/embeddings",
            "model": model,
            "errors": {"object": "list", "data": errors} if errors else None,
            "input_file_id": batch.input_file_ids[0],
            "completion_window": self.window[0],
            "status": batch.status,
            "output_file_id": batch.output_file_id,
            "error_file_id": batch.error_file_id,
            "created_at": self.time(batch.created_at),
            "expires_at": self.time(batch.expires_at),
            **moments,
            "request_counts": {"total": len(batch.lines), "completed": done, "failed": failed},
            "usage": {
                "input_tokens": batch.billed_tokens,
                "output_tokens": 0,
                "total_tokens": batch.billed_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 0},
            },
            "metadata": batch.metadata,
        }

    def time(self, moment: float | None) -> int | None:
        return None if moment is None else int(self.batches.epoch + moment)


def _lifetime(anchor: Any, seconds: Any) -> float:
    try:
        lasting = int(seconds)
    except (TypeError, ValueError):
        lasting = 0
    if anchor != "created_at" or not HOUR <= lasting <= 30 * DAY:
        raise Problem(400, refusals.error("Invalid expires_after.", param="expires_after"))
    return lasting


def _page(items: list[dict[str, Any]], request: Request) -> dict[str, Any]:
    """Those after `after`, at most `limit` of them."""
    ids = [item["id"] for item in items]
    after = request.query.get("after")
    if after is not None and after not in ids:
        raise Problem(400, refusals.error(f"Invalid 'after': {after}", param="after"))
    start = ids.index(after) + 1 if after is not None else 0
    limit = int(request.query.get("limit", 20))
    page = items[start : start + limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + limit < len(items),
    }
