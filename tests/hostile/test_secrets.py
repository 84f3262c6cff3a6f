"""What must not show: keys (Z1, Z2), texts (Z9), control characters of strangers (Z10). What is not run (Z6, Z7)."""

from __future__ import annotations

import ast
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aembed import BadRequestError, Failure, InputError, PartialError
from tests.hostile.jobs import KEY, at, embed, serving
from tests.service.faults import Plan, Status
from tests.service.refusals import error
from tests.stage.vocabulary import write_vocabularies
from tests.test_architecture import FILES, imports, module_name

ROOT = Path(__file__).parents[2]
SECRET = "Patient Waldemar Kanarienvogel, born 1961, is allergic to penicillin"
EVIL = "row\n2030-01-01 ERROR \x1b[31mall is lost\x1b]0;title\x07\r\u2028\u202e"


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """All that the whole fault suite prints, logs at DEBUG level and leaves in exceptions."""
    folder = tmp_path_factory.mktemp("canary")
    command = [sys.executable, "-X", "dev", "-W", "error", "-m", "tests.hostile.canary", str(folder)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr[-2_000:]
    return {"stdout": ended.stdout, "log": ended.stderr, "exceptions": (folder / "deep").read_bytes()}


def test_z1_z2_the_key_is_in_no_byte_that_the_fault_suite_puts_out(output: dict[str, bytes]) -> None:
    for name, data in output.items():
        assert len(data) > 10_000, name
        for part in (KEY.encode(), KEY[10:].encode(), KEY[:18].encode()):
            assert part not in data, name
    assert b"DEBUG:httpcore" in output["log"]


def test_z9_no_text_of_a_user_is_in_what_a_program_shows_or_logs(output: dict[str, bytes]) -> None:
    for name in ("stdout", "log"):
        assert b"Waldemar" not in output[name]


async def test_z9_a_provider_that_quotes_the_text_is_not_quoted() -> None:
    quoting = Status(400, error(f"Invalid input {SECRET!r}: not {SECRET[:25]}"))
    async with serving(Plan(quoting, None, quoting)) as server, at(server) as embedder:
        outcome = await embed(embedder, [SECRET])
    (failure,) = outcome.embeddings.failures
    assert isinstance(failure.error, BadRequestError)
    assert str(failure.error) == "400: Invalid input '[text]': not [text]"
    assert "Waldemar" not in failure.error.body


def test_z10_an_id_cannot_write_a_line_of_its_own() -> None:
    failure = Failure(EVIL, 0, InputError("too long"))
    assert str(failure).isprintable()
    assert "all is lost" in str(failure)
    assert str(Failure("a plain id", 0, InputError("too long"))) == "a plain id: too long"


async def test_z10_nor_in_what_an_embedder_raises_and_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    evil_reply = Status(400, error(f"bad \n{EVIL}"), [("x-request-id", "req\t1")])
    async with serving(Plan(evil_reply, None, evil_reply)) as server, at(server) as embedder:
        outcome = await embed(embedder, ["a text"])
        async with embedder.stream([f"{EVIL}"]) as results:
            async for result in results:
                assert str(getattr(result, "error", "")).isprintable()
    with pytest.raises(PartialError) as raised:
        outcome.embeddings.raise_for_failures()
    assert str(raised.value).isprintable()
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("aembed")]
    assert all(message.isprintable() for message in ours)


def test_z10_the_command_prints_ids_without_their_control_characters(tmp_path: Path) -> None:
    rows = [{"id": "fine", "text": "a text"}, {"id": EVIL, "text": " "}, {"id": f"2{EVIL}", "text": 5}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    command = [sys.executable, "-m", "aembed", "index", "rows.jsonl", "-m", "fake:fake", "-s", "sqlite:///rows.db"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, timeout=60, check=False
    )
    shown = (ended.stdout + ended.stderr).decode()
    assert ended.returncode == 1, shown
    assert "all is lost" in shown
    assert "\n2030" not in shown
    assert all(line.isprintable() for line in shown.split("\n"))


def test_z6_nothing_that_comes_in_is_run() -> None:
    banned = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    for path in FILES:
        assert not {name.split(".")[0] for name in imports(path)} & banned, module_name(path)
        called = {node.func.id for node in _calls(path) if isinstance(node.func, ast.Name)}
        assert not called & {"eval", "exec", "compile", "__import__"}, module_name(path)


def test_c3_no_wait_for_which_swallows_a_cancellation_in_python_3_11() -> None:
    """cpython #86296; deadlines are asyncio.timeout and anyio's scopes."""
    for path in FILES:
        called = {node.func.attr for node in _calls(path) if isinstance(node.func, ast.Attribute)}
        assert "wait_for" not in called, module_name(path)
        assert "asyncio.wait_for" not in set(imports(path)), module_name(path)


def _calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]


SWAPPED = """
import asyncio, aembed
from aembed.providers.fake import FakeProvider
from aembed.limits import Limits

async def main():
    limits = Limits(2048, 300_000, 100, encoding="cl100k_base")
    async with aembed.Embedder(FakeProvider(limits=limits)) as embedder:
        embeddings = await embedder.embed_documents(["word " * 60, "short"])
        print(len(embeddings), len(embeddings.failures))

asyncio.run(main())
"""


def test_z7_a_vocabulary_that_was_tampered_with_is_not_used_and_survived(tmp_path: Path) -> None:
    """tiktoken checks its SHA-256 and downloads it anew, which fails here; the byte bound does without."""
    write_vocabularies(tmp_path)
    for file in tmp_path.iterdir():
        data = bytearray(file.read_bytes())
        data[100] ^= 1
        file.write_bytes(data)
    nowhere = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"), "http://127.0.0.1:9")
    environment = os.environ | nowhere | {"TIKTOKEN_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", SWAPPED], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stdout == "2 0\n", ended.stderr
    assert "Traceback" not in ended.stderr
