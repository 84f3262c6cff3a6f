"""The simulated batch API keeps to what the real one does, and its faults are what they are called."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import pybase64
import pytest

from tests.service.batches.faults import (
    AT_ONCE,
    Course,
    CutOff,
    EndsEarly,
    LineFault,
    Lost,
    Plans,
    Refuse,
    TakesEffectLater,
)
from tests.service.server import Server
from tests.service.vectors import vector_of
from tests.service.wire import Wire, WireReply

TEXTS = ["a cat on a mat", "a dog in the fog", "three"]
HOUR = 3_600.0


class Client:
    """Asks over a connection of its own for each request, as some end with one."""

    def __init__(self, server: Server) -> None:
        self.server = server

    async def ask(self, method: str, path: str, body: Any = None, headers: str = "") -> WireReply:
        async with asyncio.timeout(10), Wire(self.server.url) as wire:
            content = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
            return await wire.request(method, path, content, headers)

    async def upload(self, lines: Sequence[Mapping[str, Any]], fields: str = "") -> WireReply:
        content = "".join(json.dumps(line) + "\n" for line in lines)
        named = 'name="file"; filename="a.jsonl"\r\ncontent-type: application/jsonl'
        parts = [field("purpose", "batch"), fields, f"--x\r\ncontent-disposition: form-data; {named}\r\n\r\n{content}"]
        form = "".join(parts) + "\r\n--x--\r\n"
        return await self.ask("POST", "/v1/files", form.encode(), "content-type: multipart/form-data; boundary=x\r\n")

    async def file(self, *texts: str) -> str:
        return (await self.upload([line(str(n), [text]) for n, text in enumerate(texts)])).json()["id"]

    async def create(self, file: str, key: str = "k") -> WireReply:
        made = {"input_file_id": file, "endpoint": "/v1/embeddings", "completion_window": "24h", "metadata": {"k": key}}
        return await self.ask("POST", "/v1/batches", made)

    async def batch(self, *texts: str) -> dict[str, Any]:
        return (await self.create(await self.file(*texts or TEXTS))).json()

    async def state(self, id: str) -> dict[str, Any]:
        return (await self.ask("GET", f"/v1/batches/{id}")).json()

    async def results(self, file: str | None) -> list[dict[str, Any]]:
        if file is None:
            return []
        body = (await self.ask("GET", f"/v1/files/{file}/content")).body
        return [json.loads(line) for line in body.splitlines()]


def field(name: str, value: str) -> str:
    return f'--x\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'


def line(id: str, texts: Sequence[str]) -> dict[str, Any]:
    body = {"model": "text-embedding-3-small", "input": texts, "encoding_format": "base64"}
    return {"custom_id": id, "method": "POST", "url": "/v1/embeddings", "body": body}


@asynccontextmanager
async def serving(plans: Plans | None = None) -> AsyncIterator[tuple[Server, Client]]:
    async with Server() as server:
        server.batches.plans = plans or Plans()
        yield server, Client(server)


def vector_in(result: Mapping[str, Any]) -> Any:
    return np.frombuffer(pybase64.b64decode(result["response"]["body"]["data"][0]["embedding"]), "<f4")


async def test_a_batch_from_its_upload_to_its_results() -> None:
    async with serving() as (server, client):
        batch = await client.batch()
        assert (batch["status"], batch["model"], batch["metadata"]) == ("validating", None, {"k": "k"})
        assert batch["expires_at"] - batch["created_at"] == 24 * HOUR
        server.batches.advance(360)
        batch = await client.state(batch["id"])
        assert batch["status"] == "in_progress"
        assert batch["request_counts"] == {"total": 3, "completed": 1, "failed": 0}
        # What has not run is not billed.
        assert len(server.ledger.times_billed) == 1
        server.batches.advance(HOUR)
        batch = await client.state(batch["id"])
        assert (batch["status"], batch["error_file_id"]) == ("completed", None)
        assert batch["usage"]["total_tokens"] == server.ledger.billed_tokens == 10
        found = await client.results(batch["output_file_id"])
        assert [result["custom_id"] for result in found] == ["0", "1", "2"]
        for text, result in zip(TEXTS, found, strict=True):
            assert np.array_equal(vector_in(result), vector_of(text))
        assert (await client.ask("DELETE", f"/v1/files/{batch['input_file_id']}")).json()["deleted"] is True
        assert (await client.ask("GET", f"/v1/files/{batch['input_file_id']}")).status == 404


async def test_a_cancelled_batch_has_the_lines_that_ran_and_bills_no_others() -> None:
    async with serving() as (server, client):
        batch = await client.batch()
        server.batches.advance(60 + 400)
        assert (await client.ask("POST", f"/v1/batches/{batch['id']}/cancel")).json()["status"] == "cancelling"
        server.batches.advance(HOUR)
        batch = await client.state(batch["id"])
        assert batch["status"] == "cancelled"
        assert [result["custom_id"] for result in await client.results(batch["output_file_id"])] == ["0", "1"]
        failed = await client.results(batch["error_file_id"])
        assert [(result["custom_id"], result["error"]["code"]) for result in failed] == [("2", "batch_cancelled")]
        assert len(server.ledger.times_billed) == 2
        assert (await client.ask("POST", f"/v1/batches/{batch['id']}/cancel")).status == 409


async def test_an_expired_batch() -> None:
    async with serving(Plans([Course(stops_at=0.4)])) as (server, client):
        batch = await client.batch()
        server.batches.advance(25 * HOUR)
        batch = await client.state(batch["id"])
        assert batch["status"] == "expired"
        assert len(await client.results(batch["output_file_id"])) == 1
        assert {result["error"]["code"] for result in await client.results(batch["error_file_id"])} == {"batch_expired"}
        assert len(server.ledger.times_billed) == 1


async def test_what_becomes_of_single_lines() -> None:
    faults: dict[int, LineFault] = {
        0: "neither file",
        1: "status 0",
        2: "500",
        3: "refused",
        4: "doubled",
        5: "null id",
        6: "wrong width",
    }
    async with serving(Plans([Course(0, 0, 0, lines=faults, order="reversed")])) as (server, client):
        batch = await client.batch(*map(str, range(10)))
        batch = await client.state(batch["id"])
        found = await client.results(batch["output_file_id"])
        assert [result["custom_id"] for result in found] == ["9", "8", "7", "6", None, "4", "4"]
        failed = await client.results(batch["error_file_id"])
        assert [(one["custom_id"], one["response"]["status_code"]) for one in failed] == [
            ("1", 0),
            ("2", 500),
            ("3", 400),
        ]
        assert len(server.ledger.times_billed) == 6


async def test_a_completed_batch_without_an_output_file() -> None:
    every_line = dict.fromkeys(range(3), "500")
    plans = Plans([Course(0, 0, 0, lines=every_line), Course(0, 0, 0, output=False)])  # type: ignore[arg-type]
    async with serving(plans) as (server, client):
        for billed in (0, 3):
            batch = await client.batch()
            batch = await client.state(batch["id"])
            assert (batch["status"], batch["output_file_id"]) == ("completed", None)
            assert len(server.ledger.times_billed) == billed


async def test_what_fails_in_validation_costs_nothing() -> None:
    async with serving(Plans(usual=AT_ONCE)) as (server, client):
        server.batches.limits.lines = 4
        server.batches.limits.queue_tokens = 12
        server.batches.plans.add_courses(Course(0, HOUR))
        running = await client.batch()
        cases = {
            "duplicate_custom_id": [line("1", ["a"]), line("1", ["b"])],
            "invalid_json_line": [line("1", ["a"]), {"custom_id": "2"}],
            "empty_file": [],
            "too_many_tasks": [line(str(n), ["a"]) for n in range(5)],
            "token_limit_exceeded": [line("1", ["a" * 80])],
        }
        for code, lines in cases.items():
            batch = (await client.create((await client.upload(lines)).json()["id"])).json()
            batch = await client.state(batch["id"])
            assert batch["status"] == "failed", code
            assert [error["code"] for error in batch["errors"]["data"]] == [code]
            assert batch["request_counts"]["completed"] == 0
        assert (await client.state(running["id"]))["status"] == "in_progress"
        assert server.ledger.billed_tokens == 0


async def test_a_create_whose_answer_is_lost() -> None:
    async with serving(Plans(create=[Lost(took_effect=False), Lost()])) as (_, client):
        file = await client.file("a")
        for there in (0, 1):
            with pytest.raises((EOFError, OSError)):
                await client.create(file)
            assert len((await client.ask("GET", "/v1/batches")).json()["data"]) == there


@pytest.mark.parametrize("runs_without_file", [False, True])
async def test_a_create_that_takes_effect_late(runs_without_file: bool) -> None:
    """Its file has been deleted by then: it fails in validation, or runs all the same."""
    plans = Plans(usual=AT_ONCE, create=[TakesEffectLater(600, runs_without_file)])
    async with serving(plans) as (server, client):
        file = await client.file("a")
        with pytest.raises((EOFError, OSError)):
            await client.create(file)
        await client.ask("DELETE", f"/v1/files/{file}")
        assert (await client.ask("GET", "/v1/batches")).json()["data"] == []
        server.batches.advance(601)
        (batch,) = (await client.ask("GET", "/v1/batches")).json()["data"]
        assert batch["status"] == ("completed" if runs_without_file else "failed")
        assert len(server.ledger.times_billed) == runs_without_file


async def test_the_list_lags_and_has_pages() -> None:
    async with serving() as (server, client):
        server.batches.list_lag = 30
        made = [(await client.batch("a"))["id"] for _ in range(5)]
        assert (await client.ask("GET", "/v1/batches")).json()["data"] == []
        server.batches.advance(30)
        seen, after = [], ""
        while True:
            page = (await client.ask("GET", f"/v1/batches?limit=2{after}")).json()
            seen += [batch["id"] for batch in page["data"]]
            after = f"&after={page['last_id']}"
            if not page["has_more"]:
                break
        assert seen == made[::-1]


async def test_files_expire_and_results_are_cut() -> None:
    plans = Plans(usual=AT_ONCE, content=[CutOff(100), EndsEarly(0.5), Refuse(500)])
    async with serving(plans) as (server, client):
        lasting = field("expires_after[anchor]", "created_at") + field("expires_after[seconds]", "7200")
        file = (await client.upload([line("1", ["a"])], lasting)).json()
        assert file["expires_at"] - file["created_at"] == 7_200
        batch = (await client.create(file["id"])).json()
        path = f"/v1/files/{(await client.state(batch['id']))['output_file_id']}/content"
        with pytest.raises(EOFError):
            await client.ask("GET", path)
        half = (await client.ask("GET", path)).body
        assert (await client.ask("GET", path)).status == 500
        whole = (await client.ask("GET", path)).body
        assert whole.startswith(half)
        assert len(half) == len(whole) // 2
        assert (await client.ask("GET", path, headers="range: bytes=100-\r\n")).body == whole[100:]
        server.batches.advance(7_201)
        assert (await client.ask("GET", f"/v1/files/{file['id']}")).status == 404


async def test_it_is_told_what_to_do_over_the_wire() -> None:
    async with serving() as (server, client):
        changes = {
            "list_lag": 5,
            "queue_tokens": 50,
            "usual_course": {"validating": 0, "running": 100, "lines": {"1": "500"}},
            "courses": [{"fails": "token_limit_exceeded"}],
            "batch_faults": {"list": [{"kind": "refuse", "code": 503}]},
        }
        assert (await client.ask("POST", "/script", changes)).status == 200
        assert (await client.ask("GET", "/v1/batches")).status == 503
        failed, other = await client.batch(), await client.batch()
        assert (await client.ask("POST", "/script", {"advance": 200})).status == 200
        assert (await client.state(failed["id"]))["errors"]["data"][0]["code"] == "token_limit_exceeded"
        assert (await client.state(other["id"]))["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
        assert server.batches.list_lag == 5
        assert (await client.ask("POST", "/script", {"batch_service": "nobody's"})).status == 400
