"""This module makes one plain error of whatever ended a job; nothing public raises an ExceptionGroup."""

from __future__ import annotations

import asyncio
import logging

from aembed.core.progress import Tally
from aembed.errors import AembedError, StoppedError, copy_error

logger = logging.getLogger("aembed")


def as_own_error(error: BaseException) -> AembedError:
    """The error itself if it is one of ours; a foreign one becomes the cause of one of ours."""
    if isinstance(error, AembedError):
        return error
    if isinstance(error, asyncio.CancelledError):
        stopping: AembedError = StoppedError(
            "a request or a call of the store was cancelled, and not by this job; run the same again"
        )
    else:
        logger.error("the job ended in an unexpected error", exc_info=error)
        stopping = AembedError(f"unexpected {type(error).__name__}")
    stopping.__cause__ = error
    return stopping


def common_error(tally: Tally) -> AembedError | None:
    """The error that stops a job in which each record failed for the same reason; None for any other job."""
    failure = tally.common_failure
    if failure is None:
        return None
    error = copy_error(failure.error)
    error.args = (f"each of the {tally.inputs:,} texts failed, for one reason: {failure.error}",)
    return error
