"""What the list says of a run or a sweep: from its manifest, specification and digest alone; no table is opened.

The folder may be anybody's: what is damaged is a row that says so, and every text is cut to a length that can be shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flatlens.errors import FlatlensError, one_line
from flatlens.files import borders
from flatlens.files.borders import DamageError
from flatlens.records import digest, runs
from flatlens.records.immunized import SUMMARY
from flatlens.records.schema import ATTACK
from flatlens.specs.toml import parse_toml
from flatlens.specs.values import written
from flatlens.specs.wording import varying
from flatlens.sweeps.folder import Sweep

Row = dict[str, Any]

FINISHED, RUNNING, INTERRUPTED, DAMAGED = "finished", "running", "interrupted", "damaged"
SETTINGS = ("name", "model", "data", "attack", "eps", "steps")
"""What of a specification has a column."""
LONGEST, MOST_CAUTIONS = 300, 12
_SPEC_BYTES = 1 << 20
_FEW_CELLS = 2_000
"""Cells up to which it is told what a sweep varies."""


def of_run(folder: Path) -> Row:
    """What does not change of a run as long as its files do not."""
    try:
        run = runs.load(folder)
    except FlatlensError as error:
        return damaged(error)
    said = run.manifest
    row = _settings(_specification(folder)) | {
        "state": FINISHED if run.finished else RUNNING,
        "total": said["batches"],
        "cautions": [[_cut(c["code"]), _cut(c["message"])] for c in (said.get("warnings") or ())[:MOST_CAUTIONS]],
        "seconds": said.get("seconds"),
    }
    return row | (_results(folder, run.files) if run.finished else {})


def of_immunity(folder: Path) -> Row:
    """What does not change of an immunization as long as its files do not."""
    try:
        told = borders.read_json(folder / SUMMARY)
    except DamageError as error:
        return damaged(error)
    model, data = (found if isinstance(found := told.get(key), Mapping) else {} for key in ("model", "data"))
    uris = [of["uri"] for of in data.values() if isinstance(of, Mapping) and isinstance(of.get("uri"), str)]
    cautions = [one for one in told.get("cautions") or () if isinstance(one, Mapping)]
    row = _settings({"model": model.get("uri"), "data": " against ".join(dict.fromkeys(uris)) or None})
    rir = told.get("rir")
    ratio = f", RIR {rir:.3g}" if isinstance(rir, int | float) else ""
    return row | {
        "state": FINISHED,
        "about": _cut(f"immunization, {told.get('method')}{ratio}"),
        "cautions": [[_cut(str(c.get("code"))), _cut(str(c.get("message")))] for c in cautions[:MOST_CAUTIONS]],
    }


def of_sweep(sweep: Sweep) -> Row:
    """What does not change of a sweep as long as its plan does not."""
    specs = list(sweep.plan.values())
    row = _settings(_shared(specs)) | {"total": len(specs), "cautions": []}
    if 1 < len(specs) <= _FEW_CELLS:
        row["varies"] = _cut(", ".join(varying(specs)))
    return row


def labels(sweep: Sweep) -> dict[str, str]:
    """What a sweep's cells are called, where they are few enough to tell what sets each apart."""
    return {key: _cut(said) for key, said in sweep.labels().items()} if len(sweep.plan) <= _FEW_CELLS else {}


def damaged(error: BaseException) -> Row:
    """The row of something that cannot be read."""
    return {"state": DAMAGED, "error": _cut(one_line(error)), "cautions": []}


def done_of(folder: Path, total: int) -> int:
    """How many batches of a run under way are finished: a listing of names."""
    try:
        names = {entry.name for entry in (borders.inside(folder, "parts")).iterdir()}
    except (OSError, FlatlensError):
        return 0
    return min(total, sum(name.endswith(".steps.parquet") and name[0] != "." for name in names))


def _specification(folder: Path) -> dict[str, Any]:
    try:
        return parse_toml(borders.read_bytes(folder / "spec.toml", _SPEC_BYTES).decode("utf-8"), "spec.toml")
    except (DamageError, ValueError):  # the run's own page says what is wrong
        return {}


def _shared(specs: list[dict[str, Any]]) -> dict[str, Any]:
    """The settings that all cells of a sweep have in common."""
    first = specs[0] if specs else {}
    return {key: first[key] for key in SETTINGS if key in first and all(spec.get(key) == first[key] for spec in specs)}


def _settings(values: Mapping[str, Any]) -> Row:
    row: Row = {}
    for key in SETTINGS:
        value = values.get(key)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            continue
        if isinstance(value, str):
            row[key] = _cut(value)
        elif math.isfinite(value) and abs(value) < 2**53:
            row[key] = value
            row[f"{key}_text"] = _cut(written(key, value))
    return row


def _results(folder: Path, files: Mapping[str, str] | None) -> Row:
    """Accuracies and the share of valleys, where a digest tells them."""
    try:
        found = digest.read(folder, files)
    except DamageError:
        return {}
    row: Row = {name: _share(found["accuracy"][name]) for name in ("clean", "attacked")}
    attack = next((one for one in found["rows"] if one["path"] == ATTACK), None)
    if attack is not None:
        row |= {"valley": _share(attack["valley_of_flipped"]), "layer": _cut(attack["layer"])}
    return row


def _share(found: Mapping[str, Any]) -> list[Any] | None:
    """Value, low, high and n of a share; None where there is none."""
    values = [found[name] for name in ("value", "low", "high")]
    return [*values, found["n"]] if all(isinstance(v, (int, float)) for v in values) and found["n"] else None


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
