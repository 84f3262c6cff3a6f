"""Stage 6: how long one request may take.

A reply takes a + b * tokens seconds, with a and b of that server and that hour. So the time of one size bounds
that of another: a larger request takes no more than in proportion, a smaller one no more.

A gateway that waits for its own upstream is late without being dead, and what is cut there is paid twice. So until
a request was seen to hang to the end, what is cut by a deadline that was learned is a small share of the bill: of what
was answered, and of half of what is still to come, since that is believed and not known.
"""

from __future__ import annotations

from math import inf

FACTOR = 4.0
"""A deadline is so many times the slow replies of that size."""
LEAST = 3.0
"""Seconds; no deadline is shorter."""
SEEN = 5
"""Replies before a deadline is tightened."""
RATION = 0.02
"""Of the tokens that were answered."""
BELIEVED = 0.5
"""Of the tokens that are said to be still to come."""
UP, DOWN = 0.5, 0.02
"""How far the estimate follows a slower and a faster reply: it settles where 4 % are slower."""


class Deadlines:
    """`timeout` is the ceiling. Seconds."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._slow: dict[int, float] = {}
        self._replies = 0
        self._slack = 1.0
        self._answered = self._cut = 0.0
        self._hangs = False

    def __repr__(self) -> str:
        return f"<Deadlines {self._replies} replies, slack {self._slack:g}, at most {self._timeout:g} s>"

    def observe(self, tokens: float, seconds: float) -> None:
        """A reply came."""
        size = _size(tokens)
        slow = self._slow.get(size, seconds)
        self._slow[size] = slow + (UP if seconds > slow else DOWN) * (seconds - slow)
        self._replies += 1
        self._answered += tokens
        self._slack = max(1.0, self._slack / 2)

    def missed(self, tokens: float, deadline: float) -> None:
        """No reply came within this deadline. Requests that had the same one raise the next one only once."""
        self._cut += tokens
        self._hangs |= deadline >= self._timeout
        if deadline >= 0.99 * self.for_request(tokens):
            self._slack = min(2.0 * self._slack, self._timeout)

    def ration(self, to_come: float = 0.0) -> float:
        """Tokens that may be cut by a deadline that was learned, where so many are still to be sent."""
        return inf if self._hangs else RATION * (self._answered + BELIEVED * to_come) - self._cut

    def for_request(self, tokens: float) -> float:
        """The total deadline, from sending to the last byte."""
        if self._replies < SEEN:
            return self._timeout
        return min(max(FACTOR * self._expected(_size(tokens)), LEAST) * self._slack, self._timeout)

    def _expected(self, size: int) -> float:
        return min((slow * 2.0 ** max(0, size - seen) for seen, slow in self._slow.items()), default=inf)


def _size(tokens: float) -> int:
    """Sizes within a factor of two are one."""
    return max(int(tokens), 1).bit_length()
