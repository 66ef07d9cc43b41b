"""The trace of a language model's Gauss–Newton matrix by any layer, from a few backward passes over all positions.

The loss is the mean over the target's T positions, and its matrix by a weight W is G = T⁻¹ Σ_t J_tᵀ A_t J_t with
A_t = diag(p_t) − p_t p_tᵀ and J_t = ∂z_t/∂W: for cross-entropy the Fisher matrix. Of

    v_t = T^-½ ε_t √C_t (e_c − p_t) / ‖e_c − p_t‖,    C_t = Tr A_t,

with a random sign ε_t, and c drawn with probability p_c ‖e_c − p_t‖² / C_t, the mean of v_t v_sᵀ is A_t / T where
s = t and 0 elsewhere, so that E‖Σ_t J_tᵀ v_t‖² = Tr G. Every draw is as long as the mean: where the model is sure of
its answer, classes drawn by p itself would hardly ever be other than the first, and nearly all of the trace would be
missed.

J_tᵀ v_t = Σ_q δ_q a_qᵀ runs over all positions q of the pass, the prompt's included: the layer has acted on them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flatlens.hessian import Curvature
from flatlens.hessian.columns import Columns
from flatlens.hessian.gauss_newton import contract, pull_back
from flatlens.hessian.softmax import others
from flatlens.victims.layers import Layer
from flatlens.victims.noise import stream
from flatlens.victims.precision import wide
from flatlens.victims.protocol import Pass

METHOD = "fisher-sampled"


class Cotangent(NamedTuple):
    """A vector by the logits ``[t, k]``, float64, and the ``scale`` that it has been divided by.

    In saturation its own entries would underflow in a float32 backward pass.
    """

    vector: Float[Tensor, "t k"]
    scale: Tensor


class Answers:
    """The predictions at T positions, and what is drawn of them.

    Args:
        logits: of one prompt, float64.

    Attributes:
        confidence_term: C_t, ``[t]``.
    """

    def __init__(self, logits: Float[Tensor, "t k"]) -> None:
        seen = others(logits)
        self._top = seen.top.unsqueeze(1)
        rest, first = seen.rest.unsqueeze(1), seen.p_top.unsqueeze(1)
        self.confidence_term: Float[Tensor, " t"] = seen.confidence_term
        self._p = (rest * seen.q).scatter(1, self._top, first)
        self._q = seen.q  # of the classes but the first, relative to what is left for them
        self._rest = seen.rest
        # ‖e_c − p‖²: of the first class in units of (1 − p)².
        spread = seen.q.square().sum(1, keepdim=True)
        total = first.square() + rest.square() * spread
        self._length = ((1 - self._p).square() + total - self._p.square()).scatter(1, self._top, 1 + spread)
        weight = self._p * self._length
        weight = weight.scatter(1, self._top, weight.gather(1, self._top) * rest.square())
        # In units of what is left, for it may be 1e-260.
        weight = torch.where(rest > 0, weight / rest, 0)
        self._chances = weight.cumsum(1)

    def drawn(self, uniform: Float[Tensor, " t"], sign: Float[Tensor, " t"]) -> Cotangent:
        """The vector that random numbers in [0, 1) and signs stand for."""
        among = uniform * self._chances[:, -1]
        chosen = torch.searchsorted(self._chances, among.unsqueeze(1), right=True).clamp(max=self._p.shape[1] - 1)
        vector = -torch.where(chosen == self._top, self._q, self._p)
        vector = vector.scatter_add(1, chosen, torch.ones_like(vector[:, :1]))
        size = self.confidence_term.sqrt()
        scale = size.amax().clamp(min=torch.finfo(size.dtype).tiny)
        length = self._length.gather(1, chosen).squeeze(1).sqrt()
        factor = sign * (size / scale) / length / len(vector) ** 0.5
        return Cotangent(vector * factor.unsqueeze(1), scale)

    def slope(self, y: Int[Tensor, " t"]) -> Cotangent:
        """The gradient of the mean loss, (p − e_y) / T."""
        label = y.unsqueeze(1)
        q = torch.where(label == self._top, self._rest.unsqueeze(1), 1 - self._p.gather(1, label))
        vector = self._p.scatter(1, label, -q) / len(self._p)
        scale = vector.abs().amax().clamp(min=torch.finfo(vector.dtype).tiny)
        return Cotangent(vector / scale, scale)


class FisherSampled:
    """The trace of the Gauss–Newton matrix of layers of a language model.

    Args:
        layers: by their names in the tables.
        probes: how many draws.
        key: of the random numbers. They are the same at every pass, so that what changes is the path's.
    """

    def __init__(self, layers: Mapping[str, Layer], *, probes: int, key: tuple[int | str, ...]) -> None:
        self._columns = {name: Columns(layer) for name, layer in layers.items()}
        self._norms = {name: wide(layer.weight).norm() for name, layer in layers.items()}
        self._probes, self._key = probes, key

    def __call__(self, here: Pass) -> dict[str, Curvature]:
        """What is known of each layer at one prompt's pass, ``[1]`` each; the graph is kept.

        Args:
            here: its logits are ``[1, t, k]``, its graph is that of the whole prompt.

        Returns:
            ``ggn_trace`` with ``trace_se``, its standard error; ``weight_grad_norm`` and ``feature_norm_sq`` exactly.
            What differs from the Hessian by more than the Gauss–Newton part is NaN.
        """
        logits = wide(here.logits.detach()[0])
        answers = Answers(logits)
        squares: dict[str, list[Tensor]] = {name: [] for name in self._columns}
        sizes: dict[str, Tensor] = {}
        for vector, scale in self._vectors(answers, here.y[0].to(logits.device)):
            deltas = pull_back(here, list(self._columns), vector[None, None])
            for name, columns in self._columns.items():
                found = contract(columns, here, deltas.pop(name))
                squares[name].append(found.gram[:, 0, 0] * scale.to(found.gram.device).square())
                sizes[name] = found.feature_norm_sq
        confidence = answers.confidence_term.mean().unsqueeze(0)
        return {name: self._known(name, torch.stack(squares[name]), sizes[name], confidence) for name in self._columns}

    def _vectors(self, answers: Answers, y: Int[Tensor, " t"]) -> Iterator[Cotangent]:
        """The gradient first, then the draws."""
        yield answers.slope(y)
        generator = stream(*self._key)
        for _ in range(self._probes):
            uniform, sign = torch.rand(2, len(y), generator=generator, dtype=torch.float64).to(y.device)
            yield answers.drawn(uniform, torch.where(sign < 0.5, -1.0, 1.0).to(uniform.dtype))

    def _known(
        self, name: str, squares: Float[Tensor, "m 1"], size: Float[Tensor, " 1"], confidence: Tensor
    ) -> Curvature:
        drawn = squares[1:]
        ggn, se = drawn.mean(0), drawn.std(0) / len(drawn) ** 0.5
        unknown = torch.full_like(ggn, torch.nan)
        return Curvature(
            method=METHOD,
            exact=False,
            trace=unknown,
            trace_se=se,
            ggn_trace=ggn,
            top_eigenvalue=unknown,
            relative_flatness=unknown,
            relative_flatness_se=unknown,
            relative_sharpness=unknown,
            weight_norm=self._norms[name].to(ggn.device).expand_as(ggn),
            feature_norm_sq=size,
            confidence_term=confidence.to(ggn.device),
            scale_free=unknown,
            weight_grad_norm=squares[0].sqrt(),
            effective_rank=unknown,
        )
