"""This module finds out how many requests at a time a service takes, from what it refuses. It is pure.

Law 7: a 429 that names no exhausted limit is a question, answered by trying, not a pace:

    refused at level n (n requests in flight)      a doubt: the next request of that size is the test
      the test is accepted                         in flight, or chance: the evidence of level n decides
      the test is refused: a strike                fewer in flight for the next test: half of them, down to one
      refused alone, often enough in a row         neither of them: a window is suspected, and its pace is measured
      nothing accepted before the hint was over    the same, where there was a strike

Each level has its evidence: a refusal speaks against it and against all above it, an acceptance for it and for all
below. A level that is beyond what is taken is tried again after some acceptances, and after more of them each time it
is refused there; where it is accepted, those above it are tried at once, in growing steps. Refusals at a level that
holds are chance; where they are many, a pace is worth a trial.

Refusals come at once and replies take their time, so a level that is tried again does not wait for its reply: what is
under way for twice as long as a refusal takes was accepted (`settle`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from math import ceil, inf, log

from aembed.core.pacing._frequency import RefusalFrequency

# Chosen: a request that ends while another arrives makes room for it. Larger, a refusal would weigh less.
MISTAKEN = 0.03
"""The share of requests beyond the level that a service takes all the same, because one ended at that moment."""
# Chosen: services refuse now and then for no reason that a client can see. At 0 one such refusal would take a level
# away for good; above a half nothing could be told from chance.
LEAST_CHANCE, MOST_CHANCE = 0.02, 0.5
"""The share of refusals at any level that is taken for chance: at first, and at the most."""
# Chosen: the share of chance is that of about the last fifty requests.
MEMORY = 0.02
"""The weight of one request in the share of chance."""
# Chosen: to send fewer for a while costs little, to believe in a window costs a closed gate and a pace.
UNLIKELY, CERTAIN = 1e-2, 1e-3
"""So unlikely is a row of refusals by chance alone before fewer are sent, and before a window is suspected."""
# Chosen: two in a row may be one burst, however rare chance is.
LEAST_ROW = 3
"""A window is suspected after at least so many refusals of requests that were alone."""
# Chosen, in nats: a refusal says more than an acceptance, but two acceptances say as much as one refusal.
ACCEPTED = 2.0
"""The evidence of one acceptance. That of a refusal is log((1 - MISTAKEN) / chance), 3.9 where chance is rare."""
# Chosen, in nats: one refusal takes a level away that is new, three take one away that has held, and from the most
# evidence against it a level comes back with two acceptances.
HELD, BEYOND, MOST = -6.0, 2.0, 4.0
"""The least evidence against a level, the one from which on it is not used any more, and the most."""
# Measured with toy servers: to halve the number at each refusal leaves 3 to 8 % refused; to hold the level that was
# refused, and to double the time until it is tried again, at most 0.3 %.
TRIED_AGAIN, RARELY = 12, 64
"""A level that was refused is tried again after so many acceptances; doubled with each refusal there, up to RARELY."""
# Chosen: the level after one that was accepted is more likely to be accepted, too, than one that was refused before.
CLIMBING = 0.5
"""The part of a hint that the last requests have to take longer than, where levels are being accepted."""
# Chosen: a small request would pass any bucket that refills, and say nothing of the large one.
COMPARABLE = 0.8
"""A request of at least this share of the refused one is a test of it."""
# Chosen: refusals come at once, replies take their time; with less than twice the time a late refusal would be missed.
SURVIVED = 2.0
"""What is under way for so many times as long as a refusal took was not refused."""
# Chosen: one late refusal makes the next ones no slower; it is forgotten after some dozens of them.
REFUSED_MEMORY = 0.9
"""The longest time until a refusal is worth so much of itself at the next one."""
# Chosen: the mean of about the last ten replies; it is only compared with a wait, and need not be exact.
SECONDS_MEMORY = 0.1
"""The weight of one reply in the seconds that a reply takes."""
# No window of a provider is longer than a minute, so what was refused before says nothing any more.
FORGOTTEN = 60.0
"""After so many seconds a doubt is dropped that no test has answered."""


class Suspicion(Enum):
    """What a refusal makes likely, besides the requests in flight and chance."""

    NOTHING = auto()
    FREQUENT = auto()
    WINDOW = auto()


@dataclass(slots=True, eq=False)
class SentRequest:
    """A request on its way: how many were in flight with it, how large it is, and its number since the beginning."""

    level: int
    tokens: float
    at: float
    number: int
    counted: bool = False


@dataclass(slots=True)
class Doubt:
    """A doubt is opened by a refusal, and closed once something is accepted that was sent after it.

    `hinted_until` is when the server's hint is over; `lowest` the lowest level that was refused in this doubt.
    """

    at: float
    after: int
    tokens: float
    hinted_until: float
    lowest: int
    against: list[float]
    refused: int = 1
    strikes: int = 0


class InFlight:
    """The number of requests at a time: `most` are allowed, `first` of them before anything is known."""

    def __init__(self, most: int, first: int | None = None) -> None:
        self.most = most
        self.chance = self._usual = LEAST_CHANCE
        self.proven_chance = 0.0
        self.first_refused_at = inf
        self.frequency = RefusalFrequency()
        self._against = [0.0] * (most + 1)
        self._failed_tries = [0] * (most + 1)
        self.limit = self._highest = min(first or most, most)
        """The highest level that is believed to be taken, and the one that ever was."""
        self._accepted = self._wait = 0
        self._climbed = 0
        self._number = self._refused_after = 0
        self._under_way: dict[SentRequest, None] = {}
        self._trying: SentRequest | None = None
        self._doubt: Doubt | None = None
        self._seconds = self._hint = self._refused_within = 0.0
        """The seconds that a reply takes, those that a refused one was told to wait, and the most until a refusal."""

    @property
    def allowed(self) -> int:
        """How many requests may be in flight now: fewer while a doubt has strikes, more to try a level again."""
        if self._doubt:
            return self._next_tested_level if self._doubt.strikes else self.limit
        if self.limit == self.most or self._accepted < self._wait or self._trying:
            return self.limit
        return min(self.limit + min(max(1, self._climbed), 1 + self.limit // 2), self.most)

    @property
    def _next_tested_level(self) -> int:
        """The level of the next test."""
        return max(1, self.limit >> self._doubt.strikes) if self._doubt else self.limit

    @property
    def is_limited(self) -> bool:
        """Whether fewer are sent than are allowed, because more were refused."""
        return self.limit < self._highest and self._against[self.limit + 1] >= BEYOND

    def begin_at(self, level: int) -> None:
        """Others on the key were left with so many; more are tried from there, as after a refusal."""
        if level < self.limit and not self._accepted:
            self._against[level + 1 :] = [max(BEYOND, held) for held in self._against[level + 1 :]]
            self.limit, self._wait = level, TRIED_AGAIN

    @property
    def doubted_since(self) -> float | None:
        """When the refusal came that is not explained yet."""
        return self._doubt.at if self._doubt else None

    def may_try(self, remaining: float) -> bool:
        """Whether so many requests more take longer than one that is refused would wait."""
        hint = self._hint * (CLIMBING if self._climbed else 1.0)
        return remaining * self._seconds >= hint * self.limit

    def is_try(self, sent: SentRequest) -> bool:
        """Whether the request was sent to try a level again that had been refused."""
        return sent.level > self.limit

    def note_sent(self, level: int, tokens: float, now: float) -> SentRequest:
        """Notes that a request went as the one of that level."""
        self._number += 1
        sent = SentRequest(min(level, self.most), tokens, now, self._number)
        if level > self.limit and level >= self.allowed:
            self._trying = sent
        self._under_way[sent] = None
        return sent

    def note_ended(self, sent: SentRequest) -> None:
        """Notes that a request has ended, however that was."""
        self._under_way.pop(sent, None)
        if sent is self._trying:
            self._trying = None

    def note_accepted(self, sent: SentRequest, in_flight: int, now: float) -> Suspicion:
        """A request was accepted, with so many in flight now."""
        self._seconds += SECONDS_MEMORY * (now - sent.at - self._seconds)
        suspicion = self._answer(sent, in_flight)
        self.chance = max(self._usual, self.chance - MEMORY * self.chance)
        self._accepted += 1
        self._climb(sent, in_flight)
        self.frequency.note_accepted()
        return suspicion

    def _climb(self, sent: SentRequest, in_flight: int) -> None:
        """Counts an acceptance; where it stands for a level above the limit, that is the limit from now on."""
        before = self.limit
        self._count_for(sent, in_flight)
        level = self._level(sent, in_flight)
        if level > before:
            self._highest = max(self._highest, level)
            self._find_limit()
            self._wait = self._accepted
            self._climbed += self.limit > before
            if self._climbed > 1:
                for at in range(self.limit + 1, self.most + 1):
                    self._against[at] = min(self._against[at], BEYOND)

    @property
    def settles_at(self) -> float:
        """When the request that tries a level again will not have been refused; infinite where there is none."""
        return self._trying.at + SURVIVED * self._refused_within if self._trying else inf

    def settle(self, now: float) -> None:
        """Takes the level that is tried again for accepted, once its request was not refused in time."""
        if self._trying and now > self.settles_at:
            trying, self._trying = self._trying, None
            self._climb(trying, len(self._under_way))

    def _level(self, sent: SentRequest, in_flight: int) -> int:
        """The level that a request stands for: in a burst that is refused in part, the last sent may arrive first."""
        return min(sent.level, in_flight) if sent.number <= self._refused_after else sent.level

    def _count_for(self, sent: SentRequest, in_flight: int) -> None:
        if sent.counted:
            return
        sent.counted = True
        for at in range(self._level(sent, in_flight), 0, -1):
            if self._against[at] <= HELD:
                break
            self._against[at] = max(self._against[at] - ACCEPTED, HELD)

    def _answer(self, sent: SentRequest, in_flight: int) -> Suspicion:
        doubt = self._doubt
        # A smaller one would pass where the refused one did not.
        if doubt is None or sent.number <= doubt.after or sent.tokens < COMPARABLE * doubt.tokens:
            return Suspicion.NOTHING
        self._doubt = None
        if doubt.strikes and -inf < doubt.hinted_until <= sent.at:
            return Suspicion.WINDOW
        if self._level(sent, in_flight) >= doubt.lowest:
            # The same level was accepted: those refusals say nothing of the number in flight.
            for _ in range(doubt.refused):
                self.chance = min(MOST_CHANCE, self.chance + MEMORY * (1.0 - self.chance))
            self._against = [min(pair) for pair in zip(self._against, doubt.against, strict=True)]
            self._find_limit()
        return Suspicion.NOTHING

    def note_refused(self, sent: SentRequest, in_flight: int, now: float, hint: float | None) -> Suspicion:
        """A request was refused, with so many in flight at this moment, this one included."""
        level = min(in_flight if sent.number <= self._refused_after else max(in_flight, sent.level), self.most)
        self.first_refused_at = min(self.first_refused_at, now)
        self._hint = hint or 0.0
        self._refused_within = max(now - sent.at, REFUSED_MEMORY * self._refused_within)
        self.frequency.note_refused(sent.number, self._number, afresh=sent.number > self._refused_after)
        self._count_survivors(sent, in_flight, now)
        self._refused_after = self._number
        self._climbed = 0
        self._doubt_more(sent, level, now, -inf if hint is None else now + hint)
        # A refusal speaks against its level and all above; not against those where it is chance in all likelihood.
        before = self.limit
        evidence = log((1.0 - MISTAKEN) / self.chance)
        self._against[level] = min(self._against[level] + evidence, MOST)
        if not self.proven_chance or self._against[level] >= BEYOND:
            for at in range(level + 1, self.most + 1):
                self._against[at] = min(self._against[at] + evidence, MOST)
        self._find_limit()
        if level > before or self.limit < before:
            beyond = min(self.limit + 1, self.most)
            self._failed_tries[beyond] += 1
            self._wait = min(TRIED_AGAIN * 2 ** (self._failed_tries[beyond] - 1), RARELY)
            self._accepted = 0
        assert self._doubt
        # So many refusals in a row are no accident.
        telling_row = max(LEAST_ROW, ceil(log(CERTAIN) / log(self.chance)))
        if sent.level == level == 1 and self._doubt.refused >= telling_row:
            return Suspicion.WINDOW
        return Suspicion.FREQUENT if self.frequency.is_high else Suspicion.NOTHING

    def _count_survivors(self, refused: SentRequest, in_flight: int, now: float) -> None:
        """A refusal comes sooner than a reply: what is under way for twice as long as this one was, is accepted."""
        for sent in self._under_way:
            if now - sent.at <= SURVIVED * (now - refused.at):
                return
            self._answer(sent, in_flight)
            self._count_for(sent, in_flight)

    def _doubt_more(self, sent: SentRequest, level: int, now: float, hinted_until: float) -> None:
        """Opens a doubt, or adds a refusal to the one there is: a strike, if its test was refused and not by chance."""
        doubt = self._doubt
        if doubt is None or now - doubt.at > FORGOTTEN:
            self._doubt = Doubt(now, self._number, sent.tokens, hinted_until, level, [*self._against])
            return
        doubt.hinted_until = max(doubt.hinted_until, hinted_until)
        doubt.lowest = min(doubt.lowest, level)
        if sent.number > doubt.after:
            # A smaller one that is refused says as much of the larger one.
            doubt.refused += 1
            doubt.strikes += level <= self._next_tested_level and self.chance**doubt.refused < UNLIKELY
            doubt.tokens = min(doubt.tokens, sent.tokens)

    def _find_limit(self) -> None:
        """Sets the limit anew: it is at least one, and no more than were tried before."""
        beyond = (at for at in range(1, self._highest + 1) if self._against[at] >= BEYOND)
        self.limit = max(1, next(beyond, self._highest + 1) - 1)

    def expect(self, share: float) -> None:
        """Expects that such a share is refused, which may be by chance, while a pace is on trial."""
        self._usual = min(max(share, LEAST_CHANCE), MOST_CHANCE)
        self.chance = max(self.chance, self._usual)

    def forget(self) -> None:
        """Forgets all evidence: it was not the number in flight that was refused."""
        self._usual = LEAST_CHANCE
        self._against = [0.0] * (self.most + 1)
        self._doubt = None
        self.frequency.forget()
        self.first_refused_at = inf
        self._find_limit()

    def blame_chance(self, share: float) -> None:
        """Neither fewer in flight nor a slower pace makes the refusals fewer."""
        self.proven_chance, self._usual = share, LEAST_CHANCE
        self.chance = max(self.chance, min(share, MOST_CHANCE))
        self.frequency.put_off(share)
