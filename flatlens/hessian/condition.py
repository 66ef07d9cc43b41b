"""Condition numbers of the Hessian of a probe, a linear model on top of given features.

They say how fast plain gradient descent learns the probe: its error falls by (κ − 1)/(κ + 1) a step at best. κ is here
a condition number, called `condition_number` everywhere, and never relative flatness.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flatlens.errors import DataError, SpecError, one_line, unknown
from flatlens.records.schema import Caution
from flatlens.wording import python_words, warn

PROBES = ("l2", "ce")
"""Losses of the probe: squared error, and cross-entropy."""
LARGEST = 4096
"""Rows of the largest Hessian that is decomposed; its spectrum takes about half a minute."""
RELEASED_RIDGE = 1e-6
"""What the code released with the paper adds to the diagonal, and below which it takes an eigenvalue for none."""
STEADY = 5
"""Samples per feature below which the smallest eigenvalue is that of the draw more than of the data."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Condition:
    """The condition number of a probe's Hessian H, with what it is made of; eigenvalues in units of the features².

    Attributes:
        condition_number: λ_max / λ_min with the ridge; infinite where H is singular.
        effective: largest by smallest non-zero eigenvalue, without the ridge: how ill-conditioned H is where the
            features do not vanish. Not comparable between matrices of different rank.
        rank: how many eigenvalues are not 0 to rounding.
        lambda_max: the largest eigenvalue, with the ridge.
        lambda_min: the smallest eigenvalue, with the ridge.
        plain: the condition number without any ridge; infinite where H is singular.
        released: the figure of the paper's released code (arXiv 2505.23760): largest eigenvalue of H + 1e-6·I by the
            smallest one above 1e-6. Where H is singular that is a zero eigenvalue plus rounding: it says nothing then.
        trace: the sum of the eigenvalues, without the ridge.
        n: samples.
        d: rows of H: the number of features; for ``ce``, times the number of classes less one.
        ridge: ρ; ρ·trace/d was added to the diagonal.
        probe: the probe's loss, ``l2`` or ``ce``.
        cautions: what makes the figures misleading.
    """

    condition_number: float
    effective: float
    rank: int
    lambda_max: float
    lambda_min: float
    plain: float
    released: float
    trace: float
    n: int
    d: int
    ridge: float
    probe: str
    cautions: tuple[Caution, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, as plain data."""
        return asdict(self) | {"cautions": [caution._asdict() for caution in self.cautions]}


class Figures(NamedTuple):
    """The figures of one Hessian that are followed along a path; as in `Condition`."""

    condition_number: float
    effective: float
    rank: int
    lambda_max: float
    lambda_min: float


def condition(features: Any, ridge: Any = 0.0, probe: str = "l2", probabilities: Any = None) -> Condition:
    """How well conditioned the Hessian of a probe on these features is: how fast gradient descent can learn it.

    ``l2``: H = XᵀX/n, of ½‖Xw − y‖²/n for any target. ``ce``: H = (1/n) Σ (diag(p_i) − p_i p_iᵀ) ⊗ x_i x_iᵀ, of the
    multinomial logistic probe at the probabilities given, which are those that the probe itself says there. Adding the
    same vector to the weights of all K classes changes no probability; H is therefore taken on the (K − 1)·d directions
    orthogonal to these. At equal probabilities its condition number is that of ``l2``.

    Eigenvalues are squares of singular values: those of XᵀX itself would be rounding beyond 1e16.

    Args:
        features: X ``[n, d]``, one row a sample; not centred here.
        ridge: ρ ≥ 0; adds ρ·trace(H)/d to the diagonal, so that it means the same whatever the features' units.
        probe: ``l2`` or ``ce``.
        probabilities: for ``ce``, ``[n, K]``.

    Returns:
        The `Condition`, in float64.

    Raises:
        DataError: features that are no finite matrix, all zero, or, without a ridge, fewer samples than features.
        SpecError: a ridge or a probe that cannot be.

    Warns:
        CautionWarning: for each of the result's ``cautions``.

    Example:
        ``fl.condition(features, ridge=0.01).condition_number``
    """
    with python_words():
        found = condition_of(features, ridge, probe, probabilities)
    warn(found.cautions)
    return found


def condition_of(features: Any, ridge: Any = 0.0, probe: str = "l2", probabilities: Any = None) -> Condition:
    """The same without warnings."""
    if probe not in PROBES:
        raise SpecError(unknown("probe", str(probe), PROBES, where="there are"))
    rho = checked_ridge(ridge)
    x = matrix(features, "the features")
    n, d = x.shape
    if probe == "l2":
        if probabilities is not None:
            raise SpecError(
                "probabilities are given, and the Hessian of probe 'l2' does not depend on them; probe='ce'"
            )
        size, sigma = d, singular_values([x], d)
    else:
        p = _probabilities(probabilities, n)
        size = (p.shape[1] - 1) * d
        _not_too_large(size, f"{p.shape[1]} classes and {d} features")
        sigma = singular_values(_ce_rows(x, p), size)
    demand_samples(n, d, rho)
    eigenvalues = sigma**2 / n
    if not eigenvalues[0] > 0:
        raise DataError("the Hessian is zero: all features vanish, or all probabilities are 0 and 1; nothing to invert")
    found = figures(sigma, n, rho)
    smallest = float(eigenvalues[-1]) if found.rank == size else 0.0
    return Condition(
        **found._asdict(),
        plain=float(eigenvalues[0]) / smallest if smallest > 0 else math.inf,
        released=_released(x, eigenvalues, probe),
        trace=float(eigenvalues.sum()),
        n=n,
        d=size,
        ridge=rho,
        probe=probe,
        cautions=tuple(_cautions(x, found.rank, size, rho)),
    )


def figures(sigma: Floats, n: int, ridge: float) -> Figures:
    """The figures of H = XᵀX/n from the singular values of X.

    Args:
        sigma: all of them ``[d]``, descending.
        n: the rows of X.
        ridge: ρ.

    Returns:
        The figures; all NaN, and rank 0, where H is zero or not finite.
    """
    if not (np.isfinite(sigma).all() and sigma[0] > 0):
        return Figures(math.nan, math.nan, 0, math.nan, math.nan)
    eigenvalues = sigma**2 / n
    added = ridge * float(eigenvalues.sum()) / len(sigma)
    rank = int((sigma > sigma[0] * max(n, len(sigma)) * np.finfo(np.float64).eps).sum())
    low = (float(eigenvalues[-1]) if rank == len(sigma) else 0.0) + added
    high = float(eigenvalues[0]) + added
    return Figures(high / low if low > 0 else math.inf, float(eigenvalues[0] / eigenvalues[rank - 1]), rank, high, low)


def demand_samples(n: int, d: int, ridge: float) -> None:
    """Refuse features of which no condition number has a meaning.

    Raises:
        DataError: fewer samples than features without a ridge, or more features than are decomposed.
    """
    _not_too_large(d, f"{d} features")
    if n < d and ridge == 0:
        raise DataError(
            f"{n} samples of {d} features: the Hessian is singular and its condition number infinite; give at least "
            f"{d} samples ({STEADY * d} for a steady figure), or a ridge: --ridge 0.01"
        )


def checked_ridge(ridge: Any) -> float:
    """A ridge as a number of at least 0.

    Raises:
        SpecError: it is none.
    """
    try:
        found = float(ridge)
    except (TypeError, ValueError, RuntimeError):
        found = math.nan
    if isinstance(ridge, bool) or not 0 <= found < math.inf:
        raise SpecError(f"--ridge {ridge!r}: needs a number of at least 0, such as 0.01".replace("'", ""))
    return found


def matrix(values: Any, what: str) -> Floats:
    """Features as a matrix ``[n, d]`` in float64.

    Args:
        values: a tensor, an array, or what converts to one.
        what: how they are called in messages.

    Raises:
        DataError: they are no matrix of finite numbers, or so wide that its spectrum would take minutes.
    """
    detach = getattr(values, "detach", None)  # a tensor's, which may lie on another device and have a graph
    try:
        found = np.asarray(detach().cpu().double().numpy() if callable(detach) else values)
        if found.dtype.kind not in "fiub":
            raise DataError(f"{what} are {found.dtype}; give a matrix [n, d] of real numbers")
        found = np.ascontiguousarray(found, dtype=np.float64)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{what}, a {type(values).__name__}, cannot be read as numbers ({one_line(error)})") from error
    if found.ndim != 2:
        raise DataError(f"{what} have shape {list(found.shape)}; give a matrix [n, d], such as x.flatten(1)")
    if 0 in found.shape:
        raise DataError(f"{what} are empty, of shape {list(found.shape)}; at least one sample and feature are needed")
    bad = ~np.isfinite(found).all(axis=1)
    if bad.any():
        raise DataError(
            f"{what} hold NaN or infinite values in {int(bad.sum())} of {len(bad)} samples, the first at index "
            f"{int(bad.argmax())}; remove or replace them"
        )
    _not_too_large(found.shape[1], f"{what}: {found.shape[1]} features")
    return found


def singular_values(blocks: Iterable[Floats], size: int) -> Floats:
    """The ``size`` singular values, descending, of the matrix whose rows come in blocks; zeros where rows are few."""
    sigma = np.linalg.svd(triangle(blocks, size), compute_uv=False)
    return np.concatenate([sigma, np.zeros(size - len(sigma))])


def triangle(blocks: Iterable[Floats], size: int) -> Floats:
    """R ``[≤ size, size]`` of a QR decomposition of all rows, which has their singular values and right vectors."""
    found = np.empty((0, size))
    for block in blocks:
        found = np.concatenate([found, block])
        if len(found) > size:
            found = np.asarray(np.linalg.qr(found, mode="r"))
    return found


def _not_too_large(size: int, what: str) -> None:
    if size > LARGEST:
        raise DataError(
            f"{what} make a Hessian of {size:,} rows; at most {LARGEST:,} are decomposed: use a later layer"
        )


def _probabilities(given: Any, n: int) -> Floats:
    if given is None:
        raise SpecError("probe 'ce' needs probabilities [n, K]: those of the probe at which the Hessian is taken")
    p = matrix(given, "the probabilities")
    if len(p) != n or p.shape[1] < 2:
        raise DataError(f"probabilities of shape {list(p.shape)} for {n} samples; give [n, K], K at least 2")
    if p.min() < 0 or np.abs(p.sum(axis=1) - 1).max() > 1e-4:
        raise DataError("the probabilities are negative, or do not sum to 1, for some sample; give softmax(logits)")
    return p / p.sum(axis=1, keepdims=True)


def _ce_rows(x: Floats, p: Floats) -> Iterable[Floats]:
    """Rows whose Gram matrix is n·H of cross-entropy on the directions that change a probability."""
    # diag(p) − p pᵀ = B Bᵀ with B = diag(√p)(I − √p √pᵀ): a sample gives K rows, (Qᵀ B)[:, k] ⊗ x.
    classes = p.shape[1]
    q = np.linalg.qr(np.column_stack([np.ones(classes), np.eye(classes)[:, 1:]]))[0][:, 1:]
    width = (classes - 1) * x.shape[1]
    at_once = max(1, width // classes)
    for start in range(0, len(x), at_once):
        root = np.sqrt(p[start : start + at_once])
        b = root[:, :, None] * (np.eye(classes) - root[:, :, None] * root[:, None, :])
        rows = np.einsum("jc,njk,nd->nkcd", q, b, x[start : start + at_once], optimize=True)
        yield rows.reshape(-1, width)


def _released(x: Floats, eigenvalues: Floats, probe: str) -> float:
    """As the released code has it, rounding included: it decomposes the Gram matrix itself."""
    gram = np.linalg.eigvalsh(x.T @ x / len(x) + RELEASED_RIDGE * np.eye(x.shape[1]))
    found = gram if probe == "l2" else eigenvalues + RELEASED_RIDGE
    above = found[found > RELEASED_RIDGE]
    return float(above.max() / above.min()) if above.size else math.nan


def _cautions(x: Floats, rank: int, size: int, ridge: float) -> Iterable[Caution]:
    n, d = x.shape
    constant = int((np.ptp(x, axis=0) == 0).sum())
    if constant and n > 1:
        yield Caution("constant-features", f"{constant} of {d} features are the same for all {n} samples")
    if rank < size:
        held = (
            f"the ridge {ridge:g} alone keeps it finite" if ridge else "its condition number is infinite; give a ridge"
        )
        yield Caution("singular", f"the Hessian has rank {rank} of {size}: {held}")
    elif n < STEADY * d:
        yield Caution(
            "few-samples",
            f"{n} samples of {d} features: the smallest eigenvalue is steady from {STEADY * d} samples on",
        )


__all__ = ["Condition", "condition", "condition_of"]
