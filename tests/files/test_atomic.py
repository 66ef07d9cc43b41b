"""Records are on the disk whole or not at all, and those that bear their own hash show when a bit has changed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from flatlens.files.atomic import write_json
from flatlens.files.borders import DamageError, read_json
from flatlens.files.sealing import SEAL

RECORDS: dict[str, dict[str, Any]] = {
    "empty": {"files": {}},
    "nested": {"files": {}, "a": {"b": [1, 2.5, None, True, "x"]}},
    "other scripts": {"name": "größer ≥ 口", "files": {}},
    "half a character, of a name that is no UTF-8": {"files": {"caf\udce9": "x"}},
    "a hash of before": {SEAL: "0" * 64, "files": {}},
}
"""Records that tell of other files' hashes, and so must have one of their own."""


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("which", RECORDS)
def test_a_sealed_record_is_read_again_and_shows_every_changed_byte(
    which: str, indent: int | None, tmp_path: Path
) -> None:
    record, file = RECORDS[which], tmp_path / "record.json"
    write_json(file, record, indent=indent)
    assert read_json(file) == {key: value for key, value in record.items() if key != SEAL}
    content = file.read_bytes()
    assert (content.count(b"\n") == 1) == (indent is None)
    for i, byte in enumerate(content[:-1]):  # the last one is the end of the line
        file.write_bytes(content[:i] + bytes([byte ^ 1]) + content[i + 1 :])
        with pytest.raises(DamageError):
            read_json(file)


def test_a_record_whose_hash_is_kept_elsewhere_is_plain_json(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    write_json(file, {"a": [1, "ü"]}, sealed=False)
    assert file.read_text() == '{"a": [1, "\\u00fc"]}' and json.loads(file.read_text()) == {"a": [1, "ü"]}


@pytest.mark.parametrize(
    ("record", "sealed"), [({"a": {1, 2}}, True), ({"a": {1, 2}}, False), ({"a": math.nan}, False)], ids=str
)
def test_what_is_no_json_leaves_the_file_that_is_there(record: dict[str, Any], sealed: bool, tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    file.write_bytes(b"old")
    with pytest.raises((TypeError, ValueError)):
        write_json(file, record, sealed=sealed)
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]
