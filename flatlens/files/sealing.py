"""Hashes, so that no bit that has changed on a disk goes unnoticed: of files, and of a JSON record within itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SEAL = "sha256_of_this"
"""The key under which a record bears the SHA-256 of its own bytes, in which the digits of the hash are zeros."""
_BLANK = "0" * 64


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(record: Mapping[str, Any], *, indent: int | None = 2) -> bytes:
    """A record as JSON that bears its own hash, as its last value; on one line without ``indent``."""
    values = {key: value for key, value in record.items() if key != SEAL} | {SEAL: _BLANK}
    # Names of files may hold bytes that are no UTF-8: they are written as JSON's escapes.
    text = json.dumps(values, indent=indent, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    return _with(text, hashlib.sha256(text).hexdigest())


def sealed(content: bytes, digits: object) -> bool:
    """Whether the bytes of a record are those that it was sealed with."""
    if not isinstance(digits, str) or len(digits) != 64 or not digits.isascii():
        return False
    return hashlib.sha256(_with(content, _BLANK)).hexdigest() == digits


def _with(content: bytes, digits: str) -> bytes:
    place = content.rfind(f'"{SEAL}": "'.encode()) + len(SEAL) + 5
    return content[:place] + digits.encode() + content[place + 64 :]
