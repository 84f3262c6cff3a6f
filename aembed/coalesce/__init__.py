"""This folder makes few requests of many small awaits: the queries of a web app that come together share a request.

Read `coalescer.py` first: it has the picture of a query's flight. `_flights` holds what is on its way, `_queue` what is
not on its way yet, `_timeouts` the deadlines of the calls. `many_queries` asks for many at once.
"""

from aembed.coalesce.coalescer import Coalescer
from aembed.coalesce.many_queries import embed_queries

__all__ = ["Coalescer", "embed_queries"]
