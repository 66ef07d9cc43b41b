"""Trained cells of a sweep, folded over their seeds: what each defence reaches, and what it does to the landscape."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flatlens.records.schema import ATTACK
from flatlens.report.packing import Plain
from flatlens.report.pairs import HOW
from flatlens.report.sweep_data import DrawnCell
from flatlens.specs import wording
from flatlens.specs.defences import AXES, STANDARD, in_words
from flatlens.specs.wording import varying

ENOUGH = 5
"""Fewer seeds compare nothing within a few points: another seed of a standard training moves the worst case by ten."""
COLUMNS = ("clean", "worst", "loss_gap", "kappa", "lipschitz", "valleys", "cost")
"""Quantities of a row: each a mean over seeds, its standard deviation, and over how many."""
FEWEST = 4
"""Defences with κ and worst case of which a rank correlation is told."""
SHUFFLES = 10_000
"""Of κ among the defences, to tell a correlation from chance; of up to `ALL_ORDERS` defences all orders are tried."""
ALL_ORDERS = 7


def folded(cells: Sequence[DrawnCell]) -> Plain | None:
    """A row for each defence, and a dot for each training.

    Cells with the same training but other attacks are one training; of them the share of valleys is a mean.

    Args:
        cells: of a sweep.

    Returns:
        ``rows``, in the order of the sweep: ``name``, ``defence``, ``attacked`` (whether trained against an attack),
        ``seeds``, ``masked`` (of how many seeds), ``alarms``, and of each of `COLUMNS` ``[mean, deviation, n]``;
        ``points``: ``row``, ``seed``, ``kappa``, ``lipschitz``, ``worst`` ``[value, low, high]``, ``n`` (its samples),
        ``masked``;
        ``correlation`` ``[value, chance]``, Spearman's, of the rows' mean κ and mean worst case, and how often
        shuffling gives as strong a one; None of fewer than `FEWEST` rows that have both, or where one of the two is the
        same in all rows. Seeds of one defence are no further defences, and do not count apart;
        ``eps`` and ``norm`` of the attacks that the worst case is over, None where trainings were judged by different
        ones; ``models``, how many; ``enough``, whether every row has `ENOUGH` seeds.
        None where no cell was trained by recipe.
    """
    able = [cell for cell in cells if cell.digest is not None and _share(cell) is not None]
    if not able:
        return None
    trainings: dict[str, list[DrawnCell]] = {}
    for cell in able:
        trainings.setdefault(_key(cell, seeds=True), []).append(cell)
    groups: dict[str, list[list[DrawnCell]]] = {}
    for same in trainings.values():
        groups.setdefault(_key(same[0], seeds=False), []).append(same)
    firsts = [group[0][0] for group in groups.values()]
    rows = [_row(name, group) for name, group in zip(_names(firsts), groups.values(), strict=True)]
    rests = [_rest(cell) for cell in firsts]
    standard = {rest: row["step"][0] for row, rest in zip(rows, rests, strict=True) if row["defence"] == STANDARD}
    for row, rest in zip(rows, rests, strict=True):
        row["cost"] = _over(row.pop("step"), standard.get(rest))
    judged = {(_number(_told(cell, "eps")), str(_told(cell, "norm"))) for cell in able}
    eps, norm = judged.pop() if len(judged) == 1 else (None, None)
    return {
        "rows": rows,
        "points": [_point(i, same[0]) for i, group in enumerate(groups.values()) for same in group],
        "correlation": _correlation([(row["kappa"][0], row["worst"][0]) for row in rows]),
        "eps": eps,
        "norm": norm,
        "models": len({str(cell.spec.get("model")) for cell in able}),
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
    """What a training shares with the standard one whose steps its own are told in."""
    train = {key: value for key, value in (cell.spec.get("train") or {}).items() if key not in (*HOW, "seed")}
    return json.dumps([cell.spec.get("model"), train], sort_keys=True, default=str)


def _names(of: Sequence[DrawnCell]) -> list[str]:
    """A name for each row: its defence, and what else differs among the rows."""
    specs: list[dict[str, Any]] = [{"model": cell.spec.get("model"), "train": _seedless(cell)} for cell in of]
    apart = [key for key in varying(specs) if key not in (wording.DEFENCE, *(f"train.{axis}" for axis in AXES))]
    return [", ".join([in_words(spec["train"]), *filter(None, (_said(spec, key) for key in apart))]) for spec in specs]


def _said(spec: Mapping[str, Any], key: str) -> str:
    """A setting in a row's name: a number needs its own name."""
    value = wording.value_of(spec, key)
    return "" if value == wording.ABSENT else value if key == "model" else f"{key.removeprefix('train.')} {value}"


