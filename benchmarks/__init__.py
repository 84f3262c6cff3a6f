"""Scripts that measure. `python -m benchmarks.NAME` finds NAME in whichever of these folders it is."""

from pathlib import Path

__path__ += [str(Path(__file__).parent / folder) for folder in ("beside", "costs", "promises", "web")]
