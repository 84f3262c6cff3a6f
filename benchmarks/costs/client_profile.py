"""Where the CPU time of `embed_documents` goes: 19,207 sections, replies that come at once, over http.

    python -m benchmarks.client_profile [--runs 12]

The kernel interrupts the process after each half millisecond of its CPU time, and the innermost function of aembed that
is at work is noted. Python notes it between two of its own steps, so that time within numpy is that of the next step:
the file is right, the function need not be. `client_cost` says what it costs beside others.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections import Counter
from pathlib import Path
from types import FrameType

import aembed
from aembed import Embedder, open_provider
from tests.sections import SECTIONS, sections
from tests.service.own_process import KEY, serving

SECONDS_A_SAMPLE = 0.0005
PACKAGE = Path(aembed.__file__).parent
PARTS = {
    "vectors: cut out of the reply, decoded, checked, copied to their place": (
        "core/vectors.py",
        "core/replies.py",
        "core/encodings.py",
    ),
    "the body of a request as JSON": ("providers/_exchanges.py",),
    "sockets and the event loop": ("providers/_http/", "outside aembed"),
    "texts: read, fingerprinted, counted, packed, put together": (
        "core/",
        "counters.py",
        "pipeline/",
        "coalesce/",
    ),
    "requests: slots, pace, tries": ("dispatch/", "providers/"),
}


class Samples(Counter[str]):
    """How often each file of aembed was at work."""

    def note(self, _: int, frame: FrameType | None) -> None:
        while frame and not Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
            frame = frame.f_back
        self[Path(frame.f_code.co_filename).relative_to(PACKAGE).as_posix() if frame else "outside aembed"] += 1

    def by_part(self) -> Counter[str]:
        """A file belongs to the first part that names it, or its folder."""
        parts = Counter[str]()
        for file, count in self.items():
            part = next((part for part, names in PARTS.items() if file.startswith(names)), "the rest")
            parts[part] += count
        return parts


async def measure(runs: int) -> Samples:
    texts, samples = sections(SECTIONS), Samples()

    async def embed() -> None:
        provider = open_provider("openai:text-embedding-3-small", api_key=KEY, base_url=service.url)
        async with Embedder(provider) as embedder:
            await embedder.embed_documents(texts)

    async with serving() as service:
        await embed()
        signal.signal(signal.SIGPROF, samples.note)
        signal.setitimer(signal.ITIMER_PROF, SECONDS_A_SAMPLE, SECONDS_A_SAMPLE)
        for _ in range(runs):
            await embed()
        signal.setitimer(signal.ITIMER_PROF, 0)
    return samples


def show(title: str, shares: Counter[str], all_of_them: int, most: int | None = None) -> None:
    print(title)
    for name, count in shares.most_common(most):
        print(f"  {count / all_of_them:6.1%}  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=12)
    samples = asyncio.run(measure(parser.parse_args().runs))
    show("by part", samples.by_part(), samples.total())
    show("by file", samples, samples.total(), most=20)


if __name__ == "__main__":
    main()
