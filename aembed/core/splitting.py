"""Stage 7: what is left of a batch that was refused or that failed, and what that teaches (law 5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from aembed.core.billing import utf8_bytes
from aembed.core.changes import Item
from aembed.core.counting import ALIKE, MOST_SCALE, Counting, fitting_tokens
from aembed.core.packing import Cap, halves, pack, quarters, totals
from aembed.core.replies import CutShortError
from aembed.core.retrying import Again, FailItems, Split, Verdict, may_be_billed, verdict
from aembed.core.vectors import ShapeError
from aembed.core.weighing import Weight
from aembed.errors import BadRequestError, InvalidReplyError, NotFoundError, ProviderError, UnavailableError

MOST_LOST = 12
"""Requests with one text that may be on the bill and brought nothing; with those that are on their way 16 at most."""
MOST_PARDONS = 3
WHOLE, PART, LAST = 1, 0, 2
"""How often a batch is tried again that fails, a part of it, and what is left of it in the end: a single text."""


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


@dataclass(slots=True, eq=False)
class Tries:
    """What the part that is sent now has met.

    `most` failures in a row are told, of those that may be billed `most_billed`. `alone`: they say nothing of the
    server, which was seen to answer meanwhile. `blame` is how many failures that are no accident they amount to.
    """

    most: float
    most_billed: float
    alone: bool = False
    control: bool = False
    """It is sent to find out whether the provider accepts anything, and goes before all others."""
    failures: int = 0
    billed: int = 0
    """Failures that may be on the bill."""
    blame: float = 0.0
    rest: float = 0.0
    """Seconds to wait before the next try."""
    number: int = 0
    """Of the last request that was sent."""
    unproven: bool = False
    """Nothing as large was ever accepted."""
    on_trial: bool = False
    """And it is sent to find out whether that is accepted."""
    too_heavy: bool = False
    """It was refused as a rate limit refuses, for longer than any window of one lasts."""


class Remains:
    """What is still to be sent of one batch: the whole first, then the parts of what was refused or failed, in order.

    `doubted`: the provider refused some of it, or answered it with broken replies.
    """

    def __init__(self, batch: Sequence[Item], lessons: Lessons, weight: Weight | None = None, retries: int = 3) -> None:
        self.doubted = False
        self._whole = batch
        self._work = [(batch, False)]
        self._lessons = lessons
        self._weight = weight or Weight()
        self._retries = retries
        self._failed_before = self._again = self._excused = False
        self._blame = 0.0
        self._failed_last = self._pardoned = 0
        self._too_heavy: Sequence[Item] = ()
        self._lost = Counter[int]()
        """How often each item may be on the bill for nothing, by its id()."""
        self._voided = Counter[int]()
        """How often each was refused while everything was, by its id()."""
        self._broken_replies = 0
        self._unexplained = False
        self._failed = False
        self._largest = (0, 0.0)
        self._blamed: Item | None = None
        self._believes_blame = True

    def next(self) -> Sequence[Item] | None:
        self._weight.leave(self)
        if not self._work:
            return None
        items, self._failed_before = self._work.pop()
        part = self._weight.fitting(items, self, careful=self._failed_before)
        if part is not items:
            self._work.append((items[len(part) :], self._failed_before))
        if not self._again:
            self._blame, self._excused, self._broken_replies = 0.0, False, 0
        self._again = False
        return part

    def pardons(self, error: ProviderError) -> bool:
        """A model that was there before may be there again where a 200 says that it is not: a router's answer."""
        self._pardoned += 1
        return isinstance(error, NotFoundError) and error.status_code == 200 and self._pardoned <= MOST_PARDONS

    def blamed(self, part: Sequence[Item]) -> Verdict:
        """A good text is accepted where this part is not: what it holds is refused, in whatever words."""
        if len(part) == 1:
            self._failed = True
            return FailItems()
        self._push(quarters(part), failed=False)
        return Split()

    def voids(self, items: Sequence[Item]) -> bool:
        """Whether these may be sent once more where their refusal said nothing of them: not without end."""
        self._voided.update(map(id, items))
        return max(self._voided[id(item)] for item in items) <= MOST_PARDONS

    def put_back(self, items: Sequence[Item]) -> None:
        """What was refused while everything was."""
        self._work.insert(0, (items, False))

    def witness(self, part: Sequence[Item], error: UnavailableError, tries: Tries) -> int | None:
        """The number of the request after which another one must have been accepted before `failed` is told of that
        part: so it is known that the server answers. None: it is tried again in any case.

        Before a text is blamed that is the request itself; a part is divided more easily.
        """
        last, self._failed_last = self._failed_last, tries.number
        unproven = may_be_billed(error) and not self._weight.proven(part) and self._weight.is_limited
        spent = self._most_lost(part) + tries.billed >= MOST_LOST
        if not unproven and not spent and self._blame + tries.blame <= self._most_blame(part):
            return None
        return last if self._failed_before and len(part) > 1 else tries.number

    def leave(self) -> None:
        """Whatever is left is not sent."""
        self._weight.leave(self)

    def tries(self, part: Sequence[Item]) -> Tries:
        """For the part that `next` returned."""
        most, unproven = self._most_blame(part), not self._weight.proven(part)
        if len(part) == 1:
            left = max(1, MOST_LOST - self._lost[id(part[0])])
            return Tries(most + 1, min(most + 1, left), alone=self._failed_before)
        fresh = not self._failed_before and not self._blame
        told = 1 + (fresh and most > 0)
        tries = Tries(told, 1 if unproven else told, alone=self._failed_before)
        tries.unproven, tries.on_trial = unproven, unproven and self._weight.is_limited
        return tries

    def _most_blame(self, part: Sequence[Item]) -> int:
        """How many failures are forgiven."""
        if len(part) == 1:
            return min(LAST, self._retries) if self._failed_before else self._retries
        return PART if self._failed_before else min(WHOLE, self._retries)

    def accepted(self, batch: Sequence[Item]) -> None:
        self._weight.accept(batch)
        if batch is self._whole:
            return
        self._largest = max(self._largest, totals(batch))
        if self._blamed in batch:
            self._believes_blame = False
        if self._unexplained and not self._failed and not self._work:
            # Every text was good, so it was the size that was refused.
            self._lessons.learn(*self._largest)
        if self._too_heavy and not self._failed and not self._work:
            self._weight.fail(self._too_heavy, self._largest)

    def failed(self, part: Sequence[Item], error: UnavailableError, tries: Tries, *, outage: bool) -> Verdict:
        """A server or network error, `tries.most` times in a row, of a server that answers: it accepts short texts.

        `outage`: it did not, and does again. That excuses a part once, unless that was what kept the server busy.
        """
        heavy = may_be_billed(error) and not self._weight.proven(part)
        if heavy and not self._failed_before and self._weight.doubt(part):
            heavy = False
        self._blame += tries.blame
        if outage and not self._excused:
            self._blame, self._excused = 0.0, True
        self._lose(part, tries.billed)
        spent = self._most_lost(part) >= MOST_LOST
        if not heavy and not spent and self._blame <= self._most_blame(part):
            self._retry(part)
            return Again()
        if len(part) == 1 or spent:
            self._failed = True
            self._weight.forgive()
            return FailItems()
        if not self._retries:
            return FailItems()
        self._divide(part)
        return Split()

    def _lose(self, part: Sequence[Item], times: int) -> None:
        for item in part if times else ():
            self._lost[id(item)] += times

    def _most_lost(self, part: Sequence[Item]) -> int:
        return max([self._lost[id(item)] for item in part]) if self._lost else 0

    def _retry(self, part: Sequence[Item]) -> None:
        self._again = True
        self._work.append((part, self._failed_before))

    def _divide(self, part: Sequence[Item], *, for_its_size: bool = True) -> None:
        """In quarters, or in parts that grow where nothing of that size is known to be accepted."""
        parts: Sequence[Sequence[Item]] = quarters(part)
        if for_its_size and self._weight.proven(part):
            self._too_heavy = self._too_heavy or part
        elif for_its_size:
            self._weight.fail(part)
            parts = parts if self._weight.proven(parts[0]) else [part]
        self._push(parts, failed=True)

    def _push(self, parts: Sequence[Sequence[Item]], *, failed: bool) -> None:
        """After the others: the sooner something is accepted, the sooner it is known that the server is well."""
        self._work[:0] = [(items, failed) for items in reversed(parts)]

    def too_heavy(self, part: Sequence[Item]) -> Verdict:
        """No wait clears it: a server that refuses what is too large for it as if it came too soon."""
        self._divide(part)
        return Split()

    def refused(self, batch: Sequence[Item], error: ProviderError, cap: Cap, *, proven: bool = True) -> Verdict:
        """The verdict; what it says is to be sent comes out of `next`.

        While nothing is `proven`, one text alone goes first: it tells soonest whether all will be refused.
        """
        if isinstance(error, InvalidReplyError):
            self._broken_replies += 1
            self._lose(batch, 1)
            unproven = not self._weight.proven(batch)
            for_its_size = isinstance(error, ShapeError) or (isinstance(error, CutShortError) and unproven)
            known = isinstance(error, ShapeError) or self._weight.is_limited
            suspect = self._failed_before or (for_its_size and known and unproven)
            if len(batch) > 1 and not error.oversized and (suspect or self._broken_replies > 1):
                self.doubted = True
                self._divide(batch, for_its_size=for_its_size)
                return Split()
        judged = verdict(error, items=len(batch), broken_replies=self._broken_replies)
        match judged:
            case Again():
                self._retry(batch)
                return judged
            case Split(offender):
                self._learn(batch, error)
                sampled = self.doubted and not proven
                self._push(self._parts(batch, offender, self._lessons.within(cap), sampled), failed=False)
            case FailItems():
                self._failed = True
            case _:
                pass
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
