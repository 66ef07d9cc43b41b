"""Results that a test has written to: without the hashes of what they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flatlens.files.sealing import SEAL


def unsealed(folder: Path) -> Path:
    """A run's folder, as flatlens wrote it before it kept hashes; its files may be changed."""
    file = folder / "manifest.json"
    found = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in found.items() if key not in (SEAL, "files")}))
    return folder


def plan_of(folder: Path) -> dict[str, Any]:
    """A sweep's plan without its hash: it may be changed and written again."""
    found: dict[str, Any] = json.loads((folder / "plan.json").read_text())
    return {key: value for key, value in found.items() if key != SEAL}
