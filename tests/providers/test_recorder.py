"""Odd replies, written down so that they can become tests; nothing private stands in them."""

from __future__ import annotations

import base64
import json
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from aembed import BadRequestError, ConfigError, Embedder, ProviderError, RetryPolicy, open_provider
from aembed.core.quoting import without_any_part
from aembed.providers import _recorder
from tests.core.broken_replies import reply_of, unit_vectors
from tests.providers.clients import every_client, http_client
from tests.providers.raw_server import RawServer, json_reply, reply, serving, then_close

KEY = "sk-canary-5up3rs3cr3t-0123456789"
TEXTS = [
    "Patient Waldemar Kanarienvogel, born 1961,\nis allergic to “penicillin” & he said: it was found in 1987 already",
    "Kanari",
    "x" * 3_000 + " and in its midst stands Ludmilla Zeisig of Wuppertal " + "y" * 3_000,
]
PRIVATE = ("Waldemar", "Kanari", "allergic", "penicillin", "Ludmilla", "Zeisig", "Wuppertal", "found in 1987")
HEADERS = {
    "Set-Cookie": "session=canary-cookie",
    "Authorization": f"Bearer {KEY}",
    "X-Api-Key": "canary-header",
    "openai-organization": "org-canary",
    "x-echo": f"you sent {KEY} and {TEXTS[0]!r}".replace("“", "").replace("”", ""),
    "x-ratelimit-remaining-tokens": "12",
    "retry-after": "0",
}


def embedder_of(server: RawServer, **options: Any) -> Embedder:
    options = {"base_url": server.url, "api_key": KEY, "dimensions": 8} | options
    return Embedder(open_provider("openai:any", **options), retry=RetryPolicy(max_retries=0))


