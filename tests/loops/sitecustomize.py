"""What AEMBED_TEST_LOOP names is the event loop of this process, and of those that have this folder on their path."""

from __future__ import annotations

import asyncio
import os
import sys
import warnings


def install(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.14 on
        match name:
            case "":
                pass
            case "uvloop":
                import uvloop

                asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
            case "eager":
                asyncio.set_event_loop_policy(_eager())
            case _:
                sys.exit(f"AEMBED_TEST_LOOP={name!r} is neither uvloop nor eager")


def _eager() -> asyncio.AbstractEventLoopPolicy:
    class Eager(asyncio.DefaultEventLoopPolicy):
        """Tasks begin as they are made, and may be over before `create_task` returns."""

        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            loop = super().new_event_loop()
            loop.set_task_factory(asyncio.eager_task_factory)
            return loop

    return Eager()


install(os.environ.get("AEMBED_TEST_LOOP", ""))
