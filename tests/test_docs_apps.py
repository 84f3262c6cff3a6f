"""The web apps of the README and of docs/web.md, served as they stand; `openai:` goes to the simulated service."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

import aembed
from tests.pages import blocks
from tests.service.faults import Always, Status
from tests.service.server import Latency, Server
from tests.stage.web import free_port, serving

(SHORT,) = [block.code for block in blocks("python", "app", "README.md")]
SEARCH, HEALTH = [block.code for block in blocks("python", "app", "web.md")]
APPS = [SEARCH]
PATHS = ["/search", "/search-in-a-thread"]


@pytest.mark.parametrize("code", APPS)
async def test_the_app_of_the_docs_serves_searches(code: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(code)
    texts = [f"What article {n} says." for n in range(50)]
    async with Server(latency=Latency(1.0)) as provider:
        model = {"model": "openai:text-embedding-3-small", "api_key": "sk-simulated", "base_url": provider.url}
        await aembed.embed_into(tmp_path / "articles.db", [aembed.Record(text, text) for text in texts], **model)
        environment = {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": "sk-simulated"}
        indexed = provider.ledger.accepted
        async with serving("app:app", tmp_path, environment) as url, httpx.AsyncClient(base_url=url) as client:
            waits = (client.get(path, params={"q": text}) for path in PATHS for text in texts)
            replies = await asyncio.gather(*waits)
            stats = (await client.get("/stats")).json()
        assert [reply.json()[0]["text"] for reply in replies] == texts * 2
        assert set(provider.ledger.times_billed.values()) == {2}  # as a document, and as a query
        assert provider.ledger.accepted - indexed < 25
        assert stats["cache"]["entries"] == 50
        assert (stats["waiting"], stats["in_flight"]) == (0, 0)


@pytest.mark.parametrize("code", APPS)
async def test_b1_the_app_of_the_docs_under_uvicorn_as_it_comes(code: str, tmp_path: Path) -> None:
    """`uvicorn app:app` with its defaults: on uvloop and httptools, where these are installed."""
    (tmp_path / "app.py").write_text(code)
    texts = [f"What article {n} says." for n in range(20)]
    async with Server(latency=Latency(1.0)) as provider:
        model = {"model": "openai:text-embedding-3-small", "api_key": "sk-simulated", "base_url": provider.url}
        await aembed.embed_into(tmp_path / "articles.db", [aembed.Record(text, text) for text in texts], **model)
        port = str(free_port())
        process = await asyncio.create_subprocess_exec(
            *(Path(sys.executable).with_name("uvicorn"), "app:app", "--port", port),
            cwd=tmp_path,
            env=os.environ | {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": "sk-simulated"},
            stderr=subprocess.PIPE,
        )
        assert process.stderr
        try:
            async with asyncio.timeout(30), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                while b"running on" not in (await process.stderr.readline()).lower():
                    pass
                waits = (client.get(path, params={"q": text}) for path in PATHS for text in texts)
                replies = await asyncio.gather(*waits)
            libraries = {Path(mapped.path).name.split(".")[0] for mapped in psutil.Process(process.pid).memory_maps()}
        finally:
            process.terminate()
            _, said = await process.communicate()
    assert [reply.json()[0]["text"] for reply in replies] == texts * 2
    assert {"loop", "parser"} <= libraries, "uvicorn[standard] is on uvloop and httptools"
    assert b"Traceback" not in said, said.decode()


@pytest.mark.parametrize("code", APPS)
async def test_the_app_of_the_docs_says_when_to_come_back(code: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(code)
    async with Server() as provider:
        model = {"model": "openai:text-embedding-3-small", "api_key": "sk-simulated", "base_url": provider.url}
        await aembed.embed_into(tmp_path / "articles.db", [aembed.Record("one", "one")], **model)
        provider.service.script = Always(Status(429, headers=(("retry-after", "60"),)))
        environment = {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": "sk-simulated"}
        async with serving("app:app", tmp_path, environment) as url, httpx.AsyncClient(base_url=url) as client:
            replies = await asyncio.gather(*(client.get("/search", params={"q": f"{n}"}) for n in range(20)))
        assert {reply.status_code for reply in replies} == {503}
        assert all(55 <= int(reply.headers["retry-after"]) <= 70 for reply in replies)


@pytest.mark.parametrize("code", APPS)
async def test_a13_the_app_of_the_docs_answers_503_in_an_outage_that_lasts(code: str, tmp_path: Path) -> None:
    brief = code.replace("cache_bytes=", "retry=aembed.RetryPolicy(max_outage=0.5), cache_bytes=")
    assert brief != code
    (tmp_path / "app.py").write_text(f"import aembed\n{brief}")
    async with Server() as provider:
        model = {"model": "openai:text-embedding-3-small", "api_key": "sk-simulated", "base_url": provider.url}
        await aembed.embed_into(tmp_path / "articles.db", [aembed.Record("one", "one")], **model)
        provider.service.script = Always(Status(503))
        environment = {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": "sk-simulated"}
        async with serving("app:app", tmp_path, environment) as url, httpx.AsyncClient(base_url=url) as client:
            replies = []
            for turn in range(3):
                asked = (client.get(path, params={"q": f"{turn} {n}"}, timeout=30) for path in PATHS for n in range(5))
                replies += await asyncio.gather(*asked)
            provider.service.script = None
            async with asyncio.timeout(20):
                while (await client.get("/search", params={"q": "it is back"})).status_code != 200:
                    pass
        assert {reply.status_code for reply in replies} == {503}
        assert all(1 <= int(reply.headers["retry-after"]) <= 10 for reply in replies)


@pytest.mark.parametrize("code", APPS)
async def test_d12_the_app_of_the_docs_answers_422_to_what_it_cannot_search(code: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(code)
    async with Server() as provider:
        model = {"model": "openai:text-embedding-3-small", "api_key": "sk-simulated", "base_url": provider.url}
        await aembed.embed_into(tmp_path / "articles.db", [aembed.Record("one", "one")], **model)
        environment = {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": "sk-simulated"}
        sent = provider.ledger.requests
        async with serving("app:app", tmp_path, environment) as url, httpx.AsyncClient(base_url=url) as client:
            for path in PATHS:
                for query in ("", "?q=", "?q=%20%0A", f"?q={'x' * 2_001}"):
                    assert (await client.get(path + query)).status_code == 422, path + query
            for k in ("0", "-1", "101", "nan", "", "9" * 30):
                assert (await client.get(f"/search?q=one&k={k}")).status_code == 422, k
            assert provider.ledger.requests == sent
            assert [row["id"] for row in (await client.get("/search?q=one&k=1")).json()] == ["one"]


@pytest.mark.parametrize("code", APPS)
async def test_d12_the_app_of_the_docs_does_not_start_without_its_store(code: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(code)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "app:app", "--port", str(free_port())),
        cwd=tmp_path,
        env=os.environ | {"OPENAI_API_KEY": "sk-simulated"},
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        _, said = await process.communicate()
    assert process.returncode != 0
    assert b"articles.db holds no rows yet" in said
    assert not any(name.startswith("articles") for name in os.listdir(tmp_path))


async def test_the_short_app_of_the_readme_serves_searches(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(SHORT)
    async with Server() as provider:
        model = {"model": "openai:text-embedding-3-small", "api_key": "sk-simulated", "base_url": provider.url}
        await aembed.embed_into(tmp_path / "articles.db", [aembed.Record(n, f"text {n}") for n in range(9)], **model)
        environment = {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": "sk-simulated"}
        async with serving("app:app", tmp_path, environment) as url, httpx.AsyncClient(base_url=url) as client:
            found = (await client.get("/search", params={"q": "text 7"})).json()
    assert found[0]["text"] == "text 7"


async def test_the_app_with_health_and_metrics_tells_of_an_outage(tmp_path: Path) -> None:
    assert "failing_seconds < 30" in HEALTH
    (tmp_path / "app.py").write_text(HEALTH.replace("failing_seconds < 30", "failing_seconds < 0.1"))
    async with Server() as provider:
        environment = {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": "sk-simulated"}
        async with serving("app:app", tmp_path, environment) as url, httpx.AsyncClient(base_url=url) as client:
            assert len((await client.get("/embed", params={"q": "a"})).json()) == 1_536
            assert (await client.get("/health")).status_code == 200
            metrics = dict(line.split() for line in (await client.get("/metrics")).text.splitlines())
            assert (metrics["aembed_accepted_total"], metrics["aembed_waiting"]) == ("1", "0")
            assert metrics["aembed_cache_misses_total"] == "1"
            assert int(metrics["aembed_billed_tokens_total"]) == provider.ledger.billed_tokens
            assert float(metrics["aembed_cost_usd_total"]) == pytest.approx(provider.ledger.billed_tokens * 0.02 / 1e6)
            assert 0.0 < float(metrics['aembed_latency_seconds{quantile="0.95"}']) < 60.0
            provider.service.script = Always(Status(503))
            failing = asyncio.create_task(client.get("/embed", params={"q": "b"}, timeout=60))
            async with asyncio.timeout(20):
                while (health := await client.get("/health")).status_code != 503:
                    pass
            assert "503" in health.json()["last_error"]
            assert 'aembed_errors_total{error="UnavailableError"} ' in (await client.get("/metrics")).text
            provider.service.script = None
            assert (await failing).status_code == 200
            assert (await client.get("/health")).status_code == 200
