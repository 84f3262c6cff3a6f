"""The command `aembed`: one file per command, named like it.

Results go to stdout, progress and messages to stderr. Exit codes: 0 all stored or unchanged; 1 finished, some texts
failed; 2 usage, configuration or key, nothing spent; 3 stopped early, run the same command again; 129, 130 and 143
signals; 141 where whoever reads the output has gone.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

from aembed.cli._streams import prepare_streams, say

# Measured: with Python's 700 a tenth of a run that finds nothing to do is spent on collections of garbage. Larger,
# circles of objects would stay for longer.
GARBAGE_OBJECTS = 50_000


PACKAGES = ("typer", "rich", "markdown_it", "semantic_text_splitter", "turbohtml")
"""What the extra `cli` brings. Readers are imported only where there is something for them to read."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command with these arguments, else those of the process, and ends it with SystemExit."""
    prepare_streams()
    gc.set_threshold(GARBAGE_OBJECTS, *gc.get_threshold()[1:])
    given = sys.argv[1:] if arguments is None else arguments
    try:
        for name in PACKAGES:
            if find_spec(name) is None:
                raise ModuleNotFoundError(name=name)
        from aembed.cli._app import app_for, exit_code_of

        app = app_for(given)
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "aembed":
            raise
        say(f'error: the command needs a package that is missing, {error.name}:  pip install "aembed[cli]"')
        sys.exit(2)
    sys.exit(exit_code_of(app, given))
