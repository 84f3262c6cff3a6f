"""A job from its plan to the summary, the same for `index` and `backfill`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from aembed.cli import _flags as flags
from aembed.cli import _progress
from aembed.cli._failures_file import FailuresFile
from aembed.cli._run import (
    OK,
    ROWS_ARE_OUT,
    SOME_FAILED,
    STOPPED,
    USAGE,
    ask,
    exit_code,
    is_interactive,
    reason_in_words,
)
from aembed.cli._show import (
    counts_json,
    dollars_in_words,
    duration_in_words,
    say_failures,
    tell_facts,
    tell_json,
)
from aembed.cli._streams import ReaderGone, printable_line, say, tell
from aembed.core.progress import KEPT_FAILURES
from aembed.embedder import Embedder
from aembed.errors import AembedError, BudgetExceededError, ConfigError, StoreError
from aembed.results import Failure, Plan, Progress, Report, count_in_words

# Chosen: a dollar buys 50 million tokens of the cheapest model of OpenAI. Smaller, people would be asked about every
# run, and learn to say yes unread; larger, a wrong folder costs more.
ASKED_ABOVE_USD = 1.0


@dataclass(frozen=True, kw_only=True)
class Output:
    """How a job is to be told of."""

    failures_to: flags.FailuresTo = None
    as_json: flags.AsJSON = False
    quiet: flags.Quiet = False
    skipped: Mapping[str, int] = field(default_factory=dict)
    """How many files of which kind were left out."""

    def note(self, line: str) -> None:
        if not self.quiet:
            say(line)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended. `error` stopped it."""

    progress: Progress
    failures: tuple[Failure, ...]
    error: AembedError | None = None
    signalled: bool = False


class Watch:
    """What is seen of a job while it runs."""

    def __init__(self, failures_file: FailuresFile | None) -> None:
        self.latest = Progress()
        self._failures: list[Failure] = []
        self._file = failures_file

    @property
    def failures(self) -> tuple[Failure, ...]:
        return tuple(sorted(self._failures, key=lambda failure: failure.index))

    def on_progress(self, progress: Progress) -> None:
        self.latest = progress

    def on_failure(self, failure: Failure) -> None:
        if len(self._failures) < KEPT_FAILURES:
            self._failures.append(failure)
        if self._file:
            self._file.write(failure)


Start: TypeAlias = Callable[[Watch], Coroutine[Any, Any, Report]]


async def follow_job(start: Start, embedder: Embedder, plan: Plan, output: Output, *, goes_on: bool = False) -> Ending:
    """Runs a job. Cancelled, it waits until what was sent is stored, and shows how far the job came. One that `goes_on`
    has no end that it could be shown to be near.

    Raises what was refused before the job began.
    """
    with closing(FailuresFile(output.failures_to)) if output.failures_to else nullcontext() as file:
        watch = Watch(file)
        job = asyncio.create_task(start(watch))
        try:
            total = None if goes_on else plan.inputs
            async with _progress.show_embedding(lambda: watch.latest, total, quiet=output.quiet):
                await _wait_until_job_landed(job, embedder, output)
        except asyncio.CancelledError:
            show_ending(Ending(watch.latest, watch.failures, signalled=True), output)
            raise
    if file and file.has_old_failures:
        output.note(f"no failures; {printable_line(output.failures_to)} is left as an earlier run wrote it")
    try:
        return Ending(job.result(), watch.failures)
    except AembedError as error:
        if error.report is None:
            raise
        all_failed = error.report.failed == error.report.inputs
        return Ending(error.report, watch.failures, None if all_failed else error)


async def _wait_until_job_landed(job: asyncio.Task[Report], embedder: Embedder, output: Output) -> None:
    try:
        await asyncio.wait([job])
    except asyncio.CancelledError:
        requests = count_in_words(embedder.in_flight, "request that is", "requests that are")
        waiting = f"waiting for {requests} paid for; " if embedder.in_flight else ""
        output.note(f"stopping: {waiting}press Ctrl-C again to quit at once")
        job.cancel()
        await asyncio.wait([job])
        raise


