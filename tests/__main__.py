"""All tests, in two processes side by side: `python -m tests`, with pytest's own words behind it.

What computes is on one side; what starts processes, browsers and clusters, and waits for them, on the other, so that
no two of those meet. Each process has one thread of PyTorch: two that each take all cores are in each other's way.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent
STARTING = ("cli", "files", "report", "sweeps", "test_documentation.py")
"""What starts others; all else is the other side, whatever is added."""
NOTHING = 5
"""pytest's exit code where nothing was selected."""


def sides() -> tuple[list[str], list[str]]:
    """The folders and files of tests, each on one of the two sides."""
    found = sorted({path.relative_to(HERE).parts[0] for path in HERE.rglob("test_*.py")})
    return [name for name in found if name not in STARTING], [name for name in found if name in STARTING]


def worst(codes: Iterable[int]) -> int:
    """The exit code of all: of what failed or was killed, else 0; `NOTHING` where none had anything to do."""
    codes = list(codes)
    return next((code for code in codes if code not in (0, NOTHING)), min(codes))


def main(words: list[str]) -> int:
    """Run both sides and show one after the other; 0 if neither fails."""
    pytest = [sys.executable, "-m", "pytest", *words]
    computing, starting = (
        [*pytest, "-o", f"cache_dir=.pytest_cache/{number}", *(str(HERE / name) for name in side)]
        for number, side in enumerate(sides())
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as kept:
        other = subprocess.Popen(computing, env=environment, stdout=kept, stderr=subprocess.STDOUT)
        try:
            codes = [subprocess.run(starting, env=environment, check=False).returncode, other.wait()]
        finally:
            other.kill()
            other.wait()
        kept.seek(0)
        sys.stdout.flush()
        sys.stdout.buffer.write(kept.read())
    return worst(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
