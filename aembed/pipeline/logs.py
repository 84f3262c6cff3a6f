"""This module writes the one line that the log has for a job: counts and names of classes, no text, no id, no key.

Law 9: keys and database passwords never appear in a log, and neither do texts and ids of users.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aembed.pipeline.telling import JobTeller
from aembed.results import Report

logger = logging.getLogger("aembed")


@contextmanager
def log_ending(verb: str, report: Callable[[], Report], teller: JobTeller | None = None) -> Iterator[None]:
    """Writes one INFO line when the job has ended, however that was, and tells who listens of both ends."""
    error_name = ""
    job = teller.began(verb) if teller else 0
    try:
        yield
    except BaseException as error:
        error_name = type(error).__name__
        raise
    finally:
        ended = report()
        logger.info("%s: %s%s", verb, ended, f", stopped by {error_name}" if error_name else "")
        if teller:
            teller.ended(job, verb, ended, error_name)
