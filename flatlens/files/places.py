"""Where flatlens keeps what it makes for itself (no torch)."""

from __future__ import annotations

import os
from pathlib import Path


def cache() -> Path:
    """The folder in which models trained by recipe are kept.

    ``$FLATLENS_CACHE``, or ``flatlens/models`` in the user's cache folder. All workers of a sweep use one: on a
    cluster, it must be on a folder that all nodes share.
    """
    own = os.environ.get("FLATLENS_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else (Path(base) if base else Path.home() / ".cache") / "flatlens" / "models"
