"""The venvs of the peers, and earlier builds of our own: outside the tree, made at first use, kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

from tests.service.own_process import ROOT

_NOTES = "installed.json"


def folder(name: str) -> Path:
    """`$AEMBED_BENCH_VENV/NAME`, by default in `~/.cache/aembed-benchmarks`; one for each version of Python."""
    return root() / f"{name}-{sys.version_info.major}.{sys.version_info.minor}"


def root() -> Path:
    return Path(os.environ.get("AEMBED_BENCH_VENV") or Path.home() / ".cache" / "aembed-benchmarks")


def python(name: str, requirements: Sequence[str]) -> Path:
    """The interpreter of the venv of that name, after it was made and each of these was tried once."""
    place = folder(name)
    interpreter = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not interpreter.exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    notes = dict(_notes(name))
    if wanted := [requirement for requirement in requirements if requirement not in notes]:
        print(f"installing into {place}: {', '.join(wanted)}", file=sys.stderr, flush=True)
        notes |= _installed(interpreter, wanted)
        (place / _NOTES).write_text(json.dumps(notes, indent=1))
    return interpreter


def failed(name: str) -> Mapping[str, str]:
    """Which requirements could not be installed, and pip's last line about each."""
    return {requirement: problem for requirement, problem in _notes(name).items() if problem}


def build_of(revision: str) -> Path:
    """The folder that holds the package aembed as it was at that revision. First in PYTHONPATH it is what our own
    interpreter imports, with the same libraries as today's."""
    commit = git("rev-parse", "--short=12", f"{revision}^{{commit}}").decode().strip()
    place = root() / "builds" / commit
    if not place.exists():
        with tarfile.open(fileobj=BytesIO(git("archive", "--format=tar", commit, "aembed"))) as archive:
            archive.extractall(place, filter="data")
    return place


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout


def _notes(name: str) -> Mapping[str, str]:
    path = folder(name) / _NOTES
    return json.loads(path.read_text()) if path.exists() else {}


def _installed(interpreter: Path, wanted: Sequence[str]) -> dict[str, str]:
    """All at once, so that their versions agree; where that fails, each that can be."""
    if not _pip(interpreter, wanted):
        return dict.fromkeys(wanted, "")
    return {requirement: _pip(interpreter, [requirement]) for requirement in wanted}


def _pip(interpreter: Path, wanted: Sequence[str]) -> str:
    done = subprocess.run(
        [str(interpreter), "-m", "pip", "install", "-q", *wanted], capture_output=True, text=True, check=False
    )
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1] if done.returncode else ""
