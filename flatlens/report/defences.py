"""Trained cells of a sweep, folded over their seeds: what each defence reaches, and what it does to the landscape."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flatlens.records.schema import ATTACK
from flatlens.report.packing import Plain
from flatlens.report.sweep_data import DrawnCell
from flatlens.specs import wording
from flatlens.specs.defences import AXES, STANDARD, in_words
from flatlens.specs.wording import varying

ENOUGH = 5
"""Fewer seeds compare nothing within a few points: another seed of a standard training moves the worst case by ten."""
COLUMNS = ("clean", "worst", "loss_gap", "kappa", "lipschitz", "valleys", "cost")
"""Quantities of a row: each a mean over seeds, its standard deviation, and over how many."""


def folded(cells: Sequence[DrawnCell]) -> Plain | None:
    """A row for each defence, and a dot for each training.

    Cells with the same training but other attacks are one training; of them the share of valleys is a mean.

    Args:
        cells: of a sweep.

    Returns:
        ``rows``, in the order of the sweep: ``name``, ``defence``, ``attacked`` (whether trained against an attack),
        ``seeds``, ``masked`` (of how many seeds), ``alarms``, and of each of `COLUMNS` ``[mean, deviation, n]``;
        ``points``: ``row``, ``kappa``, ``worst`` ``[value, low, high]``, ``masked``;
        ``correlation``, Spearman's, of κ and the worst case over all points, None of fewer than four;
        ``eps`` and ``norm``; ``enough``, whether every row has five seeds. None where no cell was trained by recipe.
    """
    able = [cell for cell in cells if cell.trained is not None and cell.digest is not None]
    if not able:
        return None
    trainings: dict[str, list[DrawnCell]] = {}
    for cell in able:
        trainings.setdefault(_key(cell, seeds=True), []).append(cell)
    groups: dict[str, list[list[DrawnCell]]] = {}
    for same in trainings.values():
        groups.setdefault(_key(same[0], seeds=False), []).append(same)
    names = _names([group[0][0] for group in groups.values()])
    rows = [_row(name, group) for name, group in zip(names, groups.values(), strict=True)]
    rests = [_rest(group[0][0]) for group in groups.values()]
    standard = {rest: row["step"][0] for row, rest in zip(rows, rests, strict=True) if row["defence"] == STANDARD}
    for row, rest in zip(rows, rests, strict=True):
        row["cost"] = _over(row.pop("step"), standard.get(rest))
    points: list[dict[str, Any]] = [
        {
            "row": i,
            "kappa": _of(same[0], "kappa"),
            "worst": [same[0].trained["worst"][part] for part in ("value", "low", "high")],  # type: ignore[index]
            "masked": bool((same[0].trained or {})["masked"]),
        }
        for i, group in enumerate(groups.values())
        for same in group
    ]
    first = able[0].trained or {}
    return {
        "rows": rows,
        "points": points,
        "correlation": _rank_correlation([(p["kappa"], p["worst"][0]) for p in points if p["kappa"]]),
        "eps": first["eps"],
        "norm": first["norm"],
        "enough": all(row["seeds"] >= ENOUGH for row in rows),
    }


def _key(cell: DrawnCell, *, seeds: bool) -> str:
    """What a training is: the model and its recipe, with or without the seed."""
    train = dict(cell.spec.get("train") or {})
    known = {"model": cell.spec.get("model"), "train": train}
    if not seeds:
        train.pop("seed", None)
    return json.dumps(known, sort_keys=True, default=str)


def _rest(cell: DrawnCell) -> str:
    """What a training shares with the standard one that it is compared with."""
    train = {k: v for k, v in (cell.spec.get("train") or {}).items() if k not in (*AXES, "seed")}
    return json.dumps([cell.spec.get("model"), train], sort_keys=True, default=str)


def _names(of: Sequence[DrawnCell]) -> list[str]:
    """A name for each row: its defence, and what else differs among the rows."""
    specs = [{"model": cell.spec.get("model"), "train": _seedless(cell)} for cell in of]
    apart = [key for key in varying(specs) if key not in (wording.DEFENCE, *(f"train.{axis}" for axis in AXES))]
    return [
        ", ".join([in_words(spec["train"]), *(wording.value_of(spec, key) for key in apart)])  # type: ignore[arg-type]
        for spec in specs
    ]


def _seedless(cell: DrawnCell) -> Mapping[str, Any]:
    return {key: value for key, value in (cell.spec.get("train") or {}).items() if key != "seed"}


def _row(name: str, group: Sequence[Sequence[DrawnCell]]) -> Plain:
    firsts = [same[0] for same in group]
    train = firsts[0].spec.get("train") or {}
    return {
        "name": name,
        "defence": in_words(train),
        "attacked": bool(train.get("adversarial")),
        "seeds": len(group),
        "masked": sum(bool((cell.trained or {})["masked"]) for cell in firsts),
        "alarms": sorted({code for cell in firsts for code in (cell.trained or {})["alarms"]}),
        "clean": _mean(cell.digest["accuracy"]["clean"]["value"] for cell in firsts if cell.digest),
        "worst": _mean(_of(cell, "worst") for cell in firsts),
        "loss_gap": _mean(_of(cell, "loss_gap") for cell in firsts),
        "kappa": _mean(_of(cell, "kappa") for cell in firsts),
        "lipschitz": _mean((cell.trained or {}).get("lipschitz") for cell in firsts),
        "valleys": _mean(_valleys(same) for same in group),
        "step": _mean((cell.trained or {}).get("step_seconds") for cell in firsts),
    }


def _of(cell: DrawnCell, name: str) -> float | None:
    found = (cell.trained or {}).get(name)
    return None if found is None else found["value"]


def _valleys(same: Sequence[DrawnCell]) -> float | None:
    """The share of the flipped that end in a valley, at the first layer; the mean over the attacks walked."""
    shares = [
        row["valley_of_flipped"]["value"]
        for cell in same
        for row in (cell.digest or {"rows": ()})["rows"][:1]
        if row["path"] == ATTACK and row["valley_of_flipped"]["n"]
    ]
    return statistics.mean(shares) if shares else None


def _mean(values: Iterable[float | None]) -> list[float | None]:
    """Mean, standard deviation over seeds (None of a single one), and how many."""
    there = [float(v) for v in values if v is not None and math.isfinite(float(v))]
    if not there:
        return [None, None, 0]
    return [statistics.mean(there), statistics.stdev(there) if len(there) > 1 else None, len(there)]


def _over(step: Sequence[Any], standard: float | None) -> list[float | None]:
    """The seconds of a step in those of the standard training, where there is one."""
    return [None, None, 0] if not standard or step[0] is None else [step[0] / standard, None, step[2]]


def _rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's, with mean ranks for ties."""
    if len(pairs) < 4:
        return None
    ranks = [_ranks(np.array(column)) for column in zip(*pairs, strict=True)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: Any) -> Any:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]
