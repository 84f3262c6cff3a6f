"""Stage 7 keeps what is left of a batch that was refused or that failed, and learns from it.

Law 5: a rejected batch is never sent again unchanged. One batch goes through this, until nothing is left of it:

    batch --> next_part() --> a part is sent
      ^                    |
      |                    +-- answered ---------------------> its items are done
      |                    |
      |                    +-- refused for what it holds (400)
      |   blamed text, others   |-- the provider names a text: that text, and all the others
      +---- parts that fit -----|-- it names a limit: as many parts as fit in it, now and later (LearnedLimits)
      |     halves -------------|-- it names nothing: two halves
      |                         +-- a single text: it fails, once it is known that others are accepted; if it was the
      |                             whole batch, and nothing was named, once it was refused again after that
      |                    |
      |                    +-- failed (5xx, timeout, a broken connection, a broken reply)
      +---- the same part ------|-- first: once more; a whole batch and a single text are forgiven some failures
      +---- quarters, at the ---|-- then: parts, which go after all others, so that it is soon seen whether the
            end of the queue    |   server accepts anything; how large a part may be is learned (Weight)
                                +-- a single text that failed again and again: it fails

So one bad text among 2,048 that nobody names is found with some twenty requests, and all others are stored. A refusal
blames a text or a size; a failure may be that of the server, of a size or of a text, and is judged more slowly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aembed.core.changes import Item
from aembed.core.counting import fitting_tokens
from aembed.core.learned_limits import LearnedLimits, limit_of_all, names_a_limit
from aembed.core.packing import Cap, halves, pack, quarters, totals
from aembed.core.replies import CutShortError
from aembed.core.retrying import FailItems, Resend, Split, Verdict, may_be_billed, verdict
from aembed.core.vectors import ShapeError
from aembed.core.weighing import Weight
from aembed.errors import (
    BadRequestError,
    InvalidReplyError,
    NotFoundError,
    ProviderError,
    UnavailableError,
)

# Chosen: from a batch of 2,048 down to one text it is six quarterings, each of which may be billed, and a text needs
# some tries of its own. Larger, a server that bills what it fails costs more; smaller, a good text may be given up.
MOST_LOST = 12
"""At most so many requests with one text may be on the bill and bring nothing; with those on their way it is 16."""
# Chosen: a router that has lost a model has it back within a few tries, or not at all.
MOST_PARDONS = 3
"""So many times a 200 that says that there is no such model is forgiven, once the model was there."""
# Chosen: a fault by chance hits a whole batch once. A part has failed before, so it is cut at once, which finds the bad
# text soonest; a single text is tried again because nothing smaller can be tried. More tries are more money.
WHOLE, PART, LAST = 1, 0, 2
"""How often a batch that fails is tried again, a part of it, and what is left of it in the end: a single text."""


@dataclass(slots=True, eq=False)
class Tries:
    """What the part that is sent now has met.

    After `most` failures in a row, or `most_billed` of those that may be billed, the sender of the part is told.
    `alone` says that they prove nothing about the server, which was seen to answer meanwhile. `blame` is the number of
    failures that are no accident, to which they amount.
    """

    most: float
    most_billed: float
    alone: bool = False
    control: bool = False
    """The part is sent to find out whether the provider accepts anything, and goes before all others."""
    failures: int = 0
    billed: int = 0
    """Failures that may be on the bill."""
    blame: float = 0.0
    rest: float = 0.0
    """Seconds to wait before the next try."""
    number: int = 0
    """The number of the last request that was sent."""
    address: object = None
    """Where it was sent."""
    failed_at: list[Any] = field(default_factory=list)
    """The addresses of a pool that have failed parts of the same batch."""
    unproven: bool = False
    """Nothing as large as this part was ever accepted."""
    on_trial: bool = False
    """The part is sent to find out whether its size is accepted."""
    too_heavy: bool = False
    """The part was refused as a rate limit refuses, for longer than any window of one lasts."""
    outgrown: bool = False
    """The part was not sent: it was made when this worker had more of the limits."""


class Bisection:
    """What is still to be sent of one batch: the whole first, then the parts of what was refused or failed, in order.

    `doubted` says that the provider refused some of it, or answered it with broken replies.
    """

    def __init__(
        self, batch: Sequence[Item], learned_limits: LearnedLimits, weight: Weight | None = None, retries: int = 3
    ) -> None:
        self.doubted = False
        self._whole = batch
        self._work = [(batch, False)]
        self._learned_limits = learned_limits
        self._weight = weight or Weight()
        self._retries = retries
        self._failed_before = self._again = self._excused = False
        self._blame = 0.0
        self._failed_last = self._pardoned = 0
        self._too_heavy: Sequence[Item] = ()
        self._lost: Counter[int] = Counter()
        """How often each item may be on the bill for nothing, by its id()."""
        self._voided: Counter[int] = Counter()
        """How often each was refused while everything was, by its id()."""
        self._broken_replies = 0
        self._number_of_broken = 0
        self._form_excused = False
        """One reply was passed over that came in a form which is not asked for any more."""
        self._unexplained = False
        self._failed = False
        self._largest = (0, 0.0)
        self._blamed: Item | None = None
        self._believes_blame = True
        self.is_confirmed = False
        """The whole batch is sent once more, after a refusal that named nothing and something that was accepted."""

    def next_part(self) -> Sequence[Item] | None:
        """The part to send now, cut to the size that may be tried; None once nothing is left."""
        if self._weight.trial is self:
            self._weight.trial = None
        if not self._work:
            return None
        items, self._failed_before = self._work.pop()
        part = self._weight.fitting_items(items, self, careful=self._failed_before)
        if part is not items:
            self._work.append((items[len(part) :], self._failed_before))
        if not self._again:
            self._blame, self._excused, self._broken_replies, self._form_excused = 0.0, False, 0, False
        self._again = False
        return part

    def may_pardon(self, error: ProviderError) -> bool:
        """Whether the error is forgiven: a router's 200 that says that a model is missing which was there before."""
        self._pardoned += 1
        return isinstance(error, NotFoundError) and error.status_code == 200 and self._pardoned <= MOST_PARDONS

    def blame_part(self, part: Sequence[Item]) -> Verdict:
        """Judges a part that is refused while a good text is accepted: what it holds is refused, in whatever words."""
        if len(part) == 1:
            self._failed = True
            return FailItems()
        self._push(quarters(part), failed=False)
        return Split()

    def voids(self, items: Sequence[Item]) -> bool:
        """Whether these may be sent once more where their refusal said nothing of them: not without end."""
        self._voided.update(map(id, items))
        return max(self._voided[id(item)] for item in items) <= MOST_PARDONS

    def may_confirm(self, items: Sequence[Item], error: ProviderError) -> bool:
        """Whether these were refused in one request only, in words that name neither a text nor a limit.

        An account that is out of order for a moment says such things too, so they are sent once more. What came out of
        a larger batch was refused several times.
        """
        if items is not self._whole or self.is_confirmed or not isinstance(error, BadRequestError):
            return False
        self.is_confirmed = error.offender is None and not error.about_length and not names_a_limit(error)
        return self.is_confirmed

    def put_back(self, items: Sequence[Item]) -> None:
        """Keeps for later what was refused while everything was refused."""
        self._work.insert(0, (items, False))

    def witness_number(self, part: Sequence[Item], error: UnavailableError, tries: Tries) -> int | None:
        """The number of a request, after which another one must have been accepted before `note_failure` is told of the
        part.

        So it is known that the server answers. It is None where the part is tried again in any case. Before a text is
        blamed it is the request itself; a part is divided more easily.
        """
        last, self._failed_last = self._failed_last, tries.number
        unproven = may_be_billed(error) and not self._weight.is_proven(part) and self._weight.is_limited
        spent = self._most_lost(part) + tries.billed >= MOST_LOST
        if not unproven and not spent and self._blame + tries.blame <= self._most_blame(part):
            return None
        return last if self._failed_before and len(part) > 1 else tries.number

    def tries_of(self, part: Sequence[Item]) -> Tries:
        """How often the part that `next_part` returned is tried before its failures are judged."""
        most, unproven = self._most_blame(part), not self._weight.is_proven(part)
        if len(part) == 1:
            left = max(1, MOST_LOST - self._lost[id(part[0])])
            return Tries(most + 1, min(most + 1, left), alone=self._failed_before)
        fresh = not self._failed_before and not self._blame
        told = 1 + (fresh and most > 0)
        tries = Tries(told, 1 if unproven else told, alone=self._failed_before)
        tries.unproven, tries.on_trial = unproven, unproven and self._weight.is_limited
        return tries

    def _most_blame(self, part: Sequence[Item]) -> int:
        """How many failures of the part are forgiven."""
        if len(part) == 1:
            return min(LAST, self._retries) if self._failed_before else self._retries
        return PART if self._failed_before else min(WHOLE, self._retries)

    def note_accepted(self, batch: Sequence[Item]) -> None:
        """A part was answered; if all parts of what was refused are, it was its size, and that is learned."""
        self._weight.note_accepted(batch)
        if batch is self._whole:
            return
        self._largest = max(self._largest, totals(batch))
        if self._blamed in batch:
            self._believes_blame = False
        if self._unexplained and not self._failed and not self._work:
            # Every text was good, so it was the size that was refused.
            self._learned_limits.learn(*self._largest)
        if self._too_heavy and not self._failed and not self._work:
            self._weight.fail(self._too_heavy, self._largest)

    def note_failure(self, part: Sequence[Item], error: UnavailableError, tries: Tries, *, outage: bool) -> Verdict:
        """Judges a part that met `tries.most` server or network errors in a row, while the server accepts short texts.

        `outage` says that the server accepted nothing for a while, and does again. That excuses a part once, because
        the part itself may have been what kept the server busy.
        """
        heavy = may_be_billed(error) and not self._weight.is_proven(part)
        if heavy and not self._failed_before and self._weight.doubt(part):
            heavy = False
        self._blame += tries.blame
        if outage and not self._excused:
            self._blame, self._excused = 0.0, True
        self._lose(part, tries.billed)
        spent = self._most_lost(part) >= MOST_LOST
        if not heavy and not spent and self._blame <= self._most_blame(part):
            self._retry(part)
            return Resend()
        if len(part) == 1 or spent:
            self._failed = True
            self._weight.forgive()
            return FailItems()
        if not self._retries:
            return FailItems()
        self.divide(part)
        return Split()

    def _lose(self, part: Sequence[Item], times: int) -> None:
        for item in part if times else ():
            self._lost[id(item)] += times

    def _most_lost(self, part: Sequence[Item]) -> int:
        return max([self._lost[id(item)] for item in part]) if self._lost else 0

    def _retry(self, part: Sequence[Item]) -> None:
        self._again = True
        self._work.append((part, self._failed_before))

    def divide(self, part: Sequence[Item], *, for_its_size: bool = True) -> None:
        """In quarters, or in parts that grow where nothing of that size is known to be accepted."""
        parts: Sequence[Sequence[Item]] = quarters(part)
        if for_its_size and self._weight.is_proven(part):
            self._too_heavy = self._too_heavy or part
        elif for_its_size:
            self._weight.fail(part)
            parts = parts if self._weight.is_proven(parts[0]) else [part]
        self._push(parts, failed=True)

    def cut(self, part: Sequence[Item]) -> None:
        """In quarters, of a part that was not sent, and says nothing of them."""
        self._push(quarters(part), failed=self._failed_before)

    def _push(self, parts: Sequence[Sequence[Item]], *, failed: bool) -> None:
        """Puts the parts last: the sooner anything is accepted, the sooner the server is seen to be well."""
        self._work[:0] = [(items, failed) for items in reversed(parts)]

    def number_of_first(self, error: ProviderError, number: int) -> int:
        """The number of the first request whose reply condemns the part, of which the last one has that number."""
        return self._number_of_broken if isinstance(error, InvalidReplyError) else number

    def note_refusal(
        self, batch: Sequence[Item], error: ProviderError, cap: Cap, *, proven: bool = True, number: int = 0
    ) -> Verdict:
        """The verdict on a part that was refused; the parts that it asks for come out of `next_part`.

        While nothing is `proven`, one text alone goes first: it tells soonest whether all will be refused.
        """
        # Law 5: only `Resend`, after a reply that was broken and no rejection, sends the same batch again.
        if isinstance(error, InvalidReplyError):
            self._lose(batch, 1)
            unproven = not self._weight.is_proven(batch)
            if error.of_old_form and not self._form_excused:
                self._form_excused = True
                if unproven:
                    self._weight.doubt(batch)
                self._retry(batch)
                return Resend()
            self._broken_replies += 1
            if self._broken_replies == 1:
                self._number_of_broken = number
            for_its_size = isinstance(error, ShapeError) or (isinstance(error, CutShortError) and unproven)
            known = isinstance(error, ShapeError) or self._weight.is_limited
            suspect = self._failed_before or (for_its_size and known and unproven)
            if len(batch) > 1 and not error.oversized and (suspect or self._broken_replies > 1):
                self.doubted = True
                self.divide(batch, for_its_size=for_its_size)
                return Split()
            if isinstance(error, CutShortError) and unproven:
                self._weight.doubt(batch)
        judged = verdict(error, items=len(batch), broken_replies=self._broken_replies)
        match judged:
            case Resend():
                self._retry(batch)
                return judged
            case Split(offender):
                self._learn(batch, error)
                sampled = self.doubted and not proven
                self._push(self._parts(batch, offender, self._learned_limits.narrow_cap(cap), sampled), failed=False)
            case FailItems():
                self._failed = True
            case _:
                pass
        return judged

    def _learn(self, batch: Sequence[Item], error: ProviderError) -> None:
        """Learns limits from a refusal; only one for the content of the batch tells of any."""
        self.doubted |= isinstance(error, BadRequestError | InvalidReplyError)
        if not isinstance(error, BadRequestError):
            return
        inputs, tokens = totals(batch)
        most = error.max_tokens_per_batch or limit_of_all(batch, error)
        self._learned_limits.learn(error.max_batch_size, most and fitting_tokens(tokens, most, error.requested_tokens))
        self._unexplained |= error.offender is None and self._learned_limits.is_allowed(inputs, tokens)

    def _parts(self, batch: Sequence[Item], offender: int | None, cap: Cap, sampled: bool) -> Sequence[Sequence[Item]]:
        """The parts of a refused batch: the blamed text and the others, or what the new cap allows, or halves."""
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


def _sample(batch: Sequence[Item]) -> tuple[Sequence[Item], Sequence[Item]]:
    """The item in the middle of the batch, and the others."""
    middle = len(batch) // 2
    return [batch[middle]], [*batch[:middle], *batch[middle + 1 :]]


def _item_of(batch: Sequence[Item], offender: int | None) -> int | None:
    """Which item the input at that position of the request belongs to."""
    if offender is None or offender < 0:
        return None
    for position, item in enumerate(batch):
        offender -= len(item.texts)
        if offender < 0:
            return position
    return None
