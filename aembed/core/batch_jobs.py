"""What a job does next about a batch that is out at a provider: decided from what is kept of it and what was seen.

    intended -> uploaded -> created -> over
                   |           |
                   |           +----> two days late: its texts are out no more, and it is a twin of what they go into
                   +----> abandoned: its texts are out no more, and a late batch of it is a twin

A create whose answer was lost may have made a batch all the same, and the provider knows no key that forbids a second.
So the uploaded file is the fence: it is deleted before its texts are sent anew, and a create that comes later fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

import msgspec

from aembed.batch_protocols import BatchState

# Chosen: longer than any request may take, and than the list of batches lags behind in what is known. Smaller, a create
# that is still on its way would be taken for lost; larger, its texts wait for longer.
GRACE_SECONDS = 600.0
"""A batch that may have been created is looked for in the list for so long, before its file is deleted."""
# A batch that should be over and is not may still come to its end; what it has made is then read all the same.
LATE_SECONDS = 48 * 3600.0
"""Texts are out until so long after the time at which their batch expires."""
# OpenAI keeps a batch and its files for longer than its 24 hours; a twin shows itself in the list within minutes.
REMEMBERED_SECONDS = 72 * 3600.0
"""A batch that was abandoned is looked for in the list for so long."""
MOST_TRIES = 2
"""A text that so many batches gave nothing goes live, where it is to."""
# Chosen: five days, if each batch takes one. Without an end, a line that a service bills and never gives would be
# bought every day.
MOST_TRIES_IN_BATCHES = 5
"""A text that so many batches gave nothing fails, where it may not go live."""
LEAST_QUEUE_TOKENS = 10_000
"""The queue of a provider is not believed to be smaller than this."""


class Stage(StrEnum):
    INTENDED = "intended"
    UPLOADED = "uploaded"
    CREATED = "created"
    ABANDONED = "abandoned"


class BatchRecord(msgspec.Struct, frozen=True):
    """What is kept of one batch. Times are seconds since 1970; `changed_at` is when its stage was reached.

    `reserved_tokens` are noted in the budgets of these `accounts`, by what each is of.
    """

    key: str
    version: int
    stage: Stage
    space: str
    changed_at: float
    texts: int
    lines: int
    tokens: float
    file: str | None = None
    batch: str | None = None
    created_at: float | None = None
    expires_at: float | None = None
    is_settled: bool = False
    is_twin: bool = False
    reserved_tokens: int = 0
    accounts: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def is_out(self) -> bool:
        """Whether its texts are out."""
        return self.stage is not Stage.ABANDONED and not self.is_twin


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is to be done now."""


@dataclass(frozen=True, slots=True)
class Adopt:
    """This batch is the one of the record: the answer to its create was lost."""

    state: BatchState


@dataclass(frozen=True, slots=True)
class Fence:
    """Its file is to be deleted, and the list read once more, before it is abandoned and its texts are sent anew."""


@dataclass(frozen=True, slots=True)
class Poll:
    """The provider is asked how the batch is."""


@dataclass(frozen=True, slots=True)
class Twin:
    """A batch that was abandoned has come up: its texts may have been sent a second time since."""

    state: BatchState


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing of it will come any more: nothing was created, or it would have shown itself."""


Step: TypeAlias = Wait | Adopt | Fence | Poll | Twin | Forget


def next_step(record: BatchRecord, found: BatchState | None, now: float, grace_seconds: float) -> Step:
    """`found` is the batch in the provider's list that has the record's key, or its file."""
    age = now - record.changed_at
    match record.stage:
        case Stage.INTENDED:
            return Forget() if age >= grace_seconds else Wait()
        case Stage.UPLOADED if found:
            return Adopt(found)
        case Stage.UPLOADED:
            return Fence() if age >= grace_seconds else Wait()
        case Stage.CREATED:
            return Poll()
        case Stage.ABANDONED if found:
            return Twin(found)
        case _:
            return Forget() if age >= REMEMBERED_SECONDS else Wait()


def created(state: BatchState) -> dict[str, Any]:
    """What is kept of a batch that was created, or adopted."""
    return {
        "stage": Stage.CREATED,
        "batch": state.id,
        "created_at": state.created_at,
        "expires_at": state.expires_at,
    }


def needs_list(records: Iterable[BatchRecord]) -> float | None:
    """From when on the list has to be read, in seconds since 1970; None where it has not."""
    times = [record.changed_at for record in records if record.stage in (Stage.UPLOADED, Stage.ABANDONED)]
    # An hour, since two clocks are compared.
    return min(times) - REMEMBERED_SECONDS - 3600.0 if times else None


def is_overdue(record: BatchRecord, now: float) -> bool:
    """Whether its texts are not waited for any longer."""
    return record.expires_at is not None and now >= record.expires_at + LATE_SECONDS


def is_queue_full(state: BatchState) -> bool:
    """Whether the batch failed because too many tokens were out."""
    return any("token_limit" in fault.code for fault in state.faults)


@dataclass(frozen=True, slots=True)
class Found:
    """What the list holds, by our key and by the input file."""

    by_key: Mapping[str, BatchState] = field(default_factory=dict)
    by_file: Mapping[str, BatchState] = field(default_factory=dict)

    def batch_of(self, record: BatchRecord) -> BatchState | None:
        return self.by_key.get(record.key) or (self.by_file.get(record.file) if record.file else None)


def found_of(states: Iterable[BatchState]) -> Found:
    """The oldest of several with one key: the younger ones are twins of it."""
    by_key, by_file = dict[str, BatchState](), dict[str, BatchState]()
    for state in sorted(states, key=lambda state: -state.created_at):
        if state.key:
            by_key[state.key] = state
        if state.input_file:
            by_file[state.input_file] = state
    return Found(by_key, by_file)
