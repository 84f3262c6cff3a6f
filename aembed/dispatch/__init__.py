"""This folder sends batches (stages 5 to 7); what it does is decided in `core/`.

A batch passes these, from the outside to the inside, which is a good order to read them in:

    dispatcher     the door: a batch, what its caller wants (_submission) and where its answers go; owned tasks (law 1)
    _shared        a text that somebody else has sent already is waited for, and not sent
    _delivery      one batch until nothing is left of it; with _fail_fast and _control, which find out who is to blame
    _request       one request with all its tries
    _requests      one try, with its deadline and its checks
    _sending       the same with its money, reserved beforehand
    _pool          the same for several addresses of one model: whichever is free first; each is a _member, each
                   request has a _route through them, and a _probe asks those that are away
    _admission     leave to send: a slot, a place in the budgets, an open gate; two lanes, queries before bulk

    _coordination  where several workers share one key: each leases its share of the limits from one database

`_batch_slots` counts the batches of a job, `_wait_report` says in the log what is waited for, `_telling` tells
`on_event` what happens, `_loop_affinity` is the event loop that all of it belongs to, `_notice` is how tasks wait for
each other.
"""

from aembed.dispatch._admission import Admission, Permit
from aembed.dispatch._batch_slots import BatchSlots
from aembed.dispatch._coordination import Coordination, SharedLimit
from aembed.dispatch._delivery import Answer, Answered, Deliver, PutAside, Refused
from aembed.dispatch._loop_affinity import LoopAffinity
from aembed.dispatch._notice import Notice
from aembed.dispatch._shared import SharedAnswer, Waiting
from aembed.dispatch._submission import SpendLimit, Submission
from aembed.dispatch._telling import Origin, Teller, origin_of
from aembed.dispatch._wait_report import WaitReport
from aembed.dispatch.dispatcher import Dispatcher

__all__ = [
    "Admission",
    "Answer",
    "Answered",
    "BatchSlots",
    "Coordination",
    "Deliver",
    "Dispatcher",
    "LoopAffinity",
    "Notice",
    "Origin",
    "Permit",
    "PutAside",
    "Refused",
    "SharedAnswer",
    "SharedLimit",
    "SpendLimit",
    "Submission",
    "Teller",
    "WaitReport",
    "Waiting",
    "origin_of",
]
