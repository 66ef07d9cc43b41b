"""How robust a model is: the worst of several attacks, what they cost in loss, and whether they can be believed.

No attack proves robustness; one whose gradient vanishes proves nothing at all. So a model is attacked in four ways, by
the cross-entropy and by an objective that the scale of the logits does not change, with gradients and without, and what
is left is what all of them leave.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flatlens.errors import LayerError
from flatlens.hessian.head import Head
from flatlens.models import guard
from flatlens.progress import Progress, Report
from flatlens.records import cautions
from flatlens.records.intervals import Fraction, Mean, Median, mean, median, paired, wilson
from flatlens.records.schema import Caution
from flatlens.specs.catalogue import QUERIES
from flatlens.training import attacked
from flatlens.training.attacked import CROSS_ENTROPY, SCALE_FREE
from flatlens.training.lipschitz import Bound, lipschitz
from flatlens.victims.images import ImageVictim
from flatlens.victims.layers import HEAD
from flatlens.victims.memory import LARGEST, batch_that_fits, bytes_per_sample, keep_freed_memory
from flatlens.victims.precision import exact_arithmetic
from flatlens.victims.protocol import Batch
from flatlens.victims.samples import check_data, check_labels, preflight

GAP, FLAT = 0.03, 0.05
"""Masked is a model that keeps, beyond chance, more than this against the cross-entropy than against objectives that
do not saturate; or whose cross-entropy has no gradient at all at more than this share of the inputs."""
FEW = 100
"""Fewer samples give intervals of ten points or more."""
EXAMPLES = 8
"""Inputs that a model is checked with."""

Bools = NDArray[np.bool_]


class Estimate(NamedTuple):
    """How much an attack adds to the loss of a sample, in nats: its mean and its median, paired per sample.

    It says little alone: logits × 10 make it many times larger, and the model is no less robust.

    Attributes:
        mean: with its 95 % bootstrap interval.
        median: likewise.
        attack: which one.
    """

    mean: Mean
    median: Median
    attack: str


@dataclass(frozen=True)
class Robustness:
    """What is left of a model's accuracy under attack, and how far that can be believed.

    All are shares of all samples, with 95 % Wilson intervals; a sample that is wrong before the attack is wrong under
    each, and one for which the model gives NaN on the way counts as fooled.

    Attributes:
        clean: right before any attack.
        pgd: right under PGD-20 on the cross-entropy from a random start.
        apgd_ce: right under auto-PGD on the cross-entropy.
        apgd_t: right under auto-PGD at each of the most probable wrong classes.
        square: right under random search without gradients.
        cross_entropy: right under both PGD and auto-PGD on the cross-entropy.
        scale_free: right under APGD-T, of as many steps in all, whose objective the logits' scale does not change.
        worst: right before the attack and under every one.
        loss_gap: ℓ(f(x*), y) − ℓ(f(x), y) under PGD-20.
        masked: whether attacks on the cross-entropy overstate this model's robustness.
        why_masked: in one line, with figures; empty where it is not.
        difference: ``cross_entropy`` − ``scale_free``, paired; the interval is Newcombe's.
        zero_gradient: the share of clean inputs at which the cross-entropy's gradient is exactly 0.
        kappa: median of the head's relative flatness at the clean inputs; None where the model has no such head.
        slope: median of ‖∂margin/∂x‖ at the clean inputs, in the dual norm (l1 for linf, l2 for l2).
        radius: median of margin / slope: to first order, how far off the boundary lies.
        lipschitz: the product of what the model's parts stretch at most, l2 to l2: an upper bound of its Lipschitz
            constant; None where there is none.
        why_no_lipschitz: the first part that has no such factor; empty where all have.
        eps: radius of the attacks, in units of the input.
        norm: ``linf`` or ``l2``.
        n: samples.
        seed: of the attacks' noise and of the bootstrap.
        attacks: name of a field, or of a part of one -> the attack in words.
        cautions: what must be known before the figures are believed.
    """

    clean: Fraction
    pgd: Fraction
    apgd_ce: Fraction
    apgd_t: Fraction
    square: Fraction
    cross_entropy: Fraction
    scale_free: Fraction
    worst: Fraction
    loss_gap: Estimate
    masked: bool
    why_masked: str
    difference: Mean
    zero_gradient: Fraction
    kappa: Median | None
    slope: Median
    radius: Median
    lipschitz: float | None
    why_no_lipschitz: str
    eps: float
    norm: str
    n: int
    seed: int
    attacks: dict[str, str]
    cautions: tuple[Caution, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data under the names of the fields; a fraction is ``{value, low, high, n}``; not finite is None."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}


def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "linf",
    bounds: tuple[float, float] = (0.0, 1.0),
    batch_size: int | None = None,
    seed: int = 0,
    queries: int = QUERIES,
    ids: Tensor | None = None,
    device: torch.device | str | None = None,
    progress: Report | None = None,
) -> Robustness:
    """Attack a model in all ways, and judge what is left. The values are taken as checked.

    Args:
        model: returns logits ``[n, K]``; in eval mode; never changed.
        x: clean inputs, ``[n, …]``.
        y: labels, ``[n]``.
        eps: radius of the attacks.
        norm: ``linf`` or ``l2``.
        bounds: the range of valid inputs.
        batch_size: samples at a time; what fits into memory when None.
        seed: of all noise; that of a sample does not depend on its batch.
        queries: of the attack without gradients.
        ids: of the samples, ``[n]``: they identify their noise.
        device: where to compute; where the model is when None.
        progress: called after each pass of a batch.

    Raises:
        ModelError: the model is no deterministic classifier in eval mode.
        DataError: inputs or labels that cannot be.
        ResourceError: memory ran out.
    """
    keep_freed_memory()
    x, y = check_data(x, y)
    with guard.net("while it is checked, before the attack"):
        victim, no_head = _victim(model, x, bounds, device)
    ids = torch.arange(len(x)) if ids is None else ids
    check_labels(y, ids, victim.classes)
    size = min(batch_size or batch_that_fits(bytes_per_sample(victim, x, y), victim.device), len(x))
    work = _Work(model, victim, attacked.suite(eps, norm, victim.classes, queries), norm, seed, len(x), progress)
    parts = []
    for index, start in enumerate(range(0, len(x), size)):
        part = slice(start, start + size)
        batch = Batch(victim.place(x[part]), y[part].to(victim.device), ids[part])
        victim.where.batch = index + 1
        with exact_arithmetic(victim.device), guard.net(f"in batch {index + 1}, with batches of {size}"):
            parts.append(work.of(batch))
    found = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    beforehand = (*preflight(model, victim, x, bounds), *_asked(eps, norm, bounds, x, victim.classes))
    return _judged(found, eps, norm, seed, dict(work.suite.words), no_head, lipschitz(model, x), beforehand)


def clean_kappa(model: nn.Module, x: Tensor, *, batch_size: int = LARGEST, seed: int = 0) -> Median | None:
    """The median of the head's relative flatness at clean inputs, as `evaluate` tells it.

    Args:
        model: returns logits ``[n, K]``; in eval mode; never changed.
        x: inputs, ``[n, …]``.
        batch_size: samples at a time.
        seed: of the bootstrap.

    Returns:
        None where the model has no head in closed form.
    """
    with guard.net("while it is checked, before the training"):
        victim, _ = _victim(model, x, (0.0, 1.0), None)
    if (head := _head(victim)) is None:
        return None
    found = []
    for points in x.split(batch_size):
        # The head's flatness does not depend on the label.
        here = victim(
            victim.place(points), torch.zeros(len(points), dtype=torch.long, device=victim.device), final=True
        )
        found.append(head(here.taps[HEAD].input, logits=here.logits).relative_flatness.cpu())
    return median(torch.cat(found).numpy(), seed=seed)


def _head(victim: ImageVictim) -> Head | None:
    return Head(victim.layers[HEAD].module) if HEAD in victim.layers else None  # type: ignore[arg-type]


def _victim(
    model: nn.Module, x: Tensor, bounds: tuple[float, float], device: torch.device | str | None
) -> tuple[ImageVictim, bool]:
    """The model made ready; without its head, and True, where that cannot be measured in closed form."""
    try:
        return ImageVictim(model, x[:EXAMPLES], layers=(HEAD,), bounds=bounds, device=device), False
    except LayerError:
        return ImageVictim(model, x[:EXAMPLES], layers=(), bounds=bounds, device=device), True


class _Work:
    """What is done with each batch."""

    def __init__(
        self,
        model: nn.Module,
        victim: ImageVictim,
        suite: attacked.Suite,
        norm: str,
        seed: int,
        samples: int,
        progress: Report | None,
    ) -> None:
        self.suite, self._victim, self._norm, self._seed, self._progress = suite, victim, norm, seed, progress
        self._right = attacked.judge(model)
        self._head = _head(victim)
        self._lengths = {name: attacked.length(attack, victim.classes) for name, attack in suite.attacks.items()}
        self._done, self._total = 0, samples * sum(self._lengths.values())

    def of(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """What is found of one batch, by name, each ``[n]``."""
        known = attacked.clean(self._victim, batch, self._norm, self._head)
        right = self._right(batch.x, batch.y)
        found: dict[str, Tensor] = {"clean": right, **known._asdict(), "broken": torch.zeros_like(right)}
        for name, attack in self.suite.attacks.items():
            # What is wrong already stays wrong; only of PGD is the loss wanted, and of all samples.
            rows = torch.ones_like(right) if name == "pgd" else right
            before = self._done
            if rows.any():
                outcome = attacked.attacked(
                    attack,
                    self._victim,
                    attacked.only(batch, rows),
                    seed=self._seed,
                    right=self._right,
                    tick=partial(self._tick, len(batch.x), name),
                )
                found[name] = attacked.spread(outcome.right, rows, False) & right
                found["broken"] = found["broken"] | attacked.spread(outcome.broken, rows, False)
                if name == "pgd":
                    found["attacked"] = outcome.loss
            else:
                found[name] = rows
            self._done = before + self._lengths[name] * len(batch.x)
        return {key: value.cpu().numpy() for key, value in found.items()}

    def _tick(self, samples: int, what: str) -> None:
        self._done += samples
        if self._progress is not None:
            self._progress(Progress(min(self._done, self._total), self._total, what.replace("_", "-")))


def _judged(
    found: dict[str, NDArray[Any]],
    eps: float,
    norm: str,
    seed: int,
    words: dict[str, str],
    no_head: bool,
    bound: Bound,
    beforehand: tuple[Caution, ...],
) -> Robustness:
    n = len(found["clean"])
    clean: Bools = found["clean"]
    by_cross_entropy, scale_free = (
        np.all([found[name] for name in names], axis=0) for names in (CROSS_ENTROPY, SCALE_FREE)
    )
    worst = clean & np.all([found[name] for name in words], axis=0)
    difference, flat = paired(by_cross_entropy, scale_free), _share(found["flat"])
    why = _why_masked(difference, by_cross_entropy, scale_free, flat)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = found["attacked"] - found["loss"]
        radius = found["margin"] / found["slope"]
    gap[~np.isfinite(gap)] = np.nan
    broken = int((found["broken"] & clean).sum())
    return Robustness(
        clean=_share(clean),
        pgd=_share(found["pgd"]),
        apgd_ce=_share(found["apgd_ce"]),
        apgd_t=_share(found["apgd_t"]),
        square=_share(found["square"]),
        cross_entropy=_share(by_cross_entropy),
        scale_free=_share(scale_free),
        worst=_share(worst),
        loss_gap=Estimate(mean(gap, seed=seed), median(gap, seed=seed), words["pgd"]),
        masked=bool(why),
        why_masked=why,
        difference=difference,
        zero_gradient=flat,
        kappa=None if no_head else median(found["kappa"], seed=seed),
        slope=median(found["slope"], seed=seed),
        radius=median(radius, seed=seed),
        lipschitz=bound.value,
        why_no_lipschitz=bound.why,
        eps=eps,
        norm=norm,
        n=n,
        seed=seed,
        attacks=words,
        cautions=(*beforehand, *cautions.masked(why), *cautions.broken(broken, n)),
    )


def _share(right: Bools) -> Fraction:
    return wilson(int(right.sum()), len(right))


def _why_masked(difference: Mean, by_cross_entropy: Bools, scale_free: Bools, flat: Fraction) -> str:
    """Why a model's gradients mislead attacks on the cross-entropy, with figures; empty where they do not."""
    said = []
    if difference.low > GAP:
        said.append(
            f"{100 * by_cross_entropy.mean():.1f} % are right under attacks on the cross-entropy and "
            f"{100 * scale_free.mean():.1f} % under one of as many steps on an objective that the scale of the logits "
            f"does not change: {100 * difference.value:.1f} points [{100 * difference.low:.1f}, "
            f"{100 * difference.high:.1f}] more"
        )
    if flat.value > FLAT:
        said.append(f"the gradient of the cross-entropy is exactly 0 at {100 * flat.value:.1f} % of the clean inputs")
    return "; ".join(said)


def _asked(eps: float, norm: str, bounds: tuple[float, float], x: Tensor, classes: int) -> tuple[Caution, ...]:
    found = []
    # From the middle of the bounds to a corner: in l2 that is longer than to the middle of a side.
    reach = (bounds[1] - bounds[0]) / 2 * (math.sqrt(x[0].numel()) if norm == "l2" else 1)
    if eps > reach:
        found.append(cautions.wide_eps(eps, norm, bounds))
    if len(x) < FEW:
        found.append(cautions.few_samples(len(x)))
    if classes < attacked.LEAST_FOR_DLR:
        found.append(cautions.few_classes(classes))
    return tuple(found)


def plain(value: Any) -> Any:
    """A value of a result as JSON has it.

    Numbers that are not finite are None; a fraction is ``{value, low, high, n}``, its count follows from them.

    Args:
        value: a number, a text, a named tuple, a dictionary, or a tuple of such.
    """
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if hasattr(value, "_asdict"):
        return {key: plain(item) for key, item in value._asdict().items() if key != "count"}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple) else value
