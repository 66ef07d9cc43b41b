"""A = diag(p) − p pᵀ, the Hessian of the cross-entropy with respect to the logits, without cancellation.

In the saturated valley of an attack 1 − p is far below the rounding of p; every quantity here is a sum of
terms of one sign, or is taken from log-probabilities, and stays right to 1e-9 for logit gaps up to 600.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

EIGH_CLASSES = 64
"""Up to this many classes a K×K eigenproblem is cheaper than bisecting the secular equation."""
NEWTON_STEPS = 60
"""At most; about 8 are taken."""
ENOUGH = 10
"""Newton's steps for at most `EIGH_CLASSES` classes, where it is not asked whether all are settled."""


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
    """The K − 1 non-zero eigenvalues of A, descending; one zero belongs to the vector of ones."""
    a = matrix(soft)
    # Unit scale: at a gap of 600 the entries are 1e-261 and their squares underflow.
    scale = a.abs().amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(a.dtype).tiny)
    return (torch.linalg.eigvalsh(a / scale) * scale.squeeze(2)).flip(1)[:, :-1].clamp(min=0)


def top_eigenvalue(soft: Softmax) -> Float[Tensor, " n"]:
    """λ_max(A)."""
    if soft.p.shape[1] <= EIGH_CLASSES:
        return eigenvalues(soft)[:, 0]
    return _secular(soft)


def _secular(soft: Softmax) -> Float[Tensor, " n"]:
    """Bisect λ − p₁q₁ = (p₁ − λ) Σ_{k≠1} p_k² / (λ − p_k) between p₂ and p₁; the left side crosses once."""
    p, order = soft.p.sort(dim=1, descending=True)
    pq = (soft.p * soft.q).gather(1, order)
    first, rest = p[:, 0], p[:, 1:]
    # λ_max is at least any diagonal entry and p₂ (interlacing), at most p₁ and twice a diagonal entry (Gershgorin).
    low = torch.maximum(pq.amax(1), rest[:, 0])
    high = torch.maximum(torch.minimum(first, 2 * pq.amax(1)), low)
    for _ in range(60):
        mid = (low + high) / 2
        gap = (mid.unsqueeze(1) - rest).clamp(min=torch.finfo(p.dtype).tiny)
        right = (first - mid) * (rest * (rest / gap)).sum(1)
        above = mid - pq[:, 0] > right
        low, high = torch.where(above, low, mid), torch.where(above, mid, high)
    return (low + high) / 2


def largest_eigenvalue(seen: Others, *, steps: int | None = None) -> Float[Tensor, " n"]:
    """λ_max(A) of many classes, by Newton on the secular equation that `_secular` bisects, without sorting.

    λ − p₁r − (p₁ − λ) Σ_{k≠1} p_k² / (λ − p_k) rises and is concave between p₂ and p₁: from the left of the root Newton
    goes up to it and never past. The largest eigenvalue of classes 1 and 2 alone lies to the left.

    Args:
        seen: the softmax.
        steps: of Newton; until all are settled when None. Of at most `EIGH_CLASSES` classes `ENOUGH` settle all, and
            nobody waits for a GPU's answer.
    """
    r, first = seen.rest, seen.p_top
    rest = seen.q * r.unsqueeze(1)
    second = rest.amax(1)
    own, other = first * r, second * (1 - second)
    value = torch.maximum((own + other) / 2 + torch.hypot((own - other) / 2, first * second), second)
    high = torch.maximum(torch.minimum(first, 2 * torch.maximum(own, other)), value)
    eps, tiny = torch.finfo(first.dtype).eps, torch.finfo(first.dtype).tiny
    for _ in range(steps or NEWTON_STEPS):
        # The nearest that λ comes to p₂ is the rounding of both.
        gap = torch.maximum(value.unsqueeze(1) - rest, (value * eps).clamp(min=tiny).unsqueeze(1))
        part = rest / gap
        near = (part * rest).sum(1)
        height = value - own - (first - value) * near
        slope = 1 + near + (first - value) * part.square_().sum(1)
        moved = torch.minimum((value - height / slope).clamp(min=0), high)
        settled = (moved - value).abs() <= 2 * eps * value
        value = torch.maximum(value, moved)
        if steps is None and bool((settled | ~torch.isfinite(value)).all()):
            break
    return value


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
