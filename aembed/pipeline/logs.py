"""What the log says of a job: one line, of counts and of names of classes. No text, no id, no key."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aembed.results import Report

logger = logging.getLogger("aembed")


@contextmanager
def logged(verb: str, report: Callable[[], Report]) -> Iterator[None]:
    """One INFO line when the job has ended, however that was."""
    ending = ""
    try:
        yield
    except BaseException as error:
        ending = f", stopped by {type(error).__name__}"
        raise
    finally:
        logger.info("%s: %s%s", verb, report(), ending)
