"""What services say of a batch in words and numbers of their own kind: read as far as it can be understood.

A state that is refused as a whole would hold up all batches of a store; a field that says nothing is as good as none.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from aembed.batch_protocols import BatchFault, BatchStatus

# OpenAI's words first; then those of services that speak its wire, of Mistral and of Gemini.
_STATUSES: Mapping[str, BatchStatus] = {
    "validating": "validating",
    "pending": "validating",
    "queued": "validating",
    "created": "validating",
    "in_progress": "in_progress",
    "running": "in_progress",
    "processing": "in_progress",
    "finalizing": "finalizing",
    "completed": "completed",
    "complete": "completed",
    "success": "completed",
    "succeeded": "completed",
    "partially_succeeded": "completed",
    "partially_completed": "completed",
    "done": "completed",
    "failed": "failed",
    "error": "failed",
    "errored": "failed",
    "expired": "expired",
    "timeout_exceeded": "expired",
    "timed_out": "expired",
    "cancelling": "cancelling",
    "canceling": "cancelling",
    "cancellation_requested": "cancelling",
    "cancelled": "cancelled",
    "canceled": "cancelled",
}
# Chosen: the year 5138 in seconds; in milliseconds it was 1973.
_MOST_SECONDS = 1e11


def status_of(word: Any, *, has_results: bool) -> BatchStatus:
    """A word that nobody knows yet is no end of a batch: it is looked at again. One that failed within, and whose lines
    have results all the same, is completed."""
    status = _STATUSES.get(str(word).strip().lower(), "in_progress")
    return "completed" if status == "failed" and has_results else status


def text_of(value: Any) -> str | None:
    """None for what is empty, or no text. Of an object it is its id, of a list the first."""
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, dict):
        value = value.get("id")
    return str(value) if isinstance(value, str | int) and str(value) else None


def count_of(value: Any) -> int:
    """0 for what is no number."""
    try:
        return max(0, int(value))
    except (TypeError, ValueError, OverflowError):
        return 0


def field_of(value: Any, name: str) -> Any:
    """None where that is no object, or has no such field."""
    return value.get(name) if isinstance(value, dict) else None


def moment_of(value: Any) -> float | None:
    """Seconds since 1970, of a number of seconds or milliseconds, or of a date in the form of ISO 8601."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return _seconds_of_date(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value <= 0:
        return None
    return float(value) / 1000.0 if value > _MOST_SECONDS else float(value)


def _seconds_of_date(value: str) -> float | None:
    try:
        date = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def faults_of(errors: Any) -> tuple[BatchFault, ...]:
    """Of OpenAI's `{"data": [...]}`, of a list, of one object, or of a text."""
    match errors:
        case {"data": list() as data}:
            return faults_of(data)
        case {"code": _} | {"message": _}:
            line = count_of(errors.get("line")) or None
            return (BatchFault(text_of(errors.get("code")) or "", str(errors.get("message") or ""), line),)
        case list():
            return tuple(fault for each in errors for fault in faults_of(each))
        case str() if errors:
            return (BatchFault("", errors),)
        case _:
            return ()
