"""All tests, in four processes side by side: `python -m tests`, with pytest's own words behind it.

Some compute and some wait, for processes and browsers: side by side they leave no core idle. What starts servers and
processes is in one of the four, and so no two of those meet; what kills them is left to `make test-faults`. Each has
one thread of PyTorch: several that each take all cores are in each other's way. Annotations are checked in the first,
which has the tests of what is checked; it costs a quarter of the time.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from tests.checked import UNCHECKED

HERE = Path(__file__).parent
STARTING = ("files", "models", "sweeps", "viewer")
"""What starts processes and servers, and loads models."""
OPENING = ("cli", "export", "report", "test_documentation.py", "test_packaging.py", "test_site.py")
"""What opens browsers and runs commands."""
TRACING = ("claims", "immunity", "measure", "records", "training", "trials")
"""What trains and traces; all else, whatever is added, is the first process's."""
NOTHING = 5
"""pytest's exit code where nothing was selected."""


def sides() -> tuple[list[str], ...]:
    """The folders and files of tests of each process: all that is not named, then those that are."""
    found = sorted({path.relative_to(HERE).parts[0] for path in HERE.rglob("test_*.py")})
    named = (STARTING, OPENING, TRACING)
    return [n for n in found if n not in sum(named, ())], *([n for n in found if n in side] for side in named)


def worst(codes: Iterable[int]) -> int:
    """The exit code of all: of what failed or was killed, else 0; `NOTHING` where none had anything to do."""
    codes = list(codes)
    return next((code for code in codes if code not in (0, NOTHING)), min(codes))


def main(words: list[str]) -> int:
    """Run all sides and show one after the other, the first as it goes; 0 if none fails."""
    running: list[tuple[subprocess.Popen[bytes], IO[bytes] | None]] = []
    with contextlib.ExitStack() as files:
        try:
            for number, side in enumerate(sides()):
                kept = files.enter_context(tempfile.TemporaryFile()) if number else None
                where = ["-o", f"cache_dir=.pytest_cache/{number}", *(str(HERE / name) for name in side)]
                environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({UNCHECKED: "1"} if number else {})
                command = [sys.executable, "-m", "pytest", *words, *where]
                running.append((subprocess.Popen(command, env=environment, stdout=kept, stderr=kept), kept))
            codes = []
            for process, kept in running:
                codes.append(process.wait())
                if kept is not None:
                    kept.seek(0)
                    sys.stdout.flush()
                    sys.stdout.buffer.write(kept.read())
        finally:
            for process, _ in running:
                process.kill()
                process.wait()
    return worst(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
