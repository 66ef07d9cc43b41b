"""Checks of a results folder, which may come from anybody: no links, plain files, and records whose values can be.

What is wrong becomes a `DamageError` of one line; whoever reads the folder adds what to do about it. Values that a
later flatlens has added are kept, and those that an earlier one did not know may be missing. No torch.
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flatlens.errors import RunError, one_line
from flatlens.files.sealing import SEAL, sealed

MOST_BATCHES = 2_000_000
MOST_CELLS = 1_000_000
MOST_TEXT = 100_000
"""Characters of one text in a record."""
DEEPEST = 8
"""Tables and lists within each other in a specification."""
RECORD_BYTES, PLAN_BYTES = 64 << 20, 256 << 20
"""A digest of 100 paths and layers of 1,000 steps has 15 MB; a plan of 100,000 cells 80 MB."""
HOLLOW = 1 << 30
"""Bytes from which on a file must not consist of holes."""


class DamageError(ValueError):
    """What is wrong with something in a results folder, in one line."""


# ---- files ------------------------------------------------------------------------------------------


def inside(root: Path, *names: str) -> Path:
    """The path of something in a results folder; no link on the way may lead out of the folder.

    ``root`` itself is the user's, and may be a link.

    Raises:
        RunError: one of ``names`` is a link; nothing is written or removed through it.
    """
    place = root
    for name in names:
        place = place / name
        if place.is_symlink():
            raise RunError(
                f"the results folder '{root}' is damaged: '{place.relative_to(root)}' is a link, which could lead "
                "anywhere; put what it leads to in its place, or remove it"
            )
    return place


def own_file(path: Path, root: Path) -> Path:
    """A file in a results folder that is to be opened for writing: a plain one by this one name, or not there yet.

    Raises:
        RunError: it is something else, or has a second name elsewhere (a hard link).
    """
    try:
        known = path.lstat()
    except FileNotFoundError:
        return path
    if not stat.S_ISREG(known.st_mode) or known.st_nlink > 1:
        raise RunError(
            f"the results folder '{root}' is damaged: '{path.relative_to(root)}' is a link, or no plain file; remove it"
        )
    return path


def plain_file(path: Path, most: int | None = None) -> Path:
    """A file to read: a plain one, no link or device, of at most so many bytes.

    Raises:
        DamageError: it is something else.
        FileNotFoundError: it is not there.
    """
    known = path.lstat()
    if not stat.S_ISREG(known.st_mode):
        raise DamageError(f"{path.name} is a link, or no plain file")
    if most is not None and known.st_size > most:
        raise DamageError(f"{path.name} has {known.st_size:,} bytes, and may have {most:,}")
    if known.st_size > HOLLOW and getattr(known, "st_blocks", known.st_size) * 512 < known.st_size // 100:
        raise DamageError(f"{path.name} says that it has {known.st_size:,} bytes, and is almost all holes")
    return path


def read_bytes(path: Path, most: int = RECORD_BYTES) -> bytes:
    """A file's content. See `plain_file`."""
    try:
        return plain_file(path, most).read_bytes()
    except OSError as error:
        raise DamageError(f"{path.name}: {error.strerror or error}") from error


def parse_json(content: bytes, name: str) -> dict[str, Any]:
    """An object from the bytes of a JSON file, which bears its own hash since flatlens writes hashes.

    Raises:
        DamageError: it is none, or its hash is another.
    """
    try:
        found = json.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise DamageError(f"{name} has lists or objects within each other beyond what can be read") from error
    except ValueError as error:  # no UTF-8, no JSON, or a number of too many digits
        raise DamageError(f"{name}: {one_line(error)}") from error
    if not isinstance(found, dict):
        raise DamageError(f"{name} holds no object")
    # A record that tells of others' hashes bears its own: whoever finds none has found a damaged name of it.
    if (SEAL in found or "files" in found) and not sealed(content, found.pop(SEAL, None)):
        raise DamageError(f"{name} is not what was written: its SHA-256 differs")
    return found


def read_json(path: Path, most: int = RECORD_BYTES) -> dict[str, Any]:
    """An object from a JSON file. See `parse_json`."""
    return parse_json(read_bytes(path, most), path.name)


# ---- records ----------------------------------------------------------------------------------------

Check = Callable[[Any], bool]


class Field(NamedTuple):
    """What a value must be, in words, and the test of it; whether it may be missing."""

    words: str
    holds: Check
    needed: bool = True

    def optional(self) -> Field:
        """The same, or null, or not there."""
        return Field(self.words, lambda value: value is None or self.holds(value), False)


