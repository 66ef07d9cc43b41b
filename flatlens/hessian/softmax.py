"""A = diag(p) − p pᵀ, the Hessian of the cross-entropy with respect to the logits, without cancellation.

In the saturated valley of an attack 1 − p is far below the rounding of p; every quantity here is a sum of
terms of one sign, or is taken from log-probabilities, and stays right to 1e-9 for logit gaps up to 600.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

SECULAR_STEPS = 4
"""Of `top_eigenvalue`: three leave 6e-15 of the eigenvalue at the worst that was found, four its rounding."""
SMALLEST = 1e-100
"""A distance from a pole whose inverse can still be squared."""


class Softmax(NamedTuple):
    """Probabilities ``p`` and their complements ``q = 1 − p``, each ``[n, K]`` with full relative accuracy."""

    p: Float[Tensor, "n k"]
    q: Float[Tensor, "n k"]

    @property
    def confidence_term(self) -> Float[Tensor, " n"]:
        """C = Tr A = Σ p_k (1 − p_k)."""
        return (self.p * self.q).sum(1)


def softmax(logits: Float[Tensor, "n k"]) -> Softmax:
    """``p`` and ``1 − p`` of float64 logits, both to full relative accuracy.

    1 − p_k = Σ_{j≠k} p_j is read off log p_k, except for the largest p, where log p is 0 to rounding and the
    others are added up instead.
    """
    log_p = torch.log_softmax(logits, dim=1)
    p = log_p.exp()
    q = -torch.expm1(log_p)
    top = logits.argmax(dim=1, keepdim=True)
    others = logits.scatter(1, top, -torch.inf)
    rest = torch.exp(torch.logsumexp(others, 1, keepdim=True) - torch.logsumexp(logits, 1, keepdim=True))
    return Softmax(p, q.scatter(1, top, rest))


class Others(NamedTuple):
    """A prediction of which one class has the most: what is left for the others, to full relative accuracy.

    Attributes:
        top: the class of the largest logit, ``[n]``.
        first: its logit, ``[n]``.
        gap: the largest logit minus the second, ``[n]``.
        odds: (1 − p_top) / p_top, ``[n]``.
        q: p_k / (1 − p_top), and 0 at the top, ``[n, K]``.
    """

    top: Int[Tensor, " n"]
    first: Float[Tensor, " n"]
    gap: Float[Tensor, " n"]
    odds: Float[Tensor, " n"]
    q: Float[Tensor, "n k"]

    @property
    def rest(self) -> Float[Tensor, " n"]:
        """``r = 1 − p_top``."""
        return self.odds / (1 + self.odds)

    @property
    def p_top(self) -> Float[Tensor, " n"]:
        """``p_top``."""
        return 1 / (1 + self.odds)

    @property
    def confidence_term(self) -> Float[Tensor, " n"]:
        """C = Tr A = r · (p_top + Σ_{k≠top} q_k (1 − p_k))."""
        return self.rest * (self.p_top + 1 - self.rest * self.q.square().sum(1))


def others(logits: Float[Tensor, "n k"]) -> Others:
    """``logits``, float64, as the top class and the rest."""
    first, top = logits.max(1)
    rest = logits.scatter(1, top.unsqueeze(1), -torch.inf)
    second = rest.amax(1)
    q = rest.sub_(second.unsqueeze(1)).exp_()
    mass = q.sum(1)
    gap = first - second
    return Others(top, first, gap, mass * torch.exp(-gap), q.div_(mass.unsqueeze(1)))


def matrix(soft: Softmax) -> Float[Tensor, "n k k"]:
    """A, its diagonal p_k (1 − p_k) from the accurate complements."""
    a = -soft.p.unsqueeze(2) * soft.p.unsqueeze(1)
    a.diagonal(dim1=1, dim2=2).copy_(soft.p * soft.q)
    return a


def eigenvalues(soft: Softmax) -> Float[Tensor, "n r"]:
    """The K − 1 non-zero eigenvalues of A, descending; NaN where A is. One zero belongs to the vector of ones."""
    a = matrix(soft)
    # LAPACK refuses NaN.
    known = torch.isfinite(a).all(2).all(1)
    a = torch.where(known[:, None, None], a, 0)
    # Unit scale: at a gap of 600 the entries are 1e-261 and their squares underflow.
    scale = a.abs().amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(a.dtype).tiny)
    found = (torch.linalg.eigvalsh(a / scale) * scale.squeeze(2)).flip(1)[:, :-1].clamp(min=0)
    return torch.where(known.unsqueeze(1), found, torch.nan)


def top_eigenvalue(seen: Others) -> Float[Tensor, " n"]:
    """λ_max(A), by rational interpolation of the secular equation, all samples in step.

    In units of r = 1 − p₁, with q_k = p_k / r, q₂ the largest and λ = r · (q₂ + w), w ≥ 0 solves

        w + q₂ − p₁ = (p₁ − r q₂ − r w) Σ_{k≠1} q_k² / (w + q₂ − q_k).

    The sum is replaced by c + s / w, of its value and slope where w is, and the quadratic equation that is left gives
    the next w. The replacement lies above the sum on both sides: after the first step w comes down to the root and
    never passes it. It is exact where the classes but the first are alike, and begins as if classes 1 and 2 were alone.

    Every sum has terms of one sign. Nothing asks whether it has settled, for that would wait for a GPU.

    Source:
        R.-C. Li, Solving secular equations stably and efficiently, 1993 (LAPACK Working Note 89): the middle way.
    """
    r, second = seen.rest, seen.q.amax(1)
    drop = second.unsqueeze(1) - seen.q
    ahead = seen.p_top - r * second
    apart = second - seen.p_top

    def root(c: Tensor, s: Tensor) -> Tensor:
        """The positive root of (1 + r c) w² + (apart − ahead · c + r s) w − ahead · s, by the form that adds."""
        square, constant = 1 + r * c, ahead * s
        half = torch.addcmul(apart, r, s).addcmul_(ahead, c, value=-1) / 2
        far = half.abs() + torch.addcmul(half * half, square, constant).sqrt_()
        return torch.where(half > 0, constant / far, far / square).clamp_(min=SMALLEST)

    w = root(torch.zeros_like(r), second.square())
    for _ in range(SECULAR_STEPS):
        part = (seen.q / (w.unsqueeze(1) + drop)).square_()
        w = root((part * drop).sum(1), part.sum(1) * w.square())
    return r * (second + w)


def gradient_norm(soft: Softmax, y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """‖p − e_y‖, the norm of the cross-entropy's gradient by the logits."""
    label = y.to(soft.p.device).unsqueeze(1)
    return soft.p.scatter(1, label, soft.q.gather(1, label)).norm(dim=1)


def cross_entropy(logits: Float[Tensor, "n k"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """−log p_y in nats, to full relative accuracy also where it is far below 1: log(1 + Σ_{j≠y} exp(z_j − z_y))."""
    label = y.to(logits.device).unsqueeze(1)
    others = torch.logsumexp(logits.scatter(1, label, -torch.inf), 1)
    return torch.nn.functional.softplus(others - logits.gather(1, label).squeeze(1), threshold=40.0)


def participation(soft: Softmax) -> Float[Tensor, " n"]:
    """(Tr A)² / ‖A‖_F², between 1 and K − 1: how many eigenvalues carry the confidence term.

    ‖A‖_F² = Σ p_k² q_k² + 2 Σ_{j<k} p_j² p_k², each entry divided by Tr A first, for squares underflow.
    """
    trace = soft.confidence_term.unsqueeze(1)
    p = soft.p.sort(dim=1, descending=True).values
    part = p / trace
    # Σ_{k>j} part_k², for the j-th largest p: sums of terms of one sign.
    after = part[:, 1:].square().flip(1).cumsum(1).flip(1)
    diagonal = (soft.p * soft.q / trace).square().sum(1)
    return 1 / (diagonal + 2 * (p[:, :-1].square() * after).sum(1))
