"""Can attacks be told from clean inputs by curvature? κ of the head against simpler scores, attack by attack.

Right samples are attacked; each that is turned makes a pair of a clean and an adversarial input. A detector is judged
on such pairs, its threshold set on other ones; one that is set on one attack is tried on every other; and two attacks
that know of κ end where it is what it is at clean inputs.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from flatlens.attacks.apgd import APGD
from flatlens.attacks.ddn import DDN
from flatlens.attacks.gradient import FGSM, MIFGSM, PGD
from flatlens.attacks.protocol import Walks
from flatlens.errors import DataError, LayerError, one_line
from flatlens.hessian.head import Head
from flatlens.models import guard
from flatlens.progress import Progress, Report
from flatlens.records import cautions
from flatlens.records.intervals import wilson
from flatlens.records.schema import Caution
from flatlens.training import attacked
from flatlens.trials import adaptive, asked, separating
from flatlens.trials.asked import Asked
from flatlens.trials.detected import CLEAN, Detection, judged
from flatlens.trials.scores import DETECTORS, KAPPA, OF_THE_HEAD, measured
from flatlens.trials.separating import LEAST_PAIRS
from flatlens.trials.walking import Right, walked
from flatlens.victims.images import ImageVictim
from flatlens.victims.layers import HEAD
from flatlens.victims.memory import batch_that_fits, bytes_per_sample, keep_freed_memory
from flatlens.victims.noise import stream
from flatlens.victims.precision import as_usual, exact_arithmetic
from flatlens.victims.protocol import Batch, Pass
from flatlens.victims.samples import check_data, check_labels, preflight
from flatlens.wording import python_words, warn

STEPS, MOMENTUM_STEPS, DDN_STEPS = 40, 20, 100
MATCHED, DESCENT = "kappa_matched", "kappa_descent"
ADAPTIVE = (MATCHED, DESCENT)
EXAMPLES = 8
"""Inputs that a model is checked with."""
SCORES = tuple(DETECTORS)


def detect(
    model: nn.Module | str,
    x: Any,
    y: Any = None,
    *,
    eps: Any = None,
    norm: str = "linf",
    bounds: Any = (0.0, 1.0),
    batch_size: int | None = None,
    seed: int = 0,
    normalize: Any = None,
    device: torch.device | str | None = None,
    progress: Report | None = None,
) -> Detection:
    """Put κ of the head to the test as a detector of attacks, beside entropy, the top-2 gap and the features' length.

    PGD, MI-FGSM and FGSM, auto-PGD on the cross-entropy and on DLR, PGD on the margin, DDN, and two attacks that aim at
    the κ of clean inputs. Scores of a model whose head has no closed form are those of its logits.

    Args:
        model: returns logits ``[n, K]``; in eval mode; never changed. Or the name of one: ``flatlens:digits-cnn``.
        x: clean inputs ``[n, …]`` within ``bounds``, in all forms that `trace` takes.
        y: labels ``[n]``.
        eps: radius of the attacks but DDN, in units of ``x``; 8/255 when left out, in linf alone.
        norm: ``linf`` or ``l2``.
        bounds: the range of valid inputs.
        batch_size: samples at a time; what fits into memory when left out.
        seed: of all noise, of the κ that each sample is to be given, and of the folds.
        normalize: ``(mean, std)``, as for `trace`.
        device: where to compute; where the model is when left out.
        progress: called after each pass of a batch.

    Returns:
        AUC, accuracies and rates with their intervals, and ``samples``, a row for each sample and attack.

    Raises:
        ModelError: the model is no deterministic classifier in eval mode.
        DataError: inputs or labels that cannot be, or fewer than 10 samples that are right.
        SpecError: a value that cannot be.

    Warns:
        CautionWarning: for each of the result's ``cautions``.
    """
    with python_words(), as_usual():
        settings = {"eps": eps, "norm": norm, "bounds": bounds, "batch_size": batch_size, "seed": seed}
        found = of(asked.objects(model, x, y, normalize, device, **settings), progress)
    warn(found.cautions)
    return found


def of(what: Asked, progress: Report | None = None) -> Detection:
    """The trial of a model and samples that have been checked.

    Args:
        what: the model, the samples and the settings.
        progress: called after each pass of a batch.

    Raises:
        DataError: fewer than 10 samples are right.
    """
    keep_freed_memory()
    x, y = check_data(what.x, what.y)
    with guard.net("while it is checked, before the attack"):
        victim, notes = _victim(what, x)
    check_labels(y, what.ids, victim.classes)
    size = min(what.spec.batch_size or batch_that_fits(bytes_per_sample(victim, x, y), victim.device), len(x))
    judge = attacked.judge(what.model)
    with exact_arithmetic(victim.device), guard.net("at the clean inputs"):
        right = torch.cat([
            judge(victim.place(a), b.to(victim.device)).cpu() for a, b in zip(x.split(size), y.split(size), strict=True)
        ])  # fmt: skip
    n = int(right.sum())
    if n < LEAST_PAIRS:
        raise DataError(
            f"{n} of {len(x)} samples are right before any attack, and a trial of detectors needs at least "
            f"{LEAST_PAIRS}; give more samples, or the model's own normalisation"
        )
    work = _Work(what, victim, judge, n, progress)
    parts = [
        Batch(victim.place(a), b.to(victim.device), i)
        for a, b, i in zip(*(t[right].split(size) for t in (x, y, what.ids)), strict=True)
    ]
    with exact_arithmetic(victim.device):
        clean = [work.scores(part.x, part.y) for part in parts]
        wanted = _wanted(clean, what.ids[right], what.spec.seed)
        columns: list[dict[str, Any]] = []
        for index, part in enumerate(parts):
            victim.where.batch = index + 1
            with guard.net(f"in batch {index + 1}, with batches of {size}"):
                goal = None if wanted is None else wanted[index * size : index * size + len(part.x)]
                columns += work.of(part, clean[index], goal)
    folds = dict(zip(what.ids[right].tolist(), separating.folds(n, what.spec.seed).tolist(), strict=True))
    detectors = {name: said for name, said in DETECTORS.items() if name in clean[0]}
    few = (cautions.few_samples(n),) if n < 100 else ()
    return judged(
        _table(columns, folds), wilson(n, len(x)), work.words, detectors, work.adaptive,
        eps=what.eps, norm=what.spec.norm, n=len(x), seed=what.spec.seed,
        cautions=(*preflight(what.model, victim, x, what.spec.bounds), *few, *notes),
    )  # fmt: skip


def _victim(what: Asked, x: Tensor) -> tuple[ImageVictim, tuple[Caution, ...]]:
    """The model made ready; without its head, and a caution, where that cannot be measured in closed form."""
    how: dict[str, Any] = {"bounds": what.spec.bounds, "device": what.device}
    try:
        return ImageVictim(what.model, x[:EXAMPLES], layers=(HEAD,), **how), ()
    except LayerError as error:
        left = ", ".join(name for name in DETECTORS if name not in OF_THE_HEAD)
        said = f"no κ and no features: {one_line(error)}. Left are the detectors {left}"
        return ImageVictim(what.model, x[:EXAMPLES], layers=(), **how), (Caution("no-head", said),)


def _wanted(clean: list[dict[str, Tensor]], ids: Tensor, seed: int) -> Tensor | None:
    """For each sample a κ drawn from those of the clean inputs, ``[n]``; None where there is no κ."""
    if KAPPA not in clean[0]:
        return None
    known = torch.cat([one[KAPPA] for one in clean])
    drawn = [int(torch.randint(len(known), (1,), generator=stream(seed, i, "wanted-kappa"))) for i in ids.tolist()]
    return known[torch.tensor(drawn, device=known.device)]


class _Ended(NamedTuple):
    """Where an attack has led a batch: points, whether the user's model is wrong there, decades off the wanted κ."""

    x: Tensor
    wrong: Tensor
    decades: Tensor | None = None


