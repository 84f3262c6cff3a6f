"""How many connections a server answers at a time, learned from those that it does not.

A server with a small pool of threads gives one to each connection for as long as that is kept, at rest too. One
connection more waits, though the server took it, until another is closed (llama-server, and whatever else is made with
cpp-httplib: 5 s at the most). What was sent on it is neither lost nor late: it needs a place.

Pure: every moment is an argument, in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# Chosen: smaller, a reply that is slow by chance passes for one that waits; larger, a connection without a place is
# found later.
FACTOR = 2.0
"""So many times what any reply took, and a connection that never answered is taken to wait for a place."""
# Chosen: below 50 ms a pause of our own event loop would look like a server that has no place.
LEAST_SECONDS = 0.05
# Chosen: one answer just after a place was made may be chance. More proofs cost a connection each.
PROOFS = 3
"""So many connections, one after another, were answered as soon as another one was closed: then the number of places is
believed. Where one was not, it was slow and had its place."""
# Chosen: 5 s is how long cpp-httplib keeps a place for a connection that rests; half an hour at the most, so that a
# server with more threads is found during the same job.
SECONDS_UNTIL_MORE, MOST_SECONDS_UNTIL_MORE = 5.0, 1_800.0
"""One place more is tried from time to time; where there is none, half as often from then on, else another at once."""


@dataclass(slots=True, eq=False)
class Caller:
    """A connection, as its server treats it. `asked_at` is None where no reply is due."""

    answers: int = 0
    asked_at: float | None = None
    content_bytes: int = 1
    helped_at: float | None = None
    proves: bool = False
    """It is answered soon after it was given room: there was none before."""


@dataclass(eq=False, repr=False)
class ConnectionLimit:
    """`places` is how many connections are answered at a time; None where there is no sign of a limit."""

    places: int | None = None
    _callers: dict[Caller, None] = field(default_factory=dict)
    _fresh: dict[Caller, None] = field(default_factory=dict)
    """Those that were never answered, in the order in which they came."""
    _slowest: float = 0.0
    _slowest_byte: float = 0.0
    _proofs: int = 0
    _places_then: int = 0
    _proven: int = 0
    _more_at: float = 0.0
    _interval: float = SECONDS_UNTIL_MORE

    def __repr__(self) -> str:
        return f"<Served {len(self._callers)} connections, {self.places or 'any number'} at a time>"

    # what happens

    def note_opened(self) -> Caller:
        caller = Caller()
        self._callers[caller] = self._fresh[caller] = None
        return caller

    def note_closed(self, caller: Caller) -> None:
        self._callers.pop(caller, None)
        self._fresh.pop(caller, None)

    def note_asked(self, caller: Caller, content_bytes: int, now: float) -> None:
        caller.asked_at, caller.content_bytes = now, max(1, content_bytes)

    def note_answered(self, caller: Caller, now: float) -> None:
        """The reply has come to its end."""
        asked_at, helped_at = caller.asked_at, caller.helped_at
        caller.answers += 1
        caller.asked_at = caller.helped_at = None
        self._fresh.pop(caller, None)
        if helped_at is not None:
            if caller.proves:
                self._note_helped(now, at_once=now - helped_at <= self._patience(caller))
        elif asked_at is not None:
            if caller.answers == 1 and self.places and self._proven < self.places == len(self._callers):
                self._more_at = now
            seconds = now - asked_at
            # Chosen: what was slowest counts half after 34 replies (0.98 ** 34). With no such loss, one slow reply
            # would hide the limit for ever.
            self._slowest = max(seconds, 0.98 * self._slowest)
            self._slowest_byte = max(seconds / caller.content_bytes, 0.98 * self._slowest_byte)

    def _note_helped(self, now: float, *, at_once: bool) -> None:
        self._proofs = self._proofs + 1 if at_once else 0
        if self._proofs < PROOFS:
            return
        if self.places is not None:
            self._interval = min(2.0 * self._interval, MOST_SECONDS_UNTIL_MORE)
        self.places = self._proven = max(1, self._places_then)
        self._more_at = now + self._interval

    # what follows

    def may_open(self, now: float) -> bool:
        if self.places is None or len(self._callers) < self.places:
            return True
        if now < self._more_at:
            return False
        self.places, self._more_at = self.places + 1, now + self._interval
        return True

    def has_to_give_way(self, now: float) -> bool:
        """Whether a connection that has been answered is to be closed, for one that waits for a place."""
        if self.places is not None and len(self._callers) > self.places:
            if unhelped := next((caller for caller in self._waiting() if caller.helped_at is None), None):
                unhelped.helped_at = now
            return True
        if not self._fresh or not self._slowest:
            return False
        waits = next((caller for caller in self._waiting() if self._waiting_since(caller) <= now), None)
        if waits is None:
            return False
        # Those that were answered have a place, and those that were given one.
        without = sum(caller.helped_at is None for caller in self._fresh)
        self._places_then = len(self._callers) - without
        waits.proves = waits.helped_at is None
        if not waits.proves:
            self._proofs = 0
        waits.helped_at = now
        return True

    def seconds_until_one_waits(self, now: float) -> float | None:
        """None where no connection may come to wait for a place."""
        moments = [self._waiting_since(caller) for caller in self._waiting()] if self._slowest else []
        return max(0.0, min(moments) - now) if moments else None

    def _waiting(self) -> list[Caller]:
        return [caller for caller in self._fresh if caller.asked_at is not None]

    def _waiting_since(self, caller: Caller) -> float:
        """When it is taken to wait for a place, or for another one: where it did not take one, after twice as long."""
        assert caller.asked_at is not None
        if caller.helped_at is None:
            return caller.asked_at + self._patience(caller)
        return caller.helped_at + max(self._patience(caller), caller.helped_at - caller.asked_at)

    def _patience(self, caller: Caller) -> float:
        """A reply takes no longer than the slowest, or than in proportion to what is asked."""
        return max(LEAST_SECONDS, FACTOR * max(self._slowest, self._slowest_byte * caller.content_bytes))
