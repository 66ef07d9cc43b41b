"""In which forms a report can be written: their names, which a command and a shell ask for before anything is drawn."""

from __future__ import annotations

from flatlens.errors import UsageError, unknown

FORMATS = {
    "html": "the page, one file",
    "svg": "the picture, to be scaled or edited",
    "png": "the picture, in twice as many pixels",
    "pdf": "the picture, for a paper",
}


def check(format: str) -> None:
    """Refuse a format that does not exist.

    Raises:
        UsageError: names those that do.
    """
    if format not in FORMATS:
        raise UsageError(unknown("format", format, FORMATS))
