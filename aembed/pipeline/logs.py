"""This module writes the one line that the log has for a job: counts and names of classes, no text, no id, no key.

Law 9: keys and database passwords never appear in a log, and neither do texts and ids of users.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aembed.results import Report

logger = logging.getLogger("aembed")


@contextmanager
def log_ending(verb: str, report: Callable[[], Report]) -> Iterator[None]:
    """Writes one INFO line when the job has ended, however that was."""
    ending = ""
    try:
        yield
    except BaseException as error:
        ending = f", stopped by {type(error).__name__}"
        raise
    finally:
        logger.info("%s: %s%s", verb, report(), ending)
