"""Four addresses of one model: the sum of their rates, though one of them refuses and one is away for a minute.

    python -m benchmarks.pool

Virtual time; the services are those of tests/service behind aembed's whole client, and their ledgers are the judges.
Three addresses have limits of their own, one of those is away for the second minute, and the fourth refuses everything.
Exits 1 if a bar is missed: at least 0.95 of the sum of the rates while an address is there, every text right, none
billed twice.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass

import httpx
import numpy as np

from aembed import Embedder, Embeddings
from aembed.providers._address_pool import AddressPool
from aembed.providers.openai import OpenAIProvider
from benchmarks.results import Bar, finish
from tests.service.faults import Fault, First, Hang, Outage, Request, Script, Status
from tests.service.in_process import DIMENSIONS, KEY, MODEL, InProcess, inline
from tests.service.limits import RateLimits
from tests.service.server import Latency
from tests.service.service import Service
from tests.service.vectors import digest, vector_of
from tests.service.windows import WindowKind
from tests.stage.clock import run_virtual

LEAST_SHARE = 0.95
AWAY = 60.0, 120.0
UNAVAILABLE = Status(503)
TOKENS_A_MINUTE = 1_000_000, 500_000, 250_000
AT_A_TIME = 6, 4, 2
TEXT_TOKENS = 1_009
BATCH_TOKENS = 20_180
PROBE = digest(b"a")
LATENCY, SLOW = Latency(1.0, sigma=0.3), Latency(20.0)


@dataclass(frozen=True, slots=True)
class Case:
    """`kind` None: servers without limits of a minute, which take so many requests at a time."""

    name: str
    refusal: Fault
    kind: WindowKind | None = "gcra"
    headers: bool = True
    away: Fault = UNAVAILABLE
    seconds: float = 300.0
    timeout: float = 60.0


REFUSALS = {
    "429 with a hint": Status(429, headers=[("retry-after", "20")]),
    "429 bare": Status(429),
    "401": Status(401),
    "400": Status(400, {"error": {"message": "Something is wrong.", "type": "invalid_request_error"}}),
    "503": UNAVAILABLE,
}
CASES = [
    *[Case(f"refuses with {name}", refusal) for name, refusal in REFUSALS.items()],
    Case("its limits are told by no header", REFUSALS["429 bare"], headers=False),
    Case("sliding windows", REFUSALS["401"], "sliding"),
    Case("hangs while it is away", REFUSALS["401"], away=Hang()),
    Case("so many at a time", REFUSALS["429 bare"], None, seconds=600.0),
    Case("so many at a time, hangs while it is away", REFUSALS["503"], None, away=Hang(), seconds=600.0),
]


@dataclass(frozen=True, slots=True)
class Outcome:
    name: str
    share: float
    seconds: float
    wrong: int
    again: int
    refused: int
    requests: int

    def __str__(self) -> str:
        return (
            f"{self.name:44} {self.share:6.1%} of the sum of the rates, {self.wrong} texts lost or wrong, "
            f"{self.again} billed twice, {self.refused} of {self.requests:,} requests refused or failed"
        )

    def bars(self) -> list[Bar]:
        return [
            Bar(f"a pool of four addresses: {self.name}", self.share, least=LEAST_SHARE, unit=" of the sum"),
            Bar(f"a pool of four addresses: {self.name}, texts lost or billed twice", self.wrong + self.again, most=0),
        ]


@dataclass(frozen=True, slots=True)
class AtATime:
    """Refuses, without a hint, what comes while so many are in flight."""

    service: Service
    most: int

    def __call__(self, request: Request) -> Fault | None:
        return Status(429) if self.service.ledger.in_flight >= self.most else None


def services_of(case: Case) -> list[Service]:
    """The last one refuses everything, the second is away for a minute."""
    services = [Service(rate_headers=case.headers, retry_after=case.headers) for _ in TOKENS_A_MINUTE]
    for number, service in enumerate(services):
        scripts: list[Script] = [Outage(*AWAY, case.away)] if number == 1 else []
        if case.kind is None:
            scripts.append(AtATime(service, AT_A_TIME[number]))
        else:
            service.limits = RateLimits.of(case.kind, 3_000, TOKENS_A_MINUTE[number])
        service.script = First(scripts)
    return [*services, Service(script=lambda request: case.refusal, rate_headers=False)]


def latency_of(case: Case) -> Latency:
    return SLOW if case.kind is None else LATENCY


def rates_of(case: Case) -> list[float]:
    """Tokens a second of each address that gives any, in full requests."""
    if case.kind is None:
        return [most * BATCH_TOKENS / SLOW.seconds(BATCH_TOKENS, 0) for most in AT_A_TIME]
    return [tokens / 60 for tokens in TOKENS_A_MINUTE]


def texts_of(case: Case) -> list[str]:
    tokens = sum(rate * case.seconds for rate in rates_of(case)) - rates_of(case)[1] * (AWAY[1] - AWAY[0])
    return [f"{number:08d} {'word ' * 200}" * 4 for number in range(int(tokens / TEXT_TOKENS))]


async def run(case: Case) -> Outcome:
    services, texts = services_of(case), texts_of(case)
    async with AsyncExitStack() as stack:
        addresses = []
        for number, service in enumerate(services):
            transport = InProcess(service, latency_of(case))
            client = await stack.enter_async_context(httpx.AsyncClient(transport=transport))
            url = f"https://{'abcd'[number]}.test/v1"
            addresses.append(
                OpenAIProvider(
                    MODEL,
                    api_key=KEY,
                    base_url=url,
                    dimensions=DIMENSIONS,
                    http_client=client,
                    run_in_thread=inline,
                )
            )
        embedder = await stack.enter_async_context(
            Embedder(AddressPool(addresses), max_tokens_per_batch=BATCH_TOKENS, timeout=case.timeout)
        )
        embedder._engine.run_in_thread = inline
        embeddings = await embedder.embed_documents(texts)
        seconds = asyncio.get_running_loop().time()
    return judged(case, services, texts, embeddings, seconds)


def judged(
    case: Case, services: Sequence[Service], texts: Sequence[str], embeddings: Embeddings, seconds: float
) -> Outcome:
    ledgers = [service.ledger for service in services]
    accepted = sum(event.tokens for each in ledgers for event in each.events if event.label == "accepted")
    present = [seconds, seconds - (AWAY[1] - AWAY[0]), seconds]
    most = sum(rate * there for rate, there in zip(rates_of(case), present, strict=True))
    wrong = sum(
        vector is None or not np.array_equal(vector, vector_of(text, DIMENSIONS))
        for text, vector in zip(texts, embeddings, strict=True)
    )
    billed: Counter[bytes] = sum([Counter(each.times_billed) for each in ledgers], Counter())
    del billed[PROBE]  # the word that asks an address whether it is back
    refused = sum(each.requests - each.accepted for each in ledgers)
    again = sum(billed.values()) - len(billed)
    return Outcome(case.name, accepted / most, seconds, wrong, again, refused, sum(each.requests for each in ledgers))


def main() -> int:
    outcomes = []
    for case in CASES:
        outcomes.append(outcome := run_virtual(run, case))
        print(outcome, flush=True)
    return finish("pool", list(map(asdict, outcomes)), [bar for outcome in outcomes for bar in outcome.bars()])


if __name__ == "__main__":
    sys.exit(main())