class _Work:
    """What is done with each batch of right samples."""

    def __init__(self, what: Asked, victim: ImageVictim, right: Right, n: int, progress: Report | None) -> None:
        self._victim, self._right, self._progress = victim, right, progress
        self._eps, self._norm, self._seed = what.eps, what.spec.norm, what.spec.seed
        self._head = Head(victim.layers[HEAD].module) if HEAD in victim.layers else None  # type: ignore[arg-type]
        self.adaptive = () if self._head is None else ADAPTIVE
        self._attacks, self.words = attacks(self._eps, self._norm, victim.classes)
        if self._head is None:
            self.words = {name: said for name, said in self.words.items() if name not in ADAPTIVE}
        lengths = {name: attacked.length(attack, victim.classes) for name, attack in self._attacks.items()}
        self._done, self._total = 0, n * (sum(lengths.values()) + len(self.adaptive) * STEPS)

    def scores(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The scores of points ``[n, …]``, each ``[n]``."""
        return measured(self._victim(x, y, final=True), self._head)

    def of(self, batch: Batch, clean: dict[str, Tensor], wanted: Tensor | None) -> list[dict[str, Any]]:
        """The rows of the clean inputs, and of each attack, as columns."""
        none = torch.zeros(len(batch.x), dtype=torch.bool, device=batch.x.device)
        rows = [self._rows(CLEAN, batch, clean, _Ended(batch.x, none), None)]
        ends: dict[str, _Ended] = {}
        for name, attack in self._attacks.items():
            tick = partial(self._tick, len(batch.x), name)
            found = walked(attack, self._victim, batch, seed=self._seed, right=self._right, tick=tick)
            ends[name] = _Ended(found.end, found.ended)
        if wanted is not None:
            near = adaptive.matched(self._victim, batch, ends["pgd"].x, wanted, self._kappa, self._right)
            nearer = adaptive.descended(self._victim, batch, near, self._eps, self._norm, STEPS, wanted, self._right)
            ends |= {MATCHED: _Ended(*near), DESCENT: _Ended(*nearer)}
            self._tick(len(ADAPTIVE) * STEPS * len(batch.x), "adaptive")
        for name, end in ends.items():
            goal = wanted if name in ADAPTIVE else None
            rows.append(self._rows(name, batch, self.scores(end.x, batch.y), end, goal))
        return rows

    def _kappa(self, here: Pass) -> Tensor:
        return measured(here, self._head)[KAPPA]

    def _rows(
        self, name: str, batch: Batch, scores: dict[str, Tensor], end: _Ended, wanted: Tensor | None
    ) -> dict[str, Any]:
        delta = (end.x - batch.x).double().flatten(1)
        nan = torch.full((len(delta),), torch.nan, dtype=torch.float64)
        found = {key: scores.get(key, nan) for key in SCORES} | {
            "l2": delta.norm(dim=1),
            "linf": delta.abs().amax(1),
            "wanted_kappa": nan if wanted is None else wanted,
            "decades": nan if end.decades is None else torch.where(end.wrong, end.decades.double(), torch.nan),
        }
        return {
            "sample": batch.ids.numpy(),
            "label": batch.y.cpu().numpy(),
            "attack": [name] * len(delta),
            "success": end.wrong.cpu().numpy(),
            **{key: value.cpu().numpy() for key, value in found.items()},
        }

    def _tick(self, samples: int, what: str) -> None:
        self._done += samples
        if self._progress is not None:
            self._progress(Progress(min(self._done, self._total), self._total, what.replace("_", " ")))


def attacks(eps: float, norm: str, classes: int) -> tuple[dict[str, Walks], dict[str, str]]:
    """The attacks that a model of so many classes is given, and all, the adaptive ones too, in words."""
    found: dict[str, Walks] = {
        "pgd": PGD(eps, norm, STEPS, eps / 10),
        "mi_fgsm": MIFGSM(eps, norm, MOMENTUM_STEPS),
        "fgsm": FGSM(eps, norm),
        "apgd_ce": APGD(eps, norm, STEPS),
        "apgd_dlr": APGD(eps, norm, STEPS, "dlr"),
        "pgd_margin": PGD(eps, norm, STEPS, eps / 10, objective="margin"),
        "ddn": DDN(DDN_STEPS, objective="margin"),
    }
    if classes < 3:
        del found["apgd_dlr"]
    words = {
        "pgd": f"PGD-{STEPS} on the cross-entropy, steps of eps/10",
        "mi_fgsm": f"MI-FGSM, {MOMENTUM_STEPS} steps",
        "fgsm": "FGSM, one step of eps",
        "apgd_ce": f"APGD-CE, {STEPS} steps",
        "apgd_dlr": f"APGD-DLR, {STEPS} steps",
        "pgd_margin": f"PGD-{STEPS} on the margin, steps of eps/10",
        "ddn": f"DDN, {DDN_STEPS} steps on the margin: the nearest in l2, whatever eps is",
        MATCHED: "of the flipped points between clean and PGD's end that whose κ is nearest to one drawn from clean κ",
        DESCENT: f"from there {STEPS} steps that ascend ce − (ln κ − ln t)² in the ball; of the flipped the nearest κ",
    }
    return found, {name: said for name, said in words.items() if name in found or name in ADAPTIVE}


def _table(parts: list[dict[str, Any]], folds: dict[int, int]) -> pa.Table:
    """All rows, those of a sample together; a score that there is none of is null."""
    whole = {key: np.concatenate([np.asarray(part[key]) for part in parts]) for key in parts[0]}
    order = np.argsort(whole["sample"], kind="stable")
    made = {key: values[order] for key, values in whole.items()}
    columns = {
        "sample": pa.array(made.pop("sample")),
        "label": pa.array(made.pop("label")),
        "attack": pa.array(made.pop("attack").tolist()),
        "success": pa.array(made.pop("success")),
        **{key: pa.array(values, from_pandas=True) for key, values in made.items()},
    }
    fold = pa.array([folds[int(i)] for i in columns["sample"].to_numpy()], pa.int64())
    return pa.table({"sample": columns.pop("sample"), "fold": fold, **columns})
