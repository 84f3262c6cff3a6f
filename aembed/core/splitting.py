"""Stage 7: what is left of a batch that was refused, and what the refusal teaches (law 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from aembed.core.changes import Item
from aembed.core.packing import Cap, halves, pack
from aembed.core.retrying import Again, FailItems, Split, Verdict, verdict
from aembed.errors import BadRequestError, InvalidReplyError, ProviderError


@dataclass(slots=True)
class Lessons:
    """The smaller limits that this provider's refusals taught; kept for the rest of the job."""

    inputs: float = inf
    tokens: float = inf

    def within(self, cap: Cap) -> Cap:
        return Cap(int(min(cap.inputs, self.inputs)), min(cap.tokens, self.tokens))

    def learn(self, inputs: float | None, tokens: float | None) -> None:
        self.inputs = max(1, min(self.inputs, inputs or inf))
        self.tokens = max(1, min(self.tokens, tokens or inf))


class Remains:
    """What is still to be sent of one batch: the whole first, then the parts of what was refused, in order."""

    def __init__(self, batch: Sequence[Item], lessons: Lessons) -> None:
        self._work = [batch]
        self._lessons = lessons
        self._broken_replies = 0
        self._unexplained = False
        self._failed = False
        self._largest = (0, 0.0)

    def next(self) -> Sequence[Item] | None:
        return self._work.pop() if self._work else None

    def accepted(self, batch: Sequence[Item]) -> None:
        self._broken_replies = 0
        self._largest = max(self._largest, _size(batch))
        if self._unexplained and not self._failed and not self._work:
            # Every text was good, so it was the size that was refused.
            self._lessons.learn(*self._largest)

    def refused(self, batch: Sequence[Item], error: ProviderError, cap: Cap) -> Verdict:
        """The verdict; what it says is to be sent comes out of `next`."""
        self._broken_replies += isinstance(error, InvalidReplyError)
        judged = verdict(error, items=len(batch), broken_replies=self._broken_replies)
        match judged:
            case Again():
                self._work.append(batch)
                return judged
            case Split(offender):
                self._learn(error)
                self._work += reversed(parts(batch, offender, self._lessons.within(cap)))
            case FailItems():
                self._failed = True
            case _:
                pass
        self._broken_replies = 0
        return judged

    def _learn(self, error: ProviderError) -> None:
        inputs = tokens = None
        if isinstance(error, BadRequestError):
            inputs, tokens = error.max_batch_size, error.max_tokens_per_batch
        self._lessons.learn(inputs, tokens)
        self._unexplained |= inputs is None and tokens is None


def parts(batch: Sequence[Item], offender: int | None, cap: Cap) -> Sequence[Sequence[Item]]:
    """Two parts or more of a refused batch: without the blamed text, within the cap just learned, or halves."""
    blamed = _item_of(batch, offender)
    if blamed is not None:
        return [*batch[:blamed], *batch[blamed + 1 :]], [batch[blamed]]
    packed = pack(batch, cap)
    return packed if len(packed) > 1 else halves(batch)


def _item_of(batch: Sequence[Item], offender: int | None) -> int | None:
    """Which item the input at that position of the request belongs to."""
    if offender is None or offender < 0:
        return None
    for position, item in enumerate(batch):
        offender -= item.inputs
        if offender < 0:
            return position
    return None


def _size(batch: Sequence[Item]) -> tuple[int, float]:
    return sum(item.inputs for item in batch), sum(item.tokens for item in batch)
