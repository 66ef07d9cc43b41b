"""Where flatlens keeps what it makes for itself (no torch)."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache() -> Path:
    """The folder in which models trained by recipe are kept.

    ``$FLATLENS_CACHE``, or ``flatlens/models`` in the user's cache folder. All workers of a sweep use one: on a
    cluster, it must be on a folder that all nodes share.
    """
    if own := os.environ.get("FLATLENS_CACHE"):
        return Path(own)
    # Where flatlens kept them on every system at first; what lies there is still found.
    earlier = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flatlens" / "models"
    return earlier if earlier.is_dir() else user_cache_path("flatlens", appauthor=False) / "models"
