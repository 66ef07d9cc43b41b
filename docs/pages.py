"""Make the pages of the gallery, from the built-in models: `make docs` runs it. What is there already is kept."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from flatlens_cli import app  # noqa: E402

from tests import cpu_torchvision  # noqa: E402, F401  (a language model's library imports torchvision where it is)

RUNS, PAGES = HERE / "_build" / "runs", HERE / "_gallery" / "pages"
DIGITS = "--data flatlens:digits --eps 0.3 --steps 25 --limit 100 --control all"
MADE = {
    "demo": (f"trace --model flatlens:digits-cnn {DIGITS} --out {{runs}}/demo", "demo/report.html"),
    "robust": (f"trace --model flatlens:digits-cnn-robust {DIGITS} --out {{runs}}/robust", ""),
    "both": ("report {runs}/demo {runs}/robust --out {runs}/both.html", "both.html"),
    "layers": (
        "trace --model flatlens:digits-cnn --data flatlens:digits --eps 0.3 --steps 25 --limit 50 --layer all "
        "--out {runs}/layers",
        "layers/report.html",
    ),
    "text": ("demo --text --out {runs}/text", "text/report.html"),
    "claims": ("reproduce all --quick --limit 60 --out {runs}/claims", "claims/index.html"),
    "immunization": (
        "immunize --model flatlens:digits-cnn --primary flatlens:digits?split=all --primary-classes 0-4 "
        "--harmful flatlens:digits?split=all --harmful-classes 5-9 --out {runs}/immunization",
        "immunization/report.html",
    ),
    "training": (
        "train --model flatlens:cnn --data flatlens:digits --defence trades --eps 0.1 --epochs 10 "
        "--out {runs}/training.safetensors",
        "training.html",
    ),
}
"""Page -> the command that makes it, and the file that it is; nothing where others need it."""


def main() -> int:
    """Make what is missing."""
    PAGES.mkdir(parents=True, exist_ok=True)
    RUNS.mkdir(parents=True, exist_ok=True)
    for name, (command, file) in MADE.items():
        page = PAGES / f"{name}.html"
        if page.exists():
            continue
        if code := app.run([*command.format(runs=RUNS).split(), "--quiet"]):
            print(f"flatlens {command}: ended with {code}", file=sys.stderr)
            return code
        if file:
            shutil.copyfile(RUNS / file, page)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
