"""`aembed failures`: the texts that were refused."""

from __future__ import annotations

from aembed.cli import _options as flags
from aembed.cli._run import OK, run
from aembed.cli._show import failure_json, printable, say, tell, tell_json
from aembed.cli._stores import check_filled, opened


def failures(store: flags.StoreURL = flags.DEFAULT_STORE, as_json: flags.AsJSON = False) -> None:
    """List the texts that were refused and are skipped until they change: id, error, message."""
    run(_failures(store, as_json))


async def _failures(url: str, as_json: bool) -> int:
    async with opened(url) as store:
        info = await store.info()
        refusals = await store.refusals()
    if not info.last_run and not refusals:
        check_filled(url, info)
    if as_json:
        tell_json({"failures": [failure_json(refusal) for refusal in refusals]})
        return OK
    for refusal in refusals:
        tell(f"{printable(refusal.id)}  {refusal.error}: {printable(refusal.message)}")
    say(f"{len(refusals):,} refused; aembed index --retry-failed tries them again" if refusals else "no failures")
    return OK
