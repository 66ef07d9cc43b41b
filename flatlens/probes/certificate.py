"""A bound of the loss along the path, from flatness at the clean input alone.

Log-sum-exp is generalised self-concordant: |D³[u,u,u]| ≤ range(u) · D²[u,u]. So if the head's input φ moves by d with
‖d‖ = ρ, then with R = ρ · max_{j,k} ‖w_j − w_k‖ and ψ(R) = (e^R − R − 1) / R²

    ℓ(φ + d) − ℓ(φ) ≤ ρ ‖∇_φ ℓ‖ + ρ² · λ · ψ(R),    λ = λ_max(Wᵀ A W) ≤ κ / ‖φ‖².

Along a path ρ is known, and the inequality is checked at every step. It certifies the loss in feature space, with no
unknown constant; it says nothing of how far the features move when the input does.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flatlens.hessian.softmax import softmax
from flatlens.probes import Columns, Path
from flatlens.victims.precision import wide
from flatlens.victims.protocol import Pass, Victim

EIGH_CLASSES = 128
"""Up to this many classes λ is found, by a K×K eigenproblem a sample; beyond, κ alone bounds."""
ROWS = 2**22
"""Numbers of a batch's centred class weights that are held at a time (32 MiB)."""


class Anchor(NamedTuple):
    """What the bound needs of the clean inputs; all float64.

    Attributes:
        features: the head's input φ, ``[n, i]``.
        loss: cross-entropy of the label, in nats, ``[n]``.
        slope: ‖∇_φ ℓ‖, ``[n]``.
        variance: κ / ‖φ‖² = Tr(Wᵀ A W), ``[n]``.
        eigenvalue: λ_max(Wᵀ A W), ``[n]``; None for many classes.
    """

    features: Float[Tensor, "n i"]
    loss: Float[Tensor, " n"]
    slope: Float[Tensor, " n"]
    variance: Float[Tensor, " n"]
    eigenvalue: Float[Tensor, " n"] | None

    def at(self, rows: Tensor | None) -> Anchor:
        """Of these samples of the batch only; None = all."""
        if rows is None:
            return self
        return Anchor(*(None if part is None else part[rows.to(part.device)] for part in self))  # type: ignore[arg-type]