def whole(low: int = 0, high: int = 2**63 - 1) -> Field:
    """A whole number."""
    return Field(
        f"a whole number from {low:,} to {high:,}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high,
    )


def one_of(*names: str) -> Field:
    """One of some texts."""
    return Field(f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names)


def listed(of: Field) -> Field:
    """A list of such values."""
    return Field(f"a list, each {of.words}", lambda value: isinstance(value, list) and all(map(of.holds, value)))


def table(fields: Mapping[str, Field]) -> Field:
    """An object with at least these values."""
    return Field(f"an object with {', '.join(fields)}", lambda value: _first_wrong(value, fields) is None)


def _is_number(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**1023
    return isinstance(value, float) and math.isfinite(value)


TEXT = Field("text", lambda value: isinstance(value, str) and len(value) <= MOST_TEXT)
NUMBER = Field("a finite number", _is_number)
FLAG = Field("true or false", lambda value: isinstance(value, bool))
SIZE = Field(
    "a number, or null, or +inf or -inf as text",
    lambda value: value is None or _is_number(value) or value in ("+inf", "-inf", "inf"),
)
CAUTION = table({"code": TEXT, "message": TEXT})
SHA256 = Field("64 hex digits", lambda value: isinstance(value, str) and len(value) == 64)
HASHES = Field(
    "an object of file names and their SHA-256",
    lambda value: isinstance(value, dict) and all(map(SHA256.holds, value.values())),
)

_PART = table({"value": SIZE, "low": SIZE, "high": SIZE, "n": whole()})
TRAINED = table(
    {"worst": _PART, "pgd": _PART, "loss_gap": _PART, "masked": FLAG, "eps": NUMBER, "norm": TEXT}
    | {"kappa": _PART.optional(), "lipschitz": SIZE.optional(), "step_seconds": NUMBER.optional()}
    | {"alarms": listed(TEXT)}
)
"""Of the model of a run: what its training's record told."""
IMMUNIZED = table(
    {"method": TEXT, "stop": TEXT}
    | dict.fromkeys(("i", "ii", "rir", "bound", "heldout_i", "heldout_ii", "heldout_rir"), SIZE.optional())
    | dict.fromkeys(("harmful_left", "harmful_left_before", "primary_left", "primary_left_before"), SIZE.optional())
)
"""Of the model of a run: what its immunization reached."""
_LEFT = table({"value": NUMBER, "low": NUMBER, "high": NUMBER, "n": whole()})
WORST_CASE = table({"worst": _LEFT, "masked": FLAG, "attacks": table({})})
"""Of a run that was asked for it: what the worst of several attacks left."""
MANIFEST = {
    "schema_version": whole(1),
    "state": one_of("running", "finished"),
    "batches": whole(1, MOST_BATCHES),
    "measurement_version": whole().optional(),
    "labels": listed(TEXT).optional(),
    "warnings": listed(CAUTION).optional(),
    "seconds": NUMBER.optional(),
    "classes": whole(1).optional(),
    "recorded_accuracy": NUMBER.optional(),
    "trained": TRAINED.optional(),
    "immunized": IMMUNIZED.optional(),
    "worst_case": WORST_CASE.optional(),
    "files": HASHES.optional(),
    **{
        name: TEXT.optional()
        for name in ("spec_hash", "weights_sha256", "recipe_sha256", "data_sha256", "points_sha256", "flatlens")
    },
}
_SHARE = table({"value": SIZE, "low": SIZE, "high": SIZE, "count": whole(), "n": whole()})
_MEDIAN = table({"value": SIZE, "low": SIZE, "high": SIZE, "n": whole()})
_KEY = {"path": TEXT, "layer": TEXT, "measure": TEXT}
_ROW = table(
    _KEY
    | {"method": TEXT, "exact": FLAG, "tau": NUMBER, "not_finite": whole()}
    | dict.fromkeys(("flipped", "valley_of_flipped", "valley_of_all"), _SHARE)
    | dict.fromkeys(("rise", "depth", "lag", "flip_step"), _MEDIAN)
    | {"matched": _MEDIAN.optional()}
)


def _sizes(value: Any) -> bool:
    """A list of `SIZE`; a page's curves are most of a digest, and are looked at as a whole."""
    if not isinstance(value, list):
        return False
    if set(map(type, value)) <= {float, type(None)}:
        return math.isfinite(sum(filter(None, value))) or all(map(SIZE.holds, value))
    return all(map(SIZE.holds, value))


def _counts(value: Any) -> bool:
    return isinstance(value, list) and (
        not value or (set(map(type, value)) == {int} and 0 <= min(value) <= max(value) < 2**63)
    )


_BAND = ("median", "low", "high", "n")
_CURVE_FIELDS = _KEY | dict.fromkeys(_BAND[:3], Field("numbers", _sizes)) | {"n": Field("counts", _counts)}
_CURVE = Field(
    "a curve: path, layer, and as many median, low, high, n",
    lambda value: _first_wrong(value, _CURVE_FIELDS) is None and len({len(value[name]) for name in _BAND}) == 1,
)
DIGEST = {
    "accuracy": table({"clean": _SHARE, "attacked": _SHARE}),
    "rows": listed(_ROW),
    "curves": listed(_CURVE),
    "measures": listed(
        table({"layer": TEXT, "measure": TEXT, "n": whole()} | dict.fromkeys(("clean", "peak", "end"), SIZE))
    ),
    "cautions": listed(CAUTION),
}
FAILURE = {"error": TEXT, "kind": TEXT, "details": TEXT, "when": NUMBER, "attempts": whole()}
SUPERVISOR = {
    "pid": whole(0, 2**31),
    "host": TEXT,
    # What a clock can show.
    "since": Field("seconds since 1970", lambda value: _is_number(value) and 0 <= value < 2**36),
    "shard": TEXT.optional(),
}


def check(found: Mapping[str, Any], fields: Mapping[str, Field], name: str) -> None:
    """Refuse a record whose values are not what they must be.

    Raises:
        DamageError: names the first value that is wrong.
    """
    wrong = _first_wrong(found, fields)
    if wrong is not None:
        said = f"it is {_shown(found[wrong])}" if wrong in found else "it is missing"
        raise DamageError(f"{name}: '{wrong}' must be {fields[wrong].words}, and {said}")


def _first_wrong(found: Any, fields: Mapping[str, Field]) -> str | None:
    if not isinstance(found, dict):
        return next(iter(fields), "")
    for key, field in fields.items():
        if key not in found:
            if field.needed:
                return key
        elif not field.holds(found[key]):
            return key
    return None


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return f"a {type(value).__name__} of {len(value):,}"
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a huge number"
    text = f"{value:.4g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def check_manifest(found: Mapping[str, Any]) -> None:
    """A run's manifest, of this schema.

    Raises:
        DamageError: a value is not what it must be.
    """
    check(found, MANIFEST, "manifest.json")


# ---- plans ------------------------------------------------------------------------------------------


def check_plan(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The specifications in a sweep's plan, by key.

    Raises:
        DamageError: a key is no name of a folder, or a specification is not what one can be.
    """
    cells = found.get("cells")
    if not isinstance(cells, dict) or len(cells) > MOST_CELLS:
        raise DamageError(f"'cells' must be an object of at most {MOST_CELLS:,} specifications")
    for key, spec in cells.items():
        # A name, and no path that leads elsewhere.
        if not (key.isalnum() and key.isascii() and len(key) <= 64):
            raise DamageError(f"{_shown(key)} is no key of a cell")
        if not isinstance(spec, dict):
            raise DamageError(f"cell {key} must be an object, and it is {_shown(spec)}")
        for name, value in spec.items():
            if not (value is None or _fits(name, value)):
                raise DamageError(f"cell {key}: {_shown(name)} cannot be {_shown(value)}")
    return cells


def _fits(name: str, value: Any) -> bool:
    kinds = _SETTINGS.get(name)
    if kinds is not None and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
        return False
    if isinstance(value, str):
        return len(value) <= MOST_TEXT
    return _is_plain(value, DEEPEST)


def _is_plain(value: Any, depth: int) -> bool:
    """Whether a value is of numbers and texts, and of no more tables and lists within each other than ``depth``."""
    if isinstance(value, dict):
        return depth > 0 and all(_is_plain(item, depth - 1) for item in value.values())
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(item, depth - 1) for item in value)
    if value is None or isinstance(value, (bool, str)):
        return True
    return abs(value) < 2**63 if isinstance(value, int) else _is_number(value)


_SETTINGS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("model", "data", "attack", "norm", "objective", "device", "dtype", "images", "targeted"), (str,)),
    **dict.fromkeys(("eps", "step_size", "momentum", "condition"), (int, float)),
    **dict.fromkeys(("steps", "restarts", "probes", "limit", "batch_size", "seed"), (int,)),
    **dict.fromkeys(
        ("random_start", "only_correct", "dead_units", "surface", "worst_case", "trust_pickle", "trust_remote_code"),
        (bool,),
    ),
    **dict.fromkeys(("control", "layer", "samples", "bounds"), (list,)),
    **dict.fromkeys(("train", "immunize"), (dict,)),
    "download": (bool,),
}
"""What the settings of a specification are in JSON; those that are not listed may be anything plain."""
