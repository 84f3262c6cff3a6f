"""Stage 7: what is left of a batch that was refused, and what the refusal teaches (law 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from aembed.core.billing import utf8_bytes
from aembed.core.changes import Item
from aembed.core.counting import ALIKE, MOST_SCALE, Counting, fitting_tokens
from aembed.core.packing import Cap, halves, pack, totals
from aembed.core.retrying import Again, FailItems, Split, Verdict, verdict
from aembed.errors import BadRequestError, InvalidReplyError, ProviderError


@dataclass(slots=True)
class Lessons:
    """The smaller limits that this provider's refusals taught; kept for the life of the Embedder.

    Tokens are those of our own estimate. `counting` is what is known of how the provider counts them.
    """

    inputs: float = inf
    tokens: float = inf
    counting: Counting = field(default_factory=Counting)

    def within(self, cap: Cap, *, estimated: bool = False) -> Cap:
        """`estimated`: nobody knows that the provider counts as `cap` does."""
        tokens = self.counting.within(cap.tokens) if estimated else cap.tokens
        return Cap(int(min(cap.inputs, self.inputs)), min(tokens, self.tokens))

    def allow(self, inputs: int, tokens: float) -> bool:
        return inputs <= self.inputs and tokens <= self.tokens

    def learn(self, inputs: float | None, tokens: float | None) -> None:
        self.inputs = max(1, min(self.inputs, inputs or inf))
        self.tokens = max(1, min(self.tokens, tokens or inf))


class Remains:
    """What is still to be sent of one batch: the whole first, then the parts of what was refused, in order.

    `doubted`: the provider refused some of it, or answered it with broken replies.
    """

    def __init__(self, batch: Sequence[Item], lessons: Lessons) -> None:
        self.doubted = False
        self._whole = batch
        self._work = [batch]
        self._lessons = lessons
        self._broken_replies = 0
        self._unexplained = False
        self._failed = False
        self._largest = (0, 0.0)
        self._blamed: Item | None = None
        self._believes_blame = True

    def next(self) -> Sequence[Item] | None:
        return self._work.pop() if self._work else None

    def accepted(self, batch: Sequence[Item]) -> None:
        self._broken_replies = 0
        if batch is self._whole:
            return
        self._largest = max(self._largest, totals(batch))
        if self._blamed in batch:
            self._believes_blame = False
        if self._unexplained and not self._failed and not self._work:
            # Every text was good, so it was the size that was refused.
            self._lessons.learn(*self._largest)

    def refused(self, batch: Sequence[Item], error: ProviderError, cap: Cap, *, proven: bool = True) -> Verdict:
        """The verdict; what it says is to be sent comes out of `next`.

        While nothing is `proven`, one text alone goes first: it tells soonest whether all will be refused.
        """
        self._broken_replies += isinstance(error, InvalidReplyError)
        judged = verdict(error, items=len(batch), broken_replies=self._broken_replies)
        match judged:
            case Again():
                self._work.append(batch)
                return judged
            case Split(offender):
                self._learn(batch, error)
                sampled = self.doubted and not proven
                self._work += reversed(self._parts(batch, offender, self._lessons.within(cap), sampled))
            case FailItems():
                self._failed = True
            case _:
                pass
        self._broken_replies = 0
        return judged

    def _learn(self, batch: Sequence[Item], error: ProviderError) -> None:
        """Only what the provider refused for its content tells of a limit."""
        self.doubted |= isinstance(error, BadRequestError | InvalidReplyError)
        if not isinstance(error, BadRequestError):
            return
        inputs, tokens = totals(batch)
        most = error.max_tokens_per_batch or _limit_of_all(batch, error)
        self._lessons.learn(error.max_batch_size, most and fitting_tokens(tokens, most, error.requested_tokens))
        self._unexplained |= error.offender is None and self._lessons.allow(inputs, tokens)

    def _parts(self, batch: Sequence[Item], offender: int | None, cap: Cap, sampled: bool) -> Sequence[Sequence[Item]]:
        """The blamed text and the others; or what the cap just learned allows; or halves."""
        blamed = _item_of(batch, offender) if self._believes_blame else None
        if blamed is not None:
            self._blamed = batch[blamed]
            others = [*batch[:blamed], *batch[blamed + 1 :]]
            first, rest = _sample(others) if sampled and len(others) > 1 else ([], others)
            return [part for part in (first, [batch[blamed]], rest) if part]
        packed = pack(batch, cap)
        if len(packed) > 1:
            return packed
        first, rest = _sample(batch) if sampled and len(batch) > 2 else ([], batch)
        return [part for part in (first, *halves(rest)) if part]


def _limit_of_all(batch: Sequence[Item], error: BadRequestError) -> int | None:
    """A limit that may be that of one text is one of all only where they are about what was counted, and no single one
    of them can be above it: a token is a byte at least."""
    most, requested = error.max_tokens, error.requested_tokens
    if most is None or requested is None or not ALIKE <= requested / totals(batch)[1] <= MOST_SCALE:
        return None
    return most if max(utf8_bytes(text) for item in batch for text in item.texts) <= most else None


def _sample(batch: Sequence[Item]) -> tuple[Sequence[Item], Sequence[Item]]:
    """The text in the middle, and the others."""
    middle = len(batch) // 2
    return [batch[middle]], [*batch[:middle], *batch[middle + 1 :]]


def _item_of(batch: Sequence[Item], offender: int | None) -> int | None:
    """Which item the input at that position of the request belongs to."""
    if offender is None or offender < 0:
        return None
    for position, item in enumerate(batch):
        offender -= item.inputs
        if offender < 0:
            return position
    return None