class Certificate:
    """The bound at every step of a path, beside the true change of the loss.

    Args:
        linear: the head, whose output is the logits.
        name: of the head in the tables.
    """

    def __init__(self, linear: nn.Linear, name: str) -> None:
        self.name = name
        self.weight: Tensor = wide(linear.weight.detach())
        self.bias: Tensor | None = None if linear.bias is None else wide(linear.bias.detach())
        self.diameter: float = diameter(self.weight)

    @classmethod
    def of(cls, victim: Victim) -> Certificate | None:
        """The certificate of a victim whose head is probed; None otherwise."""
        for name, layer in victim.layers.items():
            if layer.target == victim.head and isinstance(layer.module, nn.Linear):
                return cls(layer.module, name)
        return None

    def anchor(self, clean: Pass) -> Anchor:
        """What the bound needs of the clean inputs."""
        phi = self._features(clean)
        y = clean.y.to(phi.device)
        logits = F.linear(phi, self.weight, self.bias)
        p = softmax(logits).p
        chunks = max(1, -(-len(phi) * self.weight.numel() // ROWS))
        parts = [self._spread(a, b, c) for a, b, c in zip(*(t.chunk(chunks) for t in (p, logits, y)), strict=True)]
        slope, variance, eigenvalue = (torch.cat(column) for column in zip(*parts, strict=True))
        few = len(self.weight) <= EIGH_CLASSES
        return Anchor(phi, F.cross_entropy(logits, y, reduction="none"), slope, variance, eigenvalue if few else None)

    def __call__(self, here: Pass, anchor: Anchor) -> Columns:
        """The bounds of ℓ − ℓ(clean), that difference (nats), and ρ: columns of the head."""
        phi = self._features(here)
        loss = F.cross_entropy(F.linear(phi, self.weight, self.bias), here.y.to(phi.device), reduction="none")
        rho = (phi - anchor.features).norm(dim=1)
        second = rho.square() * psi(rho * self.diameter)
        columns = {
            "loss_change": loss - anchor.loss,
            "feature_distance": rho,
            "certificate_bound_kappa": bound(anchor.slope, anchor.variance, rho, second),
        }
        if anchor.eigenvalue is not None:
            columns["certificate_bound_eigenvalue"] = bound(anchor.slope, anchor.eigenvalue, rho, second)
        return columns

    def _features(self, here: Pass) -> Float[Tensor, "n i"]:
        return wide(here.taps[self.name].input.detach())

    def _spread(self, p: Tensor, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """‖∇_φ ℓ‖, Tr(Wᵀ A W) and λ_max(Wᵀ A W), ``[n]`` each."""
        # Relative to the label's weight, p_y − 1 never appears; relative to the top class's, nothing of the size of
        # ‖w‖ is subtracted from itself where the softmax is saturated.
        slope = torch.einsum("nk,nki->ni", p, self.weight - self.weight[y].unsqueeze(1)).norm(dim=1)
        v = self.weight - self.weight[logits.argmax(1)].unsqueeze(1)
        centred = p.sqrt().unsqueeze(2) * (v - torch.einsum("nk,nki->ni", p, v).unsqueeze(1))
        # Tr(Wᵀ A W) = Σ p_k ‖w_k − w̄‖², and the same rows' Gram matrix has the eigenvalues of Wᵀ A W.
        variance = centred.square().sum((1, 2))
        if p.shape[1] > EIGH_CLASSES:
            return slope, variance, torch.full_like(variance, torch.nan)
        finite = torch.isfinite(variance)
        unit = variance.sqrt().clamp(min=torch.finfo(variance.dtype).tiny).view(-1, 1, 1)
        # LAPACK refuses NaN, and squares of very small entries would underflow.
        scaled = torch.where(finite.view(-1, 1, 1), centred / unit, 0.0)
        top = torch.linalg.eigvalsh(scaled @ scaled.mT)[:, -1].clamp(0, 1)
        return slope, variance, torch.where(finite, top * variance, torch.nan)


class Certified:
    """The certificate along one path: how far the loss may have risen since the first pass, by what was known there."""

    table = "layers"
    late = False

    def __init__(self, certificate: Certificate) -> None:
        self._certificate = certificate
        self._anchor: Anchor | None = None

    def __call__(self, here: Pass, path: Path) -> Mapping[str, Columns]:
        """Columns of the head."""
        if self._anchor is None:
            self._anchor = self._certificate.anchor(here)
        return {self._certificate.name: self._certificate(here, self._anchor.at(here.rows))}


@functools.cache
def _terms(dtype: torch.dtype, device: torch.device) -> Tensor:
    """1/2!, 1/3!, …: of the series of ψ, for r below ½, where the next one is below 1e-13 of it."""
    return torch.tensor([1 / math.factorial(k) for k in range(2, 13)], dtype=dtype, device=device)


def psi(r: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """(e^r − r − 1) / r² for r ≥ 0: ½ at 0, inf where it overflows, relative error below 1e-12."""
    # Not by Horner's rule, which is twenty small operations: r, r², … and their sum, all terms of one sign.
    terms = _terms(r.dtype, r.device)
    series = terms[0] + r.clamp(max=1.0).unsqueeze(1).expand(-1, len(terms) - 1).cumprod(1) @ terms[1:]
    far = r.clamp(min=0.5)
    # The exponent is taken in two halves, so that the quotient overflows later than its numerator.
    half = torch.exp(far / 2) / far
    return torch.where(r < 0.5, series, half * half - (far + 1) / far.square())


def bound(slope: Tensor, curvature: Tensor, rho: Tensor, second: Tensor) -> Float[Tensor, " n"]:
    """ρ ‖∇ℓ‖ + λ · ρ² ψ(R); inf where ψ overflows, also where λ has underflowed to 0."""
    return rho * slope + torch.where(torch.isinf(second), second, curvature * second)


def diameter(weight: Float[Tensor, "k i"]) -> float:
    """Max ‖w_j − w_k‖ over pairs of classes; an upper bound of it where there are too many pairs to look at."""
    if len(weight) > 4096:
        return 2 * float((weight - weight.mean(0)).norm(dim=1).max())
    # Differences first: ‖w_j‖² + ‖w_k‖² − 2⟨w_j, w_k⟩ cancels for similar classes.
    return float(torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist").max())
