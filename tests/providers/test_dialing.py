"""Names, addresses and connections (rows B1, E6), over real sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from aembed.errors import UnavailableError
from aembed.providers._http import HTTP
from aembed.providers._http._connection import HandshakeError
from aembed.providers._http._dialing import HAPPY_EYEBALLS_SECONDS, connect_first
from aembed.providers._http._resolving import Address, Resolver
from tests.hostile.jobs import until
from tests.providers.raw_server import RawServer, reply, serving

HERE = Path(__file__).parent
MB = 1_000_000


def on_uvloop(job: Coroutine[Any, Any, None]) -> None:
    pytest.importorskip("uvloop").run(job)


every_loop = pytest.mark.parametrize("run", [asyncio.run, on_uvloop], ids=["asyncio", "uvloop"])
Run = Callable[[Coroutine[Any, Any, None]], None]


@asynccontextmanager
async def deaf(host: str) -> AsyncIterator[int]:
    """A port whose queue of connections is full: the handshake is never answered."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen(0)
        port = int(listener.getsockname()[1])
        callers = [socket.socket(family) for _ in range(3)]
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex((host, port))
        try:
            yield port
        finally:
            for caller in callers:
                caller.close()


@every_loop
def test_b1_an_address_that_says_nothing_does_not_hold_up_the_others(run: Run) -> None:
    async def job() -> None:
        async with deaf("::1") as silent, serving(reply()) as server:
            started = monotonic()
            addresses = [Address(True, "::1", silent)] * 2 + [Address(False, "127.0.0.1", server.port)]
            connection = await connect_first(addresses, None, "")
            assert HAPPY_EYEBALLS_SECONDS * 0.9 < monotonic() - started < 4 * HAPPY_EYEBALLS_SECONDS
            assert connection.usable
            connection.abort()

    run(job())


@every_loop
def test_b1_an_address_that_refuses_gives_way_at_once_and_its_reason_is_told_where_all_do(run: Run) -> None:
    async def job() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            refuses = Address(False, "127.0.0.1", free.getsockname()[1])
            async with deaf("127.0.0.1") as silent, serving(reply()) as server:
                there = Address(False, "127.0.0.1", server.port)
                (await connect_first([refuses, Address(True, "::1", 1), there], None, "")).abort()
                with pytest.raises(ConnectionRefusedError):
                    await connect_first([refuses] * 3, None, "")
                # Of two that stand one is closed; one that hangs is left.
                (await connect_first([there, Address(False, "127.0.0.1", silent)], None, "")).abort()

    run(job())


@every_loop
def test_b1_whoever_is_cancelled_as_it_connects_leaves_nothing(run: Run) -> None:
    async def job() -> None:
        async with deaf("127.0.0.1") as silent:
            for addresses in ([Address(False, "127.0.0.1", silent)], [Address(False, "127.0.0.1", silent)] * 3):
                task = asyncio.create_task(connect_first(addresses, None, ""))
                await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await asyncio.sleep(0.01)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    run(job())


async def test_addresses_in_numbers_need_no_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda self: pytest.fail("a thread was started"))
    resolver = Resolver()
    assert await resolver.addresses("127.0.0.1", 80) == [Address(False, "127.0.0.1", 80)]
    assert await resolver.addresses("::1", 443) == [Address(True, "::1", 443)]
    assert await resolver.addresses("fe80::1%1", 443) == [Address(True, "fe80::1%1", 443)]


class SlowNames:
    """The machine's resolver where DNS is out of order: it answers once it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: Counter[str] = Counter()
        self.answers = threading.Event()
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def _look_up(self, host: str, port: int, *arguments: Any, **named: Any) -> Any:
        if host.endswith(".test"):
            if named.get("flags") or arguments:
                raise socket.gaierror(socket.EAI_NONAME, "not in numbers")
            self.asked[host] += 1
            self.answers.wait()
            host = "127.0.0.1"
        return self._real(host, port, *arguments, **named)


async def post(made: HTTP, server: RawServer, host: str) -> bytes:
    url = f"http://{host}:{server.port}/v1/embeddings"
    return (await made.post(url, {}, b"{}", most_bytes=MB)).body


async def test_e6_one_lookup_is_shared_by_all_who_connect_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(reply(b"fine")) as server:
        names, made = SlowNames(monkeypatch), HTTP(concurrency=32)
        tasks = [asyncio.create_task(post(made, server, f"{n % 2}.test")) for n in range(32)]
        await until(lambda: len(names.asked) == 2)
        for task in tasks[:4]:
            task.cancel()
        await asyncio.wait(tasks[:4])
        names.answers.set()
        assert await asyncio.gather(*tasks[4:]) == [b"fine"] * 28
        assert names.asked == {"0.test": 1, "1.test": 1}
        await made.aclose()


async def test_e6_slow_names_leave_the_threads_of_the_program_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(reply(b"fine")) as server:
        names, made = SlowNames(monkeypatch), HTTP(concurrency=64)
        tasks = [asyncio.create_task(post(made, server, f"{n}.test")) for n in range(64)]
        await until(lambda: len(names.asked) == 64)
        assert await asyncio.to_thread(lambda: "at once") == "at once"
        names.answers.set()
        assert await asyncio.gather(*tasks) == [b"fine"] * 64
        await made.aclose()


async def test_e6_a_name_that_takes_too_long_is_no_connection_and_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(reply(b"fine")) as server:
        names, made = SlowNames(monkeypatch), HTTP(concurrency=1, connect_timeout=0.05)
        for _ in range(3):
            with pytest.raises(UnavailableError, match=r"no connection to slow\.test") as raised:
                await post(made, server, "slow.test")
            assert raised.value.unsent
        assert names.asked == {"slow.test": 1}
        names.answers.set()
        await until(lambda: not [thread for thread in threading.enumerate() if "dns" in thread.name])
        await asyncio.sleep(0)
        assert await post(made, server, "slow.test") == b"fine"
        await made.aclose()


async def test_e6_a_lookup_does_not_hold_the_end_of_the_event_loop() -> None:
    program = """
import asyncio, logging, socket, time
from aembed import Embedder
logging.getLogger("asyncio").setLevel(logging.ERROR)  # a machine that is slow
real = socket.getaddrinfo
def slow(host, *arguments, **named):
    if host == "slow.test" and not named.get("flags"):
        time.sleep(600)
    return real(host, *arguments, **named)
socket.getaddrinfo = slow
async def main():
    embedder = Embedder("openai:x", base_url="https://slow.test/v1", dimensions=8)
    task = asyncio.create_task(embedder.embed_query("text"))
    await asyncio.sleep(0.1)
asyncio.run(main())
print("ended")
"""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", "-c", program),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert (out, err, process.returncode) == (b"ended\n", b"", 0)


@every_loop
def test_a_certificate_is_checked_against_the_name_that_was_asked_for(run: Run) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(HERE / "self_signed.pem")
    trusting = ssl.create_default_context(cafile=HERE / "self_signed.pem")

    async def job() -> None:
        async with serving(reply(), tls=tls) as server:
            addresses = [Address(False, "127.0.0.1", server.port)] * 2
            (await connect_first(addresses, trusting, "127.0.0.1")).abort()
            with pytest.raises(HandshakeError) as raised:
                await connect_first(addresses, trusting, "elsewhere.test")
            assert isinstance(raised.value.__cause__, ssl.SSLCertVerificationError)

    run(job())
