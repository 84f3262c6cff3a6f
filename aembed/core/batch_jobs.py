"""What a job does next about a batch that is out at a provider: decided from what is kept of it and what was seen.

    intended -> uploaded -> created -> done
                   |           |
                   |           +----> two days late: its texts are out no more, and it is a twin of what they go into
                   +----> abandoned: its texts are out no more, and a late batch of it is a twin

A create whose answer was lost may have made a batch all the same, and the provider knows no key that forbids a second.
So the uploaded file is the fence: it is deleted before its texts are sent anew, and a create that comes later fails.
What is on the way may send a create twice, too: of several batches with one key or one file all but one are twins.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

import msgspec
import msgspec.structs

from aembed.batch_protocols import BatchState

# Chosen: longer than any request may take, and than the list of batches lags behind in what is known. Smaller, a create
# that is still on its way would be taken for lost; larger, its texts wait for longer.
GRACE_SECONDS = 600.0
"""A batch that may have been created is looked for in the list for so long, before its file is deleted."""
# A batch that should be over and is not may still come to its end; what it has made is then read all the same.
LATE_SECONDS = 48 * 3600.0
"""Texts are out until so long after the time at which their batch expires."""
# Gemini's; the others allow themselves 12 or 24 hours.
LONGEST_SECONDS = 48 * 3600.0
"""A batch of which the service does not say when it expires takes no longer."""
# OpenAI keeps a batch and its files for longer than its 24 hours; a twin shows itself in the list within minutes.
REMEMBERED_SECONDS = 72 * 3600.0
"""A batch that was abandoned, and twins of one that is done, are looked for in the list for so long."""
# Chosen: an outage is over by then, and files that are kept for longer are a service's own affair.
DELETING_SECONDS = 14 * 86_400.0
"""Files of a batch that is done with are tried to be deleted for so long after it was created."""
MOST_TRIES = 2
"""A text that so many batches gave nothing goes live, where it is to."""
# Chosen: five days, if each batch takes one. Without an end, a line that a service bills and never gives would be
# bought every day.
MOST_TRIES_IN_BATCHES = 5
"""A text that so many batches gave nothing fails, where it may not go live."""
DONE = "done: "
"""Begins the key of a record that is kept of a batch which is done with: only so that twins of it are known."""


class Stage(StrEnum):
    INTENDED = "intended"
    UPLOADED = "uploaded"
    CREATED = "created"
    ABANDONED = "abandoned"
    DONE = "done"


class BatchRecord(msgspec.Struct, frozen=True):
    """What is kept of one batch. Times are seconds since 1970; `changed_at` is when its stage was reached.

    `reserved_tokens` are noted in the budgets of these `accounts`, by what each is of. With it `queued_tokens` were out
    as it was created. A batch that was created beside it has a record of its own, which is `twin_of` its key: its lines
    are those, but for `twice_lines` that were settled before it was found.
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
    queued_tokens: float = 0.0
    twin_of: str | None = None
    twice_lines: int = 0

    @property
    def is_out(self) -> bool:
        """Whether its texts are out."""
        return self.stage not in (Stage.ABANDONED, Stage.DONE) and not self.is_twin

    @property
    def may_have_twins(self) -> bool:
        """Whether batches that were made of it twice are looked for."""
        return self.stage in (Stage.CREATED, Stage.DONE) and self.twin_of is None

    @property
    def name(self) -> str:
        """The key that its batch has at the provider, and that its lines have in their ids."""
        return self.twin_of or self.key.removeprefix(DONE)


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
    times = []
    for record in records:
        if record.stage in (Stage.UPLOADED, Stage.ABANDONED):
            times.append(record.changed_at - REMEMBERED_SECONDS)
        elif record.may_have_twins:
            times.append(record.changed_at if record.created_at is None else record.created_at)
    # An hour, since two clocks are compared.
    return min(times) - 3600.0 if times else None


@dataclass(frozen=True, slots=True)
class Twins:
    """Of the batches that were made of one record `kept` is that which it has from now on; its texts are those of the
    `others` too, which nobody looks after yet."""

    kept: BatchState
    others: Sequence[BatchState]


def twins_of(record: BatchRecord, found: Found, known: Collection[str]) -> Twins | None:
    """`known` are the ids of batches that records have. None where there is none that is new."""
    states = found.batches_of(record)
    if not record.may_have_twins or all(state.id in known for state in states):
        return None
    own = next((state for state in states if state.id == record.batch), None)
    if own is None:
        own = BatchState(record.batch or "", "in_progress", created_at=record.created_at or 0.0)
        states = [*states, own]
    kept = own
    if record.stage is Stage.CREATED and not record.is_settled:
        # What is done costs no more; else the younger ones have run for less time.
        kept = min(states, key=lambda state: (state.status != "completed", state.created_at))
    unknown = [state for state in states if state.id not in known or state is own]
    return Twins(kept, [state for state in unknown if state is not kept])


def twin_record(record: BatchRecord, state: BatchState, twice_lines: int) -> BatchRecord:
    """What is kept of that twin of the record."""
    its_own: dict[str, Any] = {"key": f"{record.name} {state.id}", "version": 0, "file": None, "is_settled": False}
    of_twins: dict[str, Any] = {"is_twin": True, "twin_of": record.name, "twice_lines": twice_lines}
    of_budgets: dict[str, Any] = {"reserved_tokens": 0, "queued_tokens": 0.0}
    return msgspec.structs.replace(record, **created(state), **its_own, **of_twins, **of_budgets)


def is_overdue(record: BatchRecord, now: float) -> bool:
    """Whether its texts are not waited for any longer."""
    expires_at = record.changed_at + LONGEST_SECONDS if record.expires_at is None else record.expires_at
    return now >= expires_at + LATE_SECONDS


class ListEnd:
    """Whether a list that begins with the youngest has come to batches that are older than `since`. One that does not
    is read to its end, as is one that tells no times."""

    def __init__(self, since: float) -> None:
        self._since, self._before = since, 0.0
        self._descends = self._ascends = False

    def is_reached(self, state: BatchState) -> bool:
        before, self._before = self._before, state.created_at
        if before and state.created_at:
            self._descends |= state.created_at < before
            self._ascends |= state.created_at > before
        return 0.0 < state.created_at < self._since and self._descends and not self._ascends


class Found:
    """What the list holds."""

    def __init__(self, states: Iterable[BatchState] = ()) -> None:
        """`states` are the youngest first, as they are listed."""
        self._named: dict[str, list[BatchState]] = {}
        for state in sorted(states, key=lambda state: -state.created_at):
            for name in {state.key, state.input_file} - {None}:
                self._named.setdefault(str(name), []).insert(0, state)

    def batches_of(self, record: BatchRecord) -> list[BatchState]:
        """Those that have the record's key, or its file; the oldest first."""
        named = self._named.get(record.name, [])
        of_its_file = self._named.get(record.file, []) if record.file else []
        return sorted({state.id: state for state in [*named, *of_its_file]}.values(), key=lambda each: each.created_at)

    def batch_of(self, record: BatchRecord) -> BatchState | None:
        """The oldest of them: the younger ones are twins of it."""
        return next(iter(self.batches_of(record)), None)
