"""Stages 5 to 7: sends batches. Slots, lanes, pace, gate, deadlines, retries, splitting, owned tasks."""

from aembed.dispatch._admission import Admission, Ticket
from aembed.dispatch._delivery import Answer, Answered, Deliver, Refused
from aembed.dispatch._errand import Errand, Purse
from aembed.dispatch._home import Home
from aembed.dispatch._places import Places
from aembed.dispatch._shared import Got, Waiting
from aembed.dispatch._waits import Waits
from aembed.dispatch.dispatcher import Dispatcher

__all__ = [
    "Admission",
    "Answer",
    "Answered",
    "Deliver",
    "Dispatcher",
    "Errand",
    "Got",
    "Home",
    "Places",
    "Purse",
    "Refused",
    "Ticket",
    "Waiting",
    "Waits",
]