def recorded(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def all_of(folder: Path) -> str:
    return "".join(f"{path.name} {path.read_text()}" for path in folder.rglob("*") if path.is_file())


async def embedded(server: RawServer, texts: list[str] = TEXTS, **options: Any) -> None:
    """One request, whatever comes of it."""
    options = {"base_url": server.url, "api_key": KEY, "dimensions": 8} | options
    provider = open_provider("openai:any", **options)
    with suppress(ProviderError):
        await provider.embed(texts, input_type="document")
    await provider.aclose()


@every_client
@pytest.mark.parametrize(
    "said",
    [
        {"detail": [{"loc": ["body", "input"], "msg": "List should have at most 2 items", "input": TEXTS}]},
        {"error": {"message": f"{TEXTS[0]} is bad, as is '{TEXTS[1]}', key {KEY}", "code": "odd"}},
        {"error": {"message": f"I stopped at ...{TEXTS[0][30:80]}", "got": [TEXTS[1], TEXTS[2][2_990:3_060]]}},
        {"error": {"message": "no", "echo": {"headers": {"authorization": f"Bearer {KEY}"}, "body": {"input": TEXTS}}}},
    ],
)
async def test_a_refusal_is_recorded_without_what_is_private(client: str, said: Any, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "records"
    async with http_client(client) as given, serving(json_reply(said, 400, HEADERS)) as server:
        await embedded(server, record=folder, http_client=given)
    first, *_ = recorded(folder)
    assert first["reply"]["status"] == 400
    assert first["reply"]["headers"]["x-ratelimit-remaining-tokens"] == "12"
    assert first["error"].startswith("BadRequestError: 400: ")
    assert {"set-cookie", "x-echo"} <= set(first["reply"]["headers"])
    assert json.loads(first["reply"]["body"])
    written = all_of(folder)
    written += written.encode().decode("unicode_escape")
    for secret in (*PRIVATE, KEY, KEY[3:19], "canary-cookie", "canary-header", "org-canary"):
        assert secret not in written
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


BASE64 = base64.b64encode(b"\1\2\3" * 1_000).decode()


@pytest.mark.parametrize(
    ("answer", "status", "shows"),
    [
        (json_reply({"data": [{"embedding": "?", "index": 0}], "odd": 1}), 200, '"odd"'),
        (json_reply({"data": [], "model": "strange"}), 200, "strange"),
        (reply(b"<html><h1>502 here</h1></html>", 502), 502, "502 here"),
        (reply(b"\xff\xfe\0 not text", 418), 418, "not text"),
        (reply(b"", 503), 503, ""),
        (then_close(reply(b'{"data":[{"embed', length=False)), 200, '{"data":[{"embed'),
        (then_close(reply(b'{"object":"li', headers={"content-length": "900"})), None, '{"object":"li'),
        (json_reply({"object": "li", "data": [{"embedding": BASE64}] * 2}), 200, "[...]"),
        (json_reply({"object": "li", "data": [{"embedding": [0.123456] * 2_000}]}), 200, "[...]"),
    ],
)
async def test_broken_replies_are_recorded_as_they_came(
    answer: Any, status: int | None, shows: str, tmp_path: Path
) -> None:
    async with serving(answer) as server:
        await embedded(server, ["one", "two", "three"], record=str(tmp_path))
    first, *_ = recorded(tmp_path)
    assert first["reply"]["status"] == status
    assert shows in first["reply"]["body"]
    assert first["reply"]["body"].count("123456") < 6
    assert BASE64[:64] not in first["reply"]["body"]


async def test_what_is_answered_is_not_recorded_and_without_a_folder_nothing_is(tmp_path: Path) -> None:
    good = json_reply(reply_of(unit_vectors(1, 3, 8), floats=False))
    async with serving(good) as server:
        await embedded(server, ["one", "two", "three"], record=tmp_path / "none")
    assert names_in(tmp_path) == []


async def test_the_environment_names_the_folder_and_an_option_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEMBED_RECORD", str(tmp_path / "environment"))
    async with serving(json_reply({"error": "no"}, 400)) as server:
        await embedded(server, ["one"])
        await embedded(server, ["one"], record=tmp_path / "option")
    assert names_in(tmp_path) == [*["400-BadRequestError-1.json"] * 2, "environment", "option"]


async def test_what_is_alike_is_recorded_a_few_times_and_a_folder_does_not_grow_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [json_reply({"error": f"no: {n}"}, 400) for n in range(40)]
    async with serving(*answers) as server, embedder_of(server, record=tmp_path) as embedder:
        with suppress(ProviderError):
            await embedder.embed_documents([f"text {n}" for n in range(20)])
    assert len(recorded(tmp_path)) == _recorder.MOST_ALIKE
    monkeypatch.setattr(_recorder, "MOST_FILES", 5)
    words = ("one", "two", "three", "four", "five", "six")
    async with serving(*[json_reply({"error": f"no: {word}"}, 400) for word in words]) as server:
        for _ in words:
            await embedded(server, ["text"], record=tmp_path)
    assert len(recorded(tmp_path)) == 5
    assert "no more are recorded" in caplog.text
    async with serving(reply(b"a b " * 10_000, 400)) as server:
        await embedded(server, ["text"], record=tmp_path / "other")
    (path,) = (tmp_path / "other").iterdir()
    assert path.stat().st_size < 2 * _recorder.MOST_BODY_CHARACTERS


async def test_a_folder_that_cannot_be_written_harms_no_job(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "gone"
    good = json_reply(reply_of(unit_vectors(1, 1, 8), floats=False))
    odd = json_reply({"error": "odd"}, 400)
    async with (
        serving(odd, odd, odd, odd, good) as server,
        embedder_of(server, record=folder) as embedder,
    ):
        folder.write_text("a file is in its place")
        for text in ("one", "two"):
            with pytest.raises(BadRequestError):
                await embedder.embed_documents([text])
        assert (await embedder.embed_documents(["three"])).report.stored == 1
    assert caplog.text.count("not recorded any more") == 1


def test_a_folder_that_cannot_be_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for record in (tmp_path / "file", 7, True, " "):
        with pytest.raises(ConfigError, match=r"^record"):
            open_provider("openai:any", api_key=KEY, record=record)
    monkeypatch.setenv("AEMBED_RECORD", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"^AEMBED_RECORD: .*file is no folder"):
        open_provider("openai:any", api_key=KEY)


def test_many_texts_that_are_quoted_together_are_all_cut_out() -> None:
    texts = [f"what person number {n} wrote of Waldemar {n * n}" for n in range(2_000)]
    shown = without_any_part(json.dumps({"strange": texts[3:900], "end": "kept"}), texts)
    assert "Waldemar" not in shown
    assert shown.endswith('"end": "kept"}')
