"""Why samples withstand an attack on the cross-entropy: each is attributed to exactly one cause.

A robust accuracy says how many samples an attack could not turn, and not why. Here each sample that is right and keeps
its label under PGD on the cross-entropy in float32 is put into the first of these classes that holds:

    underflow     the cross-entropy's gradient at the start is exactly 0 in float32: the attack has nothing to follow
    saturation    the same attack in float64, or on the margin or DLR, of as many steps, turns it
    weak search   more steps, restarts, targets, or a search without gradients turn it
    none found    nothing that was tried turns it

Together with those that are wrong before, and those that PGD turns, they add up to all samples.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flatlens.attacks.apgd import APGD
from flatlens.attacks.gradient import PGD
from flatlens.attacks.objectives import objective
from flatlens.attacks.protocol import Walks
from flatlens.attacks.square import Square
from flatlens.errors import ModelError, one_line
from flatlens.models import guard
from flatlens.progress import Progress, Report
from flatlens.records.schema import Caution
from flatlens.specs.catalogue import QUERIES
from flatlens.training import attacked
from flatlens.trials import asked
from flatlens.trials.asked import Asked
from flatlens.trials.causes import NARROW, WIDE, Autopsy, judged
from flatlens.trials.walking import Right, walked
from flatlens.victims.images import ImageVictim
from flatlens.victims.memory import batch_that_fits, bytes_per_sample, keep_freed_memory
from flatlens.victims.precision import as_usual, exact_arithmetic, widest
from flatlens.victims.protocol import Batch, Victim
from flatlens.victims.samples import check_data, check_labels, preflight
from flatlens.wording import python_words, warn

STEPS = 20
LONGER, RESTARTS, TARGET_STEPS = 5, 3, 40
"""How many times as many steps the longer search takes; its restarts; steps of APGD at each of its targets."""
EXAMPLES = 8
"""Inputs that a model is checked with."""


def autopsy(
    model: nn.Module | str,
    x: Any,
    y: Any = None,
    *,
    eps: Any = None,
    norm: str = "linf",
    steps: int = STEPS,
    bounds: Any = (0.0, 1.0),
    batch_size: int | None = None,
    seed: int = 0,
    normalize: Any = None,
    device: torch.device | str | None = None,
    progress: Report | None = None,
) -> Autopsy:
    """Attribute each sample that withstands PGD on the cross-entropy to one cause: `flatlens.trials.autopsy`.

    PGD takes ``steps`` steps of 2.5 · eps / steps in float32 from the clean input, without a random start; a sample is
    turned where any of its iterates is, by the model as it was given.

    Args:
        model: returns logits ``[n, K]``; in eval mode; never changed. Or the name of one: ``flatlens:digits-cnn``.
        x: clean inputs ``[n, …]`` within ``bounds``, in all forms that `trace` takes.
        y: labels ``[n]``.
        eps: radius of the attacks, in units of ``x``; 8/255 when left out, in linf alone.
        norm: ``linf`` or ``l2``.
        steps: of PGD, and of the same attack in float64 and on the margin and DLR.
        bounds: the range of valid inputs.
        batch_size: samples at a time; what fits into memory when left out.
        seed: of all noise; a sample's noise does not depend on its batch.
        normalize: ``(mean, std)``, as for `trace`.
        device: where to compute; where the model is when left out.
        progress: called after each pass of a batch.

    Returns:
        Shares with their intervals, and ``samples``, a row each.

    Raises:
        ModelError: the model is no deterministic classifier in eval mode.
        DataError: inputs or labels that cannot be.
        SpecError: a value that cannot be.

    Warns:
        CautionWarning: for each of the result's ``cautions``.
    """
    with python_words(), as_usual():
        settings = {"eps": eps, "norm": norm, "steps": steps, "bounds": bounds, "batch_size": batch_size, "seed": seed}
        found = of(asked.objects(model, x, y, normalize, device, **settings), progress)
    warn(found.cautions)
    return found


def of(what: Asked, progress: Report | None = None) -> Autopsy:
    """The autopsy of a model and samples that have been checked."""
    keep_freed_memory()
    spec, x, ids = what.spec, what.x, what.ids
    x, y = check_data(x, what.y)
    with guard.net("while it is checked, before the attack"):
        narrow = ImageVictim(
            what.model, x[:EXAMPLES], layers=(), bounds=spec.bounds, device=what.device, dtype=torch.float32
        )
    wide, notes = _wide(what.model, x, spec.bounds, what.device)
    check_labels(y, ids, narrow.classes)
    largest = wide or narrow
    size = min(spec.batch_size or batch_that_fits(bytes_per_sample(largest, x, y), largest.device), len(x))
    work = _Work(what, narrow, wide, len(x), progress)
    parts = []
    for index, start in enumerate(range(0, len(x), size)):
        part = slice(start, start + size)
        narrow.where.batch = index + 1
        with exact_arithmetic(narrow.device), guard.net(f"in batch {index + 1}, with batches of {size}"):
            parts.append(work.of(x[part], y[part], ids[part]))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    cautions = (*preflight(what.model, narrow, x, spec.bounds), *notes)
    return judged(columns, what.eps, spec.norm, spec.steps, spec.seed, work.words, cautions)


def _wide(
    model: nn.Module, x: Tensor, bounds: tuple[float, float], device: str | None
) -> tuple[ImageVictim | None, tuple[Caution, ...]]:
    """The model in float64; None, and why, where it cannot be computed in it."""
    why = ""
    try:
        with guard.net("in float64"):
            victim = ImageVictim(model, x[:EXAMPLES], layers=(), bounds=bounds, device=device, dtype=torch.float64)
        if victim.where.dtype == widest(victim.device) == torch.float64:
            return victim, ()
        why = f"{victim.device.type} has none"
        if widest(victim.device) == torch.float64:
            why = f"the model returns {str(victim.where.dtype).removeprefix('torch.')} whatever it is given"
    except ModelError as error:
        why = one_line(error)
    return None, (Caution("no-float64", f"the attack in float64 was left out: {why}"),)


class _Work:
    """What is done with each batch."""

    def __init__(
        self, what: Asked, narrow: ImageVictim, wide: ImageVictim | None, n: int, progress: Report | None
    ) -> None:
        self._narrow, self._wide, self._seed, self._progress = narrow, wide, what.spec.seed, progress
        self._right: Right = attacked.judge(what.model)
        self._same, self._after, self.words = attacks(what.eps, what.spec.norm, what.spec.steps, narrow.classes)
        if wide is None:
            del self._same["ce_float64"], self.words["ce_float64"]
        self._lengths = {name: attacked.length(one, narrow.classes) for name, one in (self._same | self._after).items()}
        self._done, self._total = 0, n * sum(self._lengths.values())

    def of(self, x: Tensor, y: Tensor, ids: Tensor) -> dict[str, np.ndarray[Any, Any]]:
        """What is found of one batch, by name, each ``[n]``; of an attack NaN where it was not tried, else 0 or 1."""
        victim = self._narrow
        batch = Batch(victim.place(x), y.to(victim.device), ids)
        right = self._right(batch.x, batch.y)
        found: dict[str, Tensor] = {"sample": ids, "label": y, "right": right}
        ce, margin = (lambda one: one.loss), objective("margin")
        for name, which, lost in (
            (NARROW, victim, ce),
            (WIDE, self._wide, ce),
            ("margin", victim, margin),
        ):
            found[f"gradient_{name}"] = _sizes(which, x, batch.y, lost)
        open_ = right.clone()
        for name, attack in self._same.items():
            kept = self._try(name, attack, x, batch, right)
            found[f"kept_{name}"] = kept
            open_ &= kept != 0
        for name, attack in self._after.items():
            kept = self._try(name, attack, x, batch, open_)
            found[f"kept_{name}"] = kept
            open_ &= kept != 0
        return {key: value.cpu().numpy() for key, value in found.items()}

    def _try(self, name: str, attack: Walks, x: Tensor, batch: Batch, rows: Tensor) -> Tensor:
        """1 where the samples ``rows`` keep their label, 0 where they do not, NaN for the others."""
        before = self._done
        out = torch.full((len(x),), torch.nan, dtype=torch.float64, device=rows.device)
        if bool(rows.any()):
            victim: Victim = self._narrow if name != "ce_float64" or self._wide is None else self._wide
            some = attacked.only(batch._replace(x=victim.place(x)), rows)
            tick = partial(self._tick, int(rows.sum()), name)
            kept = walked(attack, victim, some, seed=self._seed, right=self._right, tick=tick).kept
            out[rows] = kept.to(out.dtype)
        self._done = before + self._lengths[name] * len(x)
        return out

    def _tick(self, samples: int, what: str) -> None:
        self._done += samples
        if self._progress is not None:
            self._progress(Progress(min(self._done, self._total), self._total, what.replace("_", " ")))


def attacks(
    eps: float, norm: str, steps: int, classes: int
) -> tuple[dict[str, Walks], dict[str, Walks], dict[str, str]]:
    """The attacks of as many steps, the longer searches, and all of them in words."""
    loss = "dlr" if classes >= attacked.LEAST_FOR_DLR else "margin"
    targets = min(attacked.TARGETS, classes - 1)
    same: dict[str, Walks] = {
        "ce": PGD(eps, norm, steps),
        "ce_float64": PGD(eps, norm, steps),
        "margin": PGD(eps, norm, steps, objective="margin"),
    }
    if classes > 2:
        same["dlr"] = PGD(eps, norm, steps, objective="dlr")
    after: dict[str, Walks] = {
        "more_steps": PGD(eps, norm, LONGER * steps),
        "restarts": PGD(eps, norm, 2 * steps, random_start=True, restarts=RESTARTS),
        "apgd_t": APGD(eps, norm, TARGET_STEPS, loss, targets=targets),
        "square": Square(eps, norm, QUERIES, until_fooled=True),
    }
    aims = f"{targets} {'target' if targets == 1 else 'targets'}"
    words = {
        "ce": f"PGD-{steps} on the cross-entropy, float32",
        "ce_float64": "the same in float64",
        "margin": "the same on the margin, float32",
        "dlr": "the same on DLR, float32",
        "more_steps": f"PGD-{LONGER * steps} on the cross-entropy",
        "restarts": f"PGD-{2 * steps} on the cross-entropy from {RESTARTS} random starts",
        "apgd_t": f"APGD-T on targeted {loss}, {aims} × {TARGET_STEPS} steps",
        "square": f"Square, {QUERIES} queries without gradients",
    }
    return same, after, {name: words[name] for name in (*same, *after)}


def _sizes(victim: ImageVictim | None, x: Tensor, y: Tensor, lost: Callable[[Any], Tensor]) -> Tensor:
    """‖∂objective/∂x‖₂ at the clean inputs, ``[n]`` float64; 0 where it is exactly 0; NaN without a victim."""
    if victim is None:
        return torch.full((len(x),), torch.nan, dtype=torch.float64)
    gradient = victim(victim.place(x), y).grad(lost).double().flatten(1)
    # By the largest entry first: squares of 1e-170 would underflow, and an all but vanished gradient is not 0.
    largest = gradient.abs().amax(1)
    return largest * (gradient / torch.where(largest > 0, largest, 1).unsqueeze(1)).norm(dim=1)
