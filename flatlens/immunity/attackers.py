"""How fast a probe is learnt on given features: by those whom immunization slows down, and by those whom it does not.

The probe W ``[d, c]`` on the features Xθ descends ½·tr(WᵀθᵀKθW) − tr(Wᵀθᵀ XᵀY/n), K with its ridge. The lowest loss
is the same for every invertible θ: θ hides nothing, it only makes the way longer for those who take the plain gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from flatlens.hessian.condition import Floats

ITERATIONS = 100
IMMUNIZED, IDENTITY = "immunized", "identity"
"""Extractors: θ, and none."""
SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("extractor", pa.string()),
        ("attacker", pa.string()),
        ("iteration", pa.int32()),
        ("loss_gap", pa.float64()),
        ("norm_ratio", pa.float64()),
    ]
)
"""A row an iteration: the share of the loss above its minimum that is left, and ‖W − W*‖ / ‖W*‖ in the probe's own
coordinates, which depends on how θ scales them."""


class Probe(NamedTuple):
    """A probe to be learnt.

    Attributes:
        root: Rθ ``[m, d]``, a root of its Hessian.
        slope: θᵀXᵀY/n ``[d, c]``, minus the gradient at 0.
        best: W* ``[d, c]``.
    """

    root: Floats
    slope: Floats
    best: Floats

    def curved(self, w: Floats) -> Floats:
        """The Hessian times W."""
        product: Floats = self.root.T @ (self.root @ w)
        return product

    def gap(self, w: Floats) -> float:
        """Share of the loss above its minimum that is left at W; 1 at 0."""
        return float(np.square(self.root @ (w - self.best)).sum() / np.square(self.root @ self.best).sum())

    def distance(self, w: Floats) -> float:
        """‖W − W*‖ / ‖W*‖."""
        return float(np.linalg.norm(w - self.best) / np.linalg.norm(self.best))


def probe(root: Floats, slope: Floats, theta: Floats) -> Probe:
    """The probe of a task on the features Xθ.

    Args:
        root: R ``[d, d]`` of the task's Hessian K = RᵀR, which is invertible.
        slope: XᵀY/n ``[d, c]``.
        theta: ``[d, d]``, invertible.
    """
    at_identity = np.linalg.solve(root, np.linalg.solve(root.T, slope))
    best: Any = np.linalg.solve(theta, at_identity)
    return Probe(root @ theta, theta.T @ slope, best)


Path = Iterator[Floats]


def gradient_descent(p: Probe) -> Path:
    """The plain gradient, at every iteration with the step that lowers the loss most."""
    return _descent(p, p.slope, 0.0)


def conjugate_gradients(p: Probe) -> Path:
    """Conjugate gradients, each output by itself: no more memory or passes than gradient descent."""
    w = np.zeros_like(p.slope)
    residual = p.slope.copy()
    direction, size = residual.copy(), np.square(residual).sum(0)
    while True:
        yield w
        curved = p.curved(direction)
        along = (direction * curved).sum(0)
        step = np.divide(size, along, out=np.zeros_like(size), where=along > 0)
        w = w + step * direction
        residual = residual - step * curved
        new = np.square(residual).sum(0)
        direction = residual + np.divide(new, size, out=np.zeros_like(size), where=size > 0) * direction
        size = new


def least_squares(p: Probe) -> Path:
    """The normal equations, solved: one iteration."""
    yield np.zeros_like(p.slope)
    sigma, vectors = _principal(p)
    best = vectors @ ((vectors.T @ p.slope) / sigma[:, None] ** 2)
    while True:
        yield best


def whitening(p: Probe) -> Path:
    """Gradient descent after the features were rotated to their principal axes and scaled to variance 1."""
    sigma, vectors = _principal(p)
    yield from _within(p, vectors / sigma)


def rescaling(p: Probe) -> Path:
    """Gradient descent after each feature was divided by its own root mean square."""
    yield from _within(p, np.diag(1 / np.linalg.norm(p.root, axis=0)))


def adam(p: Probe) -> Path:
    """Adam on all samples at once, of seven step sizes the one whose loss is lowest at the end."""
    unit = float(np.abs(p.slope).max() / np.square(p.root).sum(0).mean())
    yield from _best(p, [_adam(p, unit * 10.0**power) for power in range(-3, 4)])


def weight_decay(p: Probe) -> Path:
    """Gradient descent on the loss with λ‖W‖²/2, λ from 1e-4 to 1e-1 of the mean eigenvalue: the lowest loss counts."""
    mean = float(np.square(p.root).sum() / len(p.slope))
    yield from _best(p, [_descent(p, p.slope, mean * 10.0**power) for power in range(-4, 0)])


ATTACKERS: dict[str, tuple[Callable[[Probe], Path], str]] = {
    "gradient-descent": (gradient_descent, "plain gradient, exact line search: whom immunization is made against"),
    "conjugate-gradients": (conjugate_gradients, "conjugate gradients"),
    "least-squares": (least_squares, "the normal equations, solved"),
    "whitening": (whitening, "features whitened by their principal axes, then gradient descent"),
    "rescaling": (rescaling, "each feature divided by its root mean square, then gradient descent"),
    "adam": (adam, "Adam, the best of seven step sizes"),
    "weight-decay": (weight_decay, "gradient descent with weight decay, the best of four"),
}
"""Attacker -> its path from W = 0, without an end, and a line about it."""


def walked(name: str, p: Probe, iterations: int = ITERATIONS) -> tuple[Floats, Floats]:
    """Loss gap and norm ratio, ``[iterations + 1]`` each, of an attacker at each iteration, 0 included."""
    path = ATTACKERS[name][0](p)
    points = [next(path) for _ in range(iterations + 1)]
    return np.array([p.gap(w) for w in points]), np.array([p.distance(w) for w in points])


def table(tasks: dict[str, tuple[Floats, Floats]], theta: Floats, iterations: int = ITERATIONS) -> pa.Table:
    """All attackers on each task, with θ and without; columns as in `SCHEMA`.

    Args:
        tasks: name -> root ``[d, d]`` and XᵀY/n ``[d, c]``.
        theta: the extractor, ``[d, d]``.
        iterations: of each attacker.
    """
    parts = []
    for task, (root, slope) in tasks.items():
        for extractor, matrix in ((IDENTITY, np.eye(len(theta))), (IMMUNIZED, theta)):
            here = probe(root, slope, matrix)
            for name in ATTACKERS:
                gaps, distances = walked(name, here, iterations)
                count = len(gaps)
                columns = [[task] * count, [extractor] * count, [name] * count, range(count), gaps, distances]
                parts.append(pa.table(dict(zip(SCHEMA.names, columns, strict=True)), SCHEMA))
    return pa.concat_tables(parts)


def _descent(p: Probe, slope: Floats, decay: float) -> Path:
    w = np.zeros_like(slope)
    while True:
        yield w
        gradient = p.curved(w) + decay * w - slope
        along = float((gradient * (p.curved(gradient) + decay * gradient)).sum())
        # At the minimum the gradient is rounding, and so is what divides by it.
        w = w - float(np.square(gradient).sum()) / along * gradient if along > 0 else w


def _within(p: Probe, change: Floats) -> Path:
    """Gradient descent in other coordinates, W = change·V, told in the probe's own."""
    for v in _descent(Probe(p.root @ change, change.T @ p.slope, p.best), change.T @ p.slope, 0.0):
        yield change @ v


def _adam(p: Probe, rate: float, first: float = 0.9, second: float = 0.999) -> Path:
    w, mean, square, step = np.zeros_like(p.slope), np.zeros_like(p.slope), np.zeros_like(p.slope), 0
    while True:
        yield w
        step += 1
        gradient = p.curved(w) - p.slope
        mean = first * mean + (1 - first) * gradient
        square = second * square + (1 - second) * gradient**2
        w = w - rate * (mean / (1 - first**step)) / (np.sqrt(square / (1 - second**step)) + 1e-8 * rate)


def _best(p: Probe, paths: list[Path]) -> Path:
    """Of several paths the one that is lowest after `ITERATIONS`; whoever attacks can try them all."""
    points = [[next(path) for _ in range(ITERATIONS + 1)] for path in paths]
    chosen = min(range(len(points)), key=lambda k: p.gap(points[k][-1]))
    yield from points[chosen]
    yield from paths[chosen]


def _principal(p: Probe) -> tuple[Floats, Floats]:
    _, sigma, vectors = np.linalg.svd(p.root, full_matrices=False)
    return sigma, vectors.T