def ask_to_agree(plan: Plan, *, yes: bool) -> bool:
    """Asks on a terminal before more than a dollar is spent."""
    if yes or not plan.cost_usd or plan.cost_usd <= ASKED_ABOVE_USD or not is_interactive():
        return True
    price = (
        f"about {dollars_in_words(plan.cost_usd)} for {count_in_words(plan.tokens, 'token')} in "
        f"{count_in_words(plan.requests, 'request')}"
    )
    if ask(f"This will cost {price}. Go on?"):
        return True
    say("nothing was sent; --limit N tries a part of it, --max-cost USD stops at a sum")
    return False


def show_ending(ending: Ending, output: Output, *, batch: bool = False) -> int:
    """Returns the exit code; with `batch` also the one of rows that are out."""
    progress, error = ending.progress, ending.error
    if error and exit_code(error) == USAGE:
        raise error
    if progress.failed:
        say(f"{progress.failed:,} failed:")
        say_failures(ending.failures, progress.failed, rest="--failures-to FILE writes all of them")
    if refused := _count_refused_earlier(progress):
        output.note(f"{refused:,} refused earlier; --retry-failed tries them again")
    try:
        _tell_ending(ending, output)
    except ReaderGone:
        pass
    except ConfigError as unwritten:  # the exit code is about the texts
        say(reason_in_words(unwritten))
    if error is None and progress.submitted:
        with_batch = "run the same command again" if batch else "the same with --batch collects them"
        say(f"{count_in_words(progress.submitted, 'text is', 'texts are')} out in batches; {with_batch}")
        if batch:
            return ROWS_ARE_OUT
    if error is None and progress.pending:
        say(f"{count_in_words(progress.pending, 'text')} still pending; run the same command again")
        return STOPPED
    if error is None:
        return SOME_FAILED if progress.failed else OK
    say(f"stopped early: {reason_in_words(error)}")
    if isinstance(error, StoreError) and (lost := sum(map(len, error.unsaved))):
        were = "text was" if lost == 1 else "texts were"
        say(f"{lost:,} {were} paid for and could not be written; the next run sends what is missing again")
    larger = " with a larger budget" if isinstance(error, BudgetExceededError) else ""
    say(f"all that was stored is kept; run the same command again{larger} to go on")
    return exit_code(error)


def _tell_ending(ending: Ending, output: Output) -> None:
    progress = ending.progress
    if output.as_json:
        stopped = {"error": "Interrupted", "message": "by a signal"} if ending.signalled else None
        if ending.error:
            stopped = {"error": type(ending.error).__name__, "message": str(ending.error)}
        more = {"refused_earlier": _count_refused_earlier(progress), "skipped_files": dict(output.skipped)}
        tell_json({**counts_json(progress, ending.failures), **more, "stopped": stopped})
    elif not output.quiet:
        tell(str(progress))


def _count_refused_earlier(progress: Progress) -> int:
    return progress.refused_earlier if isinstance(progress, Report) else 0


def show_plan(plan: Plan, seconds: float | None, output: Output, more: Sequence[str] = ()) -> int:
    """The dry run. Returns the exit code."""
    if output.as_json:
        seen = {"seconds": seconds, "skipped_files": dict(output.skipped)}
        tell_json({**counts_json(plan, plan.failures), **seen})
        return OK
    if plan.failed:
        say(f"{plan.failed:,} would fail:")
        say_failures(plan.failures, plan.failed, rest="--json lists more of them")
    facts = [
        ("texts", f"{plan.inputs:,}", ""),
        ("  new", f"{plan.new:,}", ""),
        ("  changed", f"{plan.changed:,}", ""),
        ("  unchanged", f"{plan.unchanged:,}", ""),
        ("  failing", f"{plan.failed:,}", "too long, empty or broken" if plan.failed else ""),
        ("duplicates", f"{plan.duplicates:,}", "equal texts are sent once" if plan.duplicates else ""),
        ("to be removed", f"{len(plan.stale):,}", "rows whose text is gone" if plan.stale else ""),
        ("requests", f"{plan.requests:,}", ""),
        ("tokens", f"{plan.tokens:,}", "by the provider's own estimate" if plan.tokens else ""),
        ("price", "unknown" if plan.cost_usd is None else dollars_in_words(plan.cost_usd), ""),
    ]
    if seconds is not None:
        facts.append(("time", duration_in_words(seconds), "at the least, at the given rate limits"))
    tell_facts(facts)
    for line in more:
        output.note(line)
    output.note("nothing was sent or written")
    return OK
