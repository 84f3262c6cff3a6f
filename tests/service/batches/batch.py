"""One batch from its creation to its end, by the clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal, TypeAlias

from tests.service.batches.faults import Course
from tests.service.batches.lines import Answered, Failed, Line

Status: TypeAlias = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
OVER: frozenset[Status] = frozenset({"failed", "completed", "expired", "cancelled"})


@dataclass(frozen=True, slots=True)
class Invalid:
    """Why a validation failed. `line` counts from 1."""

    code: str
    message: str
    line: int | None = None


@dataclass(slots=True, eq=False)
class Batch:
    """`settle` brings it to a moment. Moments are those at which it entered a status."""

    id: str
    input_file_ids: Sequence[str]
    metadata: Mapping[str, str] | None
    window: float
    course: Course
    created_at: float
    listed_at: float
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What holds for all its lines, where a service says that once."""
    output_seconds: float = inf
    """How long its result files live."""
    runs_without_file: bool = False
    status: Status = "validating"
    moments: dict[Status, float] = field(default_factory=dict)
    lines: Sequence[Line] = ()
    tokens: int = 0
    """Of all its lines, as they stand in the queue."""
    errors: Sequence[Invalid] = ()
    answered: list[Answered] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    ran: int = 0
    """So many of its lines have run, well or not."""
    billed_tokens: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None

    @property
    def expires_at(self) -> float:
        return self.created_at + self.window

    @property
    def is_over(self) -> bool:
        return self.status in OVER

    def enter(self, status: Status, at: float) -> None:
        self.status = status
        self.moments[status] = at

    def settle(self, now: float, events: Events) -> None:
        if self.status == "validating" and now >= (at := self.created_at + self.course.validating):
            if errors := events.validate(self, at):
                self.errors = errors
                self.enter("failed", at)
            else:
                self.enter("in_progress", at)
        if self.status in ("in_progress", "cancelling"):
            self._run(now, events)
        if self.status == "finalizing" and now >= (at := self.moments["finalizing"] + self.course.finalizing):
            self._end("completed", at, events)

    def cancel(self, now: float, events: Events) -> None:
        """Of one that is over nothing is changed."""
        if self.status in ("validating", "in_progress", "finalizing"):
            self.enter("cancelling", now)
            self.settle(now, events)

    def _run(self, now: float, events: Events) -> None:
        """Lines run one after another, evenly over the time that it takes; none while it is being cancelled."""
        started, cancelled = self.moments.get("in_progress", now), self.moments.get("cancelling", inf)
        until = min(now, cancelled, self.expires_at)
        share = 1.0 if not self.course.running else min(1.0, (until - started) / self.course.running)
        due = int(len(self.lines) * min(share, self.course.stops_at) + 1e-9) if "in_progress" in self.moments else 0
        for line in self.lines[self.ran : due]:
            events.run(self, line)
        self.ran = max(self.ran, due)
        if self.status == "cancelling":
            if now >= (at := cancelled + self.course.cancelling):
                self._leave_rest("batch_cancelled", "This request was cancelled.")
                self._end("cancelled", at, events)
        elif self.ran == len(self.lines):
            self.enter("finalizing", started + self.course.running)
        elif now >= self.expires_at:
            self._leave_rest(
                "batch_expired", "This request could not be executed before the completion window expired."
            )
            self._end("expired", self.expires_at, events)

    def _leave_rest(self, code: str, message: str) -> None:
        self.failed += [Failed(line, None, {"code": code, "message": message}) for line in self.lines[self.ran :]]

    def _end(self, status: Status, at: float, events: Events) -> None:
        self.enter(status, at)
        events.write_files(self, at)


@dataclass(frozen=True, slots=True)
class Events:
    """What the provider does as a batch goes on."""

    validate: Callable[[Batch, float], Sequence[Invalid]]
    run: Callable[[Batch, Line], None]
    write_files: Callable[[Batch, float], None]