def _seedless(cell: DrawnCell) -> Mapping[str, Any]:
    return {key: value for key, value in (cell.spec.get("train") or {}).items() if key != "seed"}


def _row(name: str, group: Sequence[Sequence[DrawnCell]]) -> dict[str, Any]:
    firsts = [same[0] for same in group]
    train = firsts[0].spec.get("train") or {}
    return {
        "name": name,
        "defence": in_words(train),
        "attacked": bool(train.get("adversarial")),
        "seeds": len(group),
        "masked": sum(_told(cell, "masked") is True for cell in firsts),
        "alarms": sorted({str(code) for cell in firsts for code in _told(cell, "alarms") or ()}),
        "clean": _mean(_clean(cell) for cell in firsts),
        "worst": _mean(_of(cell, "worst") for cell in firsts),
        "loss_gap": _mean(_of(cell, "loss_gap") for cell in firsts),
        "kappa": _mean(_of(cell, "kappa") for cell in firsts),
        "lipschitz": _mean(_number(_told(cell, "lipschitz")) for cell in firsts),
        "valleys": _mean(_valleys(same) for same in group),
        "step": _mean(_number(_told(cell, "step_seconds")) for cell in firsts),
    }


def _point(row: int, cell: DrawnCell) -> Plain:
    share = _share(cell)
    assert share is not None
    return {
        "row": row,
        "seed": _number((cell.spec.get("train") or {}).get("seed", 0)),
        "kappa": _of(cell, "kappa"),
        "lipschitz": _number(_told(cell, "lipschitz")),
        "worst": share,
        "n": _number((_told(cell, "worst") or {}).get("n")),
        "masked": _told(cell, "masked") is True,
    }


def _told(cell: DrawnCell, name: str) -> Any:
    """What the record of a training says; None where it does not."""
    return cell.trained.get(name) if isinstance(cell.trained, Mapping) else None


def _of(cell: DrawnCell, name: str) -> float | None:
    """The value of something that is told with its interval."""
    found = _told(cell, name)
    return _number(found.get("value")) if isinstance(found, Mapping) else None


def _share(cell: DrawnCell) -> list[float] | None:
    """The worst case with its interval; None where it was not judged, or on no sample."""
    found = _told(cell, "worst")
    parts = [_number(found.get(part)) for part in ("value", "low", "high")] if isinstance(found, Mapping) else [None]
    whole = [part for part in parts if part is not None]
    return whole if len(whole) == len(parts) else None


def _clean(cell: DrawnCell) -> float | None:
    """Of the samples that the worst case is over; where that is not on record, of those that the run attacked."""
    own = _of(cell, "clean")
    return _number(cell.digest["accuracy"]["clean"]["value"]) if own is None and cell.digest else own


def _number(value: Any) -> float | None:
    """A finite number; None of anything else, for a record may come from elsewhere."""
    able = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if able else None


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
    there = [value for value in values if value is not None]
    if not there:
        return [None, None, 0]
    return [statistics.mean(there), statistics.stdev(there) if len(there) > 1 else None, len(there)]


def _over(step: Sequence[Any], standard: float | None) -> list[float | None]:
    """The seconds of a step in those of the standard training, where there is one; its seeds' spread is left out."""
    if not standard or step[0] is None:
        return [None, None, 0]
    return [step[0] / standard, None if step[1] is None else step[1] / standard, step[2]]


def _correlation(pairs: Sequence[tuple[float | None, float | None]]) -> list[float] | None:
    """Spearman's, with mean ranks for ties, and the share of shufflings that give as strong a one."""
    there = np.array([pair for pair in pairs if None not in pair], dtype=float).reshape(-1, 2)
    if len(there) < FEWEST or (np.ptp(there, axis=0) == 0).any():
        return None
    one, other = (_centred(_ranks(column)) for column in there.T)
    found = float(one @ other)
    if len(one) <= ALL_ORDERS:
        orders = one[np.array(list(itertools.permutations(range(len(one)))))]
    else:
        orders = np.random.default_rng(0).permuted(np.tile(one, (SHUFFLES, 1)), axis=1)
    return [found, float((np.abs(orders @ other) >= abs(found) - 1e-12).mean())]


def _ranks(values: Any) -> Any:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def _centred(values: Any) -> Any:
    apart = values - values.mean()
    return apart / np.linalg.norm(apart)
