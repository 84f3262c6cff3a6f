"""`nox` runs lint, types and tests in the environment it is called from; the other sessions are for asking."""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "types", "tests"]


@nox.session(python=False)
def lint(session: nox.Session) -> None:
    session.run("ruff", "check", ".", external=True)
    session.run("ruff", "format", "--check", ".", external=True)


@nox.session(python=False)
def types(session: nox.Session) -> None:
    session.run("mypy", external=True)


@nox.session(python=False)
def tests(session: nox.Session) -> None:
    session.run("pytest", *session.posargs, external=True)


@nox.session(name="tests-on", python=["3.11", "3.12", "3.13"])
def tests_on(session: nox.Session) -> None:
    """The tests on each Python that is installed."""
    session.install("-e", ".[dev]")
    session.run("pytest", *session.posargs)


@nox.session(python=False)
def bench(session: nox.Session) -> None:
    """The bars of the main job and of the limits, each printed with its measurement."""
    for script in ("main_job", "memory", "limits"):
        session.run("python", "-m", f"benchmarks.{script}", external=True)


@nox.session(python=False)
def soak(session: nox.Session) -> None:
    """kill -9 at 200 random moments of a job, each followed by a restart."""
    session.run("python", "-m", "benchmarks.kills", "--kills", "200", external=True)
