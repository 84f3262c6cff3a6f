"""This module awaits stores, whosever they are: with a limit of time, and with errors of our own."""

from __future__ import annotations

import asyncio
from typing import Any

from aembed.errors import AembedError, StoreError

# Supabase, for one, ends each statement after 2 minutes: nothing that takes longer can succeed there. Smaller, a store
# under load would stop a job whose rows are paid for; larger, a dead one would hold it up.
STORE_TIMEOUT = 120.0
"""A store that does not answer is given up after so many seconds."""


async def await_store(awaitable: Any) -> Any:
    """The answer of a store, whosever store it is: anything but an aembed error becomes a StoreError."""
    try:
        async with asyncio.timeout(STORE_TIMEOUT):
            return await awaitable
    except AembedError:
        raise
    except TimeoutError:
        raise StoreError(f"the store did not answer within {STORE_TIMEOUT:g} s") from None
    except Exception as error:
        raise StoreError(f"the store raised {type(error).__name__}") from error
