"""Cells of a sweep -> the plain data that its page embeds: columns instead of objects, bounded for 10,000 cells."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flatlens.records.digest import MATCHED
from flatlens.records.schema import ATTACK, MEASURES
from flatlens.report.packing import Plain, encode, pack
from flatlens.report.pairs import pairs
from flatlens.report.roles import colours, looks
from flatlens.specs import wording
from flatlens.specs.language import is_language
from flatlens.specs.wording import varying as varying

CURVE_BYTES = 16_000_000
"""What the curves of all cells together may take; beyond it the later cells have none."""
MOST_POINTS = 61
"""Positions of a curve that are kept: more cannot be told apart in a small panel."""
CONTROL = "line-to-other-class"
"""The control whose curve is drawn beside the attack's."""
SHARES = ("valley_of_flipped", "valley_of_all")
MEDIANS = ("rise", "depth", "lag", "flip_step")
OF_TEXTS = ("settled", "flat_end")
"""Shares that the page of a sweep over language models shows beside."""


_NONE = {"value": None, "low": None, "high": None, "n": 0}


class DrawnCell(NamedTuple):
    """One run of a sweep, finished or not."""

    key: str
    """Its hash, 16 hexadecimal digits."""
    spec: Mapping[str, Any]
    """The resolved specification as plain data; ``train`` is a table, or not there."""
    digest: Mapping[str, Any] | None
    """What `flatlens.records.digest.digest` says of it; None when it is not finished."""
    page: str | None
    """Link to the run's own page, relative to the sweep's."""
    state: str
    """``done``, ``failed``, ``waiting`` or ``running``."""
    error: str | None = None
    seconds: float | None = None
    trained: Mapping[str, Any] | None = None
    """What the record of its model's training tells; None of a model that was not trained by recipe."""
    immunized: Mapping[str, Any] | None = None
    """What its model's immunization reached; None of a model that was not immunized."""
    worst_case: Mapping[str, Any] | None = None
    """What the worst of several attacks leaves of its samples; None where it was not asked for."""


def page(cells: Sequence[DrawnCell], name: str) -> Plain:
    """What the page draws."""
    specs = [cell.spec for cell in cells]
    keys = varying(specs)
    flat = [wording.flat(spec) for spec in specs]
    text = bool(specs) and all(is_language(str(spec.get("model"))) for spec in specs)
    layers = list(dict.fromkeys(row["layer"] for cell in cells for row in _all(cell, "rows")))
    # The attack first, then controls as they come.
    paths = list(dict.fromkeys([ATTACK, *(row["path"] for cell in cells for row in _all(cell, "rows"))]))
    return {
        "name": name,
        "matched": MATCHED if text else None,
        "measures": MEASURES,
        "control": CONTROL,
        "layers": layers,
        "paths": paths,
        "looks": [[look.role, look.dash] for look in looks(tuple(paths)).values()],
        "colours": colours(),
        "shared": [[k, wording.text(k, v)] for k, v in wording.shared(flat, keys)],
        "varying": [wording.column(key, specs) for key in keys],
        "cells": {
            "key": [cell.key for cell in cells],
            "state": [cell.state for cell in cells],
            "page": [link_of(cell.page) for cell in cells],
            "error": {str(i): cell.error for i, cell in enumerate(cells) if cell.error},
            "seconds": pack(np.array([_number(cell.seconds) for cell in cells])),
            "model": [wording.model_of(spec, epochs="train.epochs" in keys) for spec in specs],
            "cautions": {str(i): found for i, cell in enumerate(cells) if (found := _cautions(cell))},
            "accuracy": {at: pack(_table(_accuracy(cell, at) for cell in cells)) for at in ("clean", "attacked")}
            | ({"worst": pack(_table(map(_worst, cells)))} if any(cell.worst_case for cell in cells) else {}),
            "step_seconds": pack(np.array([_a_step(cell) for cell in cells])) if text else None,
            "masked": [i for i, cell in enumerate(cells) if cell.worst_case and cell.worst_case["masked"]],
        },
        "rows": _rows(cells, layers, paths, text=text),
        "curves": _curves(cells, layers, paths),
        "heights": _heights(cells, layers),
        "pairs": [pair._asdict() for pair in pairs(specs)],
    }


def _rows(cells: Sequence[DrawnCell], layers: Sequence[str], paths: Sequence[str], *, text: bool) -> Plain:
    """The statistics of every cell, layer and path, as one matrix for each quantity."""
    rows = [(i, row) for i, cell in enumerate(cells) for row in _all(cell, "rows")]
    attacks = [row for _, row in rows if row["path"] == ATTACK]
    places = itertools.count()
    layer, path, measure = ({name: k for k, name in enumerate(names)} for names in (layers, paths, MEASURES))
    probes = list(dict.fromkeys((row["method"], bool(row["exact"])) for _, row in rows))
    return {
        "cell": [i for i, _ in rows],
        "layer": [layer[row["layer"]] for _, row in rows],
        "path": [path[row["path"]] for _, row in rows],
        "measure": [measure.get(row["measure"], 0) for _, row in rows],
        "probe": [probes.index((row["method"], bool(row["exact"]))) for _, row in rows],
        "probes": [{"method": method, "exact": exact} for method, exact in probes],
        "tau": sorted({row["tau"] for _, row in rows}),
        "not_finite": [row["not_finite"] for _, row in rows],
        "shares": {name: pack(_table(_share(row[name]) for _, row in rows)) for name in SHARES}
        | {name: pack(_table(_share(row[name]) for row in attacks)) for name in OF_TEXTS if text}
        | {"flipped": pack(_table(_share(row["flipped"]) for row in attacks))},
        # Of controls the page shows nothing but their valleys.
        "attack": [next(places) if row["path"] == ATTACK else -1 for _, row in rows],
        "medians": {name: _exact(_table(_median(row[name]) for row in attacks)) for name in MEDIANS}
        | ({"matched": _exact(_table(_median(row.get("matched", _NONE)) for row in attacks))} if text else {}),
    }


