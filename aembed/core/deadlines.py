"""Stage 6 learns from the replies how long one request may take.

A reply takes a + b * tokens seconds, where a and b belong to that server and that hour (OpenAI: 78 ms + 22 us a token,
measured in recorded replies). So the time of one size bounds
that of another: a larger request takes no more than in proportion, a smaller one no more.

A gateway that waits for its own upstream is late without being dead, and what is cut there is paid twice. So until
a request was seen to hang to the end, what is cut by a deadline that was learned is a small share of the bill: of what
was answered, and of half of what is still to come, since that is believed and not known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

# Chosen: a server under load answers a few times slower without being dead. Smaller, paid replies would be cut; larger,
# a hung request would hold its place so much longer.
FACTOR = 4.0
"""A deadline is so many times what a slow reply of that size takes."""
# Chosen, with a measurement in mind: on work with 5 % faults, hangs among them, openai-python took 25 s with its own
# timeout and 8.6 s with one of 3 s. Smaller, the jitter of a fast server would be taken for a hang.
LEAST = 3.0
"""No deadline is shorter than so many seconds."""
# Chosen: fewer replies may all be fast by chance; more would leave a small job without any deadline of its own.
SEEN = 5
"""So many replies come before a deadline is tightened."""
# Chosen: what is cut may be billed twice, and 2 % more is a price that nobody notices; at 0 a slow gateway costs
# nothing and a hung server holds each request for the whole timeout.
SHARE_THAT_MAY_BE_CUT = 0.02
"""Deadlines that were learned may cut so much of the tokens that were answered, and of those believed to come."""
# Chosen: half. What a job says is still to come may be refused, or stop early, and is then no part of its bill.
BELIEVED = 0.5
"""Of the tokens that are said to be still to come so much counts for the ration."""
# Computed: the estimate is at rest where UP * slower = DOWN * faster, that is where 4 % of the replies are slower.
UP, DOWN = 0.5, 0.02
"""How far the estimate follows a slower reply, and how far a faster one."""

# Chosen: a gateway that waited for its upstream waits about as long the next time. Larger, a hung request would hold
# its place for longer; smaller, what is paid for would be cut just before it came.
AS_LATE_AGAIN = 1.25
"""So many times what the latest reply took, of any size, the next one may take."""


@dataclass(eq=False, repr=False)
class Deadlines:
    """The deadlines of one server's requests, in seconds. `timeout` is the ceiling of all."""

    _timeout: float
    _slow: dict[int, float] = field(default_factory=dict)
    _replies: int = 0
    _latest: float = 0.0
    _slack: float = 1.0
    _answered: float = 0.0
    _cut: float = 0.0
    _hangs: bool = False

    def __repr__(self) -> str:
        return f"<Deadlines {self._replies} replies, slack {self._slack:g}, at most {self._timeout:g} s>"

    def observe(self, tokens: float, seconds: float) -> None:
        """Learns from a reply that came after so many seconds."""
        size = _size_class(tokens)
        slow = self._slow.get(size, seconds)
        self._slow[size] = slow + (UP if seconds > slow else DOWN) * (seconds - slow)
        self._latest = max(seconds, self._latest + DOWN * (seconds - self._latest))
        self._replies += 1
        self._answered += tokens
        self._slack = max(1.0, self._slack / 2)

    def note_missed(self, tokens: float, deadline: float) -> None:
        """No reply came within this deadline. Requests that had the same deadline raise the next one only once."""
        self._cut += tokens
        # One that hung for the whole timeout shows that this server does hang: then cutting is not rationed any more.
        self._hangs |= deadline >= self._timeout
        # 0.99 for rounding: this deadline is still the one in force, so no neighbour has raised it yet.
        if deadline >= 0.99 * self.deadline_of(tokens):
            self._slack = min(2.0 * self._slack, self._timeout)

    def tokens_that_may_be_cut(self, to_come: float = 0.0) -> float:
        """How many tokens may still be cut by a deadline that was learned, where so many are still to be sent."""
        return inf if self._hangs else SHARE_THAT_MAY_BE_CUT * (self._answered + BELIEVED * to_come) - self._cut

    def patient_deadline_of(self, tokens: float) -> float:
        """The deadline of what need not be answered soon: a server that is late is late with small requests, too."""
        return min(max(self.deadline_of(tokens), AS_LATE_AGAIN * self._latest), self._timeout)

    def deadline_of(self, tokens: float) -> float:
        """The total deadline, from sending to the last byte."""
        if self._replies < SEEN:
            return self._timeout
        size = _size_class(tokens)
        expected = min([slow * 2.0 ** max(0, size - seen) for seen, slow in self._slow.items()], default=inf)
        return min(max(FACTOR * expected, LEAST) * self._slack, self._timeout)


def _size_class(tokens: float) -> int:
    """Sizes within a factor of two count as one."""
    return max(int(tokens), 1).bit_length()
