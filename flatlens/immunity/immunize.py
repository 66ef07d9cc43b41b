"""`immunize`: a linear extractor on which the harmful task is ill conditioned and the primary one well, and its ratios.

What it gives is time: gradient descent on the harmful task becomes slow. Nothing of it is hidden, and who preconditions
(conjugate gradients, least squares, whitening) is not slowed down.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from flatlens.errors import DataError, SpecError, unknown
from flatlens.hessian.condition import Floats, checked_ridge
from flatlens.immunity import attackers, climbing, folder, imma
from flatlens.immunity.ceiling import IMMUNE, Ceiling, Ratios, ceiling, kappa, ratios, spread
from flatlens.immunity.climbing import Place
from flatlens.immunity.result import HISTORY, Change, Immunized
from flatlens.immunity.tasks import Task, both
from flatlens.progress import Progress, Report
from flatlens.records.schema import Caution
from flatlens.specs.immunize import CEILING as CEILING
from flatlens.specs.immunize import METHODS as METHODS
from flatlens.specs.immunize import check
from flatlens.wording import python_words, warn


class Asked(NamedTuple):
    """What is asked of an immunization, checked; see `immunize`."""

    method: str
    ridge: float
    delta: float
    balance: float
    target: float | None
    max_cond: float
    steps: int
    holdout: float
    seed: int


def immunize(
    primary: Any,
    harmful: Any,
    method: str = CEILING,
    *,
    ridge: Any = 1e-2,
    delta: float = 0.3,
    balance: float = 0.5,
    target: float | None = None,
    max_cond: float = 1e6,
    steps: int = 100,
    holdout: float = 0.3,
    seed: int = 0,
    out: str | Path | None = None,
    force: bool = False,
    progress: Report | None = None,
) -> Immunized:
    """Find a linear extractor θ on which a harmful task is slow to learn by gradient descent, and a useful one is not.

    The Hessian of a task's probe on the features Xθ is θᵀKθ, K = XᵀX/n + ρ·tr/d·I; its condition number is made large
    for the harmful task and small for the primary one (arXiv 2505.23760). θ is found on one part of the samples, and
    what it does to the other part is told beside it.

    Args:
        primary: features of the useful task ``[n, d]``, or a pair of them and targets ``[n]`` or ``[n, c]``. Class
            labels are given as one column a class.
        harmful: the same of the harmful task, from the same extractor.
        method: ``ceiling``, ``alg1``, ``r-ill``, ``opt-kappa`` or ``imma``.
        ridge: ρ, at least 0; without one, each task needs as many independent samples as there are features.
        delta: for ``alg1``: the largest eigenvalues of the primary task, to this relative distance, are lowered as one.
        balance: for ``ceiling``: who gains, from 0, the primary task alone (i = 1, or more where that costs it
            nothing), to 1, where it stays as it is (ii = 1) and the harmful one is as slow as can be.
        target: the RIR at which to stop.
        max_cond: the largest condition number that θ itself may have.
        steps: how many steps are tried at most; method ``ceiling`` takes none.
        holdout: the share of each task's samples that θ does not see; 0 for none.
        seed: of the choice of these samples.
        out: a folder to write the result into; an interrupted search in it is gone on with, to the same bits.
        force: replace the result that is there.
        progress: called after each step.

    Returns:
        An `Immunized`.

    Raises:
        DataError: features or targets that cannot be, or a Hessian that is singular.
        SpecError: a value that cannot be.
        RunError: ``out`` holds the result of other features or settings.

    Warns:
        CautionWarning: for each of the result's ``cautions``.

    Example:
        ``fl.immunize((x, y), (x_harmful, y_harmful), ridge=0.01).rir``
    """
    with python_words():
        asked = checked(method, ridge, delta, target, max_cond, steps, holdout, seed, balance)
        tasks = both(primary, harmful)
        if out is None:
            found = of_tasks(*tasks, asked, None, progress)
        else:
            with folder.opened(out, identity(*tasks, asked), force=force) as place:
                found = place.result() or place.finish(of_tasks(*tasks, asked, place, progress))
    warn(found.cautions)
    return found


def identity(primary: Task, harmful: Task, asked: Asked) -> dict[str, Any]:
    """What a result is of: settings and the hashes of the tasks."""
    return asked._asdict() | {"primary_sha256": primary.sha256(), "harmful_sha256": harmful.sha256()}


def of_tasks(
    primary: Task,
    harmful: Task,
    asked: Asked,
    kept: folder.Kept | None,
    progress: Report | None,
    *,
    learn: bool = True,
) -> Immunized:
    """The immunization of two tasks, without warnings.

    Args:
        primary: the useful task.
        harmful: the other one, of the same features.
        asked: what is asked for.
        kept: where places on the way are kept, and found again.
        progress: called after each step.
        learn: let the attackers learn the probes, where there are targets.

    Raises:
        DataError: a Hessian is singular, or what is asked for is beyond the ceiling.
    """
    (p, p_held), (h, h_held) = (one.parts(asked.holdout, asked.seed) for one in (primary, harmful))
    at_p, at_h = p.root(asked.ridge), h.root(asked.ridge)
    top = ceiling(at_p, at_h, asked.balance)
    cautions = [*p.cautions(), *h.cautions()]
    walked: list[Place] = []
    if top.bound < IMMUNE:
        cautions.append(
            Caution(
                "not-immunizable",
                f"no linear extractor has a ratio above {top.bound:.3g}: both tasks see the features alike; θ is the "
                "identity",
            )
        )
        place, stop = climbing.begin(len(at_p)), "not-immunizable"
    elif asked.target is not None and asked.target > top.bound:
        raise DataError(f"--target {asked.target} is above the ceiling: no linear extractor exceeds {top.bound:.4g}")
    elif asked.method == CEILING:
        place, stop = _at_ceiling(top, at_p, at_h, asked.max_cond), CEILING
    else:
        walked, stop = _walk(asked, p, h, kept, progress)
        place = walked[-1]
    known = [(task, root) for task, root in ((p, at_p), (h, at_h)) if learn and task.y is not None]
    learnt = {task.name: (root, task.slope()) for task, root in known}
    held = None
    if p_held is not None and h_held is not None:
        held = ratios(p_held.root(asked.ridge), h_held.root(asked.ridge), place.theta)
        cautions += _told_of(held)
    columns = [[w.step for w in walked], [w.eta for w in walked], *zip(*(w.reached for w in walked), strict=True)]
    return Immunized(
        method=asked.method,
        theta=place.theta,
        **place.reached._asdict(),
        bound=top.bound,
        heldout=held,
        stop=stop,
        harmful=Change(kappa(at_h), kappa(at_h, place.theta)),
        primary=Change(kappa(at_p), kappa(at_p, place.theta)),
        steps=place.step,
        ridge=asked.ridge,
        samples=(len(p.x), len(h.x)),
        history=pa.table(dict(zip(HISTORY.names, columns, strict=True)), HISTORY) if walked else None,
        attackers=attackers.table(learnt, place.theta) if learnt else None,
        cautions=tuple(cautions),
    )


def _at_ceiling(top: Ceiling, at_primary: Floats, at_harmful: Floats, max_cond: float) -> Place:
    cond = kappa(top.theta) ** 0.5
    if cond > max_cond:
        raise DataError(
            f"the extractor at the ceiling has a condition number of {cond:.3g}, above --max-cond {max_cond}; give a "
            "larger --ridge, or method 'alg1'"
        )
    theta = spread(top.theta)
    return Place(0, theta, 0.0, ratios(at_primary, at_harmful, theta))


def _walk(asked: Asked, p: Task, h: Task, kept: folder.Kept | None, progress: Report | None) -> tuple[list[Place], str]:
    """The places from the identity on, and why it ended; what was kept of them before is not walked again."""
    walked = (kept.walked() if kept else None) or [climbing.begin(p.x.shape[1])]
    target = math.inf if asked.target is None else asked.target
    for here in islice(_steps(asked, p, h, walked[-1]), max(0, asked.steps - walked[-1].step)):
        walked.append(here)
        if kept:
            kept.keep(walked)
        if progress:
            progress(Progress(here.step, asked.steps, f"immunizing: RIR {here.reached.rir:.4g}"))
        if here.reached.rir >= target:
            break
    last = walked[-1]
    return walked, "target" if last.reached.rir >= target else "steps" if last.step >= asked.steps else "stalled"


def _steps(asked: Asked, p: Task, h: Task, start: Place) -> Iterator[Place]:
    at_p, at_h = p.root(asked.ridge), h.root(asked.ridge)
    if asked.method == "imma":
        return imma.climb((at_p, p.slope()), (at_h, h.slope()), asked.max_cond, start)
    return climbing.climb(asked.method, at_p, at_h, asked.delta, asked.max_cond, start)


def _told_of(held: Ratios) -> Iterator[Caution]:
    if not (held.i > 1 and held.ii < 1):
        yield Caution(
            "not-held-out",
            f"on samples that were held out i is {held.i:.3g} and ii {held.ii:.3g}: the harmful task is not worse, or "
            "the primary one not better conditioned there",
        )


def checked(
    method: str, ridge: Any, delta: Any, target: Any, max_cond: Any, steps: Any, holdout: Any, seed: Any, balance: Any
) -> Asked:
    """What is asked for, checked.

    Raises:
        SpecError: a value that cannot be.
    """
    if method not in METHODS:
        raise SpecError(unknown("method", str(method), METHODS, where="there are"))
    rho = checked_ridge(ridge)
    numbers = check(delta, balance, target, max_cond, steps, holdout, seed)
    return Asked(method, rho, *numbers)


__all__ = ["METHODS", "Change", "Immunized", "immunize"]