def _curves(cells: Sequence[DrawnCell], layers: Sequence[str], paths: Sequence[str]) -> Plain:
    """Quartiles of the attack and of the one control that is drawn beside it, as log10, while there is room.

    A saturated head's κ reaches 1e-260: its logarithm is small enough for 32 bits, and it is drawn as a logarithm.
    """
    layer, path = ({name: k for k, name in enumerate(names)} for names in (layers, paths))
    out: Plain = {"cell": [], "layer": [], "path": [], "position": [], "values": [], "n": []}
    positions: dict[tuple[int, ...], int] = {}
    spent, left_out = 0, 0
    for i, cell in enumerate(cells):
        own = [curve for curve in _all(cell, "curves") if curve["path"] in (ATTACK, CONTROL)]
        size = sum(16 * min(len(curve["median"]), MOST_POINTS) for curve in own)
        if spent + size > CURVE_BYTES:
            left_out += 1
            continue
        spent += size
        for curve in own:
            n = np.array(curve["n"])
            there = np.flatnonzero(n > 0)
            if not len(there):
                continue
            at = there[np.unique(np.linspace(0, len(there) - 1, min(len(there), MOST_POINTS)).round().astype(int))]
            bands = [[_number(curve[kind][k]) for k in at] for kind in ("median", "low", "high")]
            out["cell"].append(i)
            out["layer"].append(layer[curve["layer"]])
            out["path"].append(path[curve["path"]])
            out["position"].append(positions.setdefault(tuple(at.tolist()), len(positions)))
            out["values"].append(pack(_log10(np.array(bands))))
            out["n"].append([int(n[there[0]]), int(n[there[-1]])])
    return out | {"positions": [list(at) for at in positions], "left_out": left_out}


def _heights(cells: Sequence[DrawnCell], layers: Sequence[str]) -> Plain:
    """log10 of each measure at clean inputs, peaks and ends."""
    found = [(i, m) for i, cell in enumerate(cells) for m in _all(cell, "measures")]
    layer, measure = ({name: k for k, name in enumerate(names)} for names in (layers, MEASURES))
    values = np.array([[_number(m[at]) for at in ("clean", "peak", "end")] for _, m in found]).reshape(-1, 3)
    return {
        "cell": [i for i, _ in found],
        "layer": [layer[m["layer"]] for _, m in found],
        "measure": [measure[m["measure"]] for _, m in found],
        "n": [m["n"] for _, m in found],
        "values": pack(_log10(values)),
    }


def _log10(values: Any) -> Any:
    """log10: of 0 far below all others, to be drawn at the scale's lower edge; NaN of what is negative or unknown."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log10(values)
    return np.where(values == 0, -400.0, logs)


def _all(cell: DrawnCell, name: str) -> Sequence[Mapping[str, Any]]:
    return () if cell.digest is None else cell.digest[name]


def _accuracy(cell: DrawnCell, at: str) -> list[float]:
    return [math.nan] * 5 if cell.digest is None else _share(cell.digest["accuracy"][at])


def _worst(cell: DrawnCell) -> list[float]:
    """What the worst of several attacks leaves, whose record has no count."""
    if not cell.worst_case:
        return [math.nan] * 5
    found = cell.worst_case["worst"]
    return _share({**found, "count": round(found["value"] * found["n"])})


def _share(of: Mapping[str, Any]) -> list[float]:
    return [_number(of[name]) for name in ("value", "low", "high", "count", "n")]


def _a_step(cell: DrawnCell) -> float:
    """Seconds of a step of one prompt, all that is beside the attack included."""
    prompts = max((row["flipped"]["n"] for row in _all(cell, "rows")), default=0)
    steps = cell.spec.get("steps")
    return _number(cell.seconds) / (prompts * steps) if prompts and isinstance(steps, int) and steps > 0 else math.nan


def _median(of: Mapping[str, Any]) -> list[float]:
    return [_number(of[name]) for name in ("value", "low", "high", "n")]


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _table(rows: Iterable[list[float]]) -> Any:
    return np.array(list(rows), dtype=np.float64)


def _exact(values: Any) -> Plain:
    """As `pack`, but infinities are kept: a depth may be infinite."""
    size = np.abs(values[np.isfinite(values)])
    narrow = not size.size or size.max() < 1e38
    return encode(values.astype("<f4" if narrow else "<f8"), "f32" if narrow else "f64")


def _cautions(cell: DrawnCell) -> list[list[str]]:
    return [[caution["code"], caution["message"]] for caution in _all(cell, "cautions")]


def link_of(page: str | None) -> str | None:
    """A link that stays beside the page: no scheme, no host, nothing that a browser would run."""
    if page is None or ":" in page or "\\" in page or page.startswith("/") or any(ord(c) < 32 for c in page):
        return None
    return page
