from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.stage.test_postgres import comes_true


@pytest.mark.parametrize("ending", ["end()", "os._exit(9)", "os.kill(os.getpid(), 9)"])
def test_the_folder_goes_with_the_run_and_what_its_processes_left_too(ending: str) -> None:
    code = "import os, tempfile; from tests.stage.temporary import own_folder; end = own_folder(); "
    left = "import tempfile; print(tempfile.mkdtemp())"
    code += f"import subprocess, sys; subprocess.run([sys.executable, '-c', {left!r}]); {ending}"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    folder = Path(process.stdout.strip()).parent
    assert folder.name.startswith("aembed-tests-"), process.stderr
    assert comes_true(lambda: not folder.exists())
