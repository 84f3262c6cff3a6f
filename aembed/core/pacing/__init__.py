"""Stage 5 says when a request may go: budgets of requests, tokens and texts, given out as reservations.

All of it is pure: `now` is the seconds of any one clock. One request goes this way:

                  start moves: a query went before it, or a limit changed
                   +---------------------+
                   v                     |
    reserve() -> waiting ----------------+     the gate closed, or its slot was taken: give_back(), reserve() later
                   |
                   | start has come
                   v
            note_sent() -> on its way -+-> note_accepted()    has vectors: headers and levels are learned from
                   ^                   +-> observe()          any other reply that has headers
             resize() if it carries    +-> note_throttled()   a 429, whose answer is a Throttling:
             more or less                   |                   closes: a limit is used up, all wait (the gate closes)
                                            v                   too_large: such a size is never accepted, send parts
                                       note_ended(), after      neither: it alone is tried again
                                       each of the three

What refuses, where no header says it, is found out by an inquiry with three answers; a pace is only a hypothesis:

    429 -> doubt -+- fewer at a time are accepted ----> in flight: InFlight holds that number
                  +- everything is refused a while ---> window: Congestion measures a pace -> on trial -> kept
                  +- neither makes them fewer --------> chance: nothing is slowed down  <---- taken back

Read _reservation and _budget first (a limit that is known), then _pacer, then _inquiry, _in_flight, _frequency, _trial
and _congestion (a limit that nobody names). In use:

    pacer = Pacer(requests_per_minute=None, tokens_per_minute=None, concurrency=8)    None: learned from the replies
    pacer.max_batch_tokens          what the next batch may hold, None while nothing speaks against the provider's limit
    pacer.concurrency               requests in flight at most; fewer than the given where the provider takes fewer
    pacer.is_too_large(tokens)      at the head of the lane: such a size is never accepted, send the batch in parts
    pacer.is_beyond_share(tokens)   there, too: it was made for a larger share of the limit, send the batch in parts
    reservation = pacer.reserve(tokens, now, interactive=False)       by the head of a lane only, one at a time
    while reservation.start > now: wait                               `start` may move while it waits: read it again
    pacer.resize(reservation, tokens, texts, now)                     as it is sent: it carries more, or less
    pacer.give_back(reservation, now)                                 it will not be sent; never after sending
    pacer.note_sent(reservation, in_flight, now)                      as one of so many, itself included
    pacer.note_accepted(reservation, hints, now, in_flight)           the reply has vectors
    pacer.note_throttled(reservation, hints, now, in_flight)          429; the Throttling says: parts, close, or neither
    pacer.observe(hints, now)                                         any other reply that has headers
    pacer.note_ended(reservation)                                     after each of these three

The caller has two lanes, each first come, first served. A query goes before the bulk request that still waits, and
pushes it back by 5 s at most; while there are queries, bulk leaves them 5 % of both limits. What was sent stays
booked, whatever came of it: some services count refused requests as well. A limit that the user set is a ceiling,
which headers can only lower; without it the limit follows the headers both ways. Token counts are the provider's own
estimate. Where no limit is known the first batches are small, and refusals show which limit there is: see Inquiry.
Processes on one key need no coordinator: see RateBudget.share and Congestion.
"""

from aembed.core.pacing._pacer import Pacer
from aembed.core.pacing._reservation import Reservation, Throttling, Unit

__all__ = ["Pacer", "Reservation", "Throttling", "Unit"]
