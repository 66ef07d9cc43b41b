"""The curvature of any layers of a victim at any pass: the one entry point.

    measure = AnyLayer(victim, x)      # once: finds out which method each layer allows
    measure(here)                      # at every step: {layer: Curvature}, on the graph of the pass

Which method, and whether it is exact, is measured beforehand and stands in `AnyLayer.methods`:

    closed-form   the head under cross-entropy
    exact         K − 1 backward passes; everything after the layer is piecewise linear
    stratified    the most probable of many classes exactly, the rest sampled, with a standard error; no eigenvalues
    hutchinson    smooth activations after the layer: what Gauss–Newton leaves out is estimated, with a standard error
    gauss-newton  what follows cannot be differentiated twice: only `ggn_trace` and its like are known, the rest is NaN
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from flatlens.errors import LayerError, ResourceError, UsageError
from flatlens.hessian import Curvature
from flatlens.hessian.bends import bending
from flatlens.hessian.columns import Columns
from flatlens.hessian.directions import Directions, check_loss, directions, exhausts
from flatlens.hessian.gauss_newton import CHUNK, Products, contract, pull_back
from flatlens.hessian.head import Check, Head
from flatlens.hessian.hutchinson import Residual, Rest, rest
from flatlens.hessian.preflight import preflight
from flatlens.hessian.scale_free import scale_free
from flatlens.hessian.softmax import softmax
from flatlens.victims.graph import Graph, place
from flatlens.victims.memory import is_out_of_memory
from flatlens.victims.noise import stream
from flatlens.victims.precision import exact_arithmetic, wide
from flatlens.victims.protocol import Batch, Needs, Pass, Victim

CLOSED_FORM, EXACT, STRATIFIED = "closed-form", "exact", "stratified"
HUTCHINSON, GAUSS_NEWTON = "hutchinson", "gauss-newton"

MEMORY = 1 << 30
"""Bytes of derivatives by the layers' outputs that are kept at a time; layers beyond it take backward passes of
their own."""


NEGLIGIBLE = 1e-9
"""Share of the largest eigenvalue below which the classes that are only sampled cannot change it."""


class Method(NamedTuple):
    """How a layer's curvature is found, and whether it equals the Hessian's to rounding."""

    method: str
    exact: bool


class AnyLayer:
    """Curvature of the victim's tapped layers.

    Args:
        victim: with the layers to measure.
        example: a few inputs, or a batch with them, to look at the layers with.
        probes: random probes where an estimate is needed, at least 8: fewer give no trustworthy interval.
        seed: of the probes; the same probes serve all samples and all passes.
        exact_classes: with more classes than this and ``probes`` together, the most probable ones are taken exactly
            and the rest is sampled.
        loss: ``cross-entropy``, ``mse`` (Σ_k (z_k − [k = y])²) or ``margin`` (max_{j≠y} z_j − z_y).

    Attributes:
        needs: how passes must be made for these layers.
        victim: the same one, which makes them so: what is to be measured are its passes.
        methods: layer -> `Method`, in the order of ``victim.layers``.

    Raises:
        LayerError: a layer cannot be probed.
        UsageError: an argument cannot be.
    """

    def __init__(
        self,
        victim: Victim,
        example: Batch | tuple[Tensor, ...] | Tensor,
        *,
        probes: int = 16,
        seed: int = 0,
        exact_classes: int = 32,
        loss: str = "cross-entropy",
    ) -> None:
        check_loss(loss)
        if probes < 8:
            raise UsageError(f"probes is {probes}; at least 8 are needed for an interval that can be trusted")
        if exact_classes < 1:
            raise UsageError(f"exact_classes is {exact_classes}; at least 1 is needed")
        self.probes: int = probes
        self.seed: int = seed
        self.loss: str = loss
        self.exact_classes = exact_classes
        closed = [n for n, layer in victim.layers.items() if layer.target == victim.head and loss == "cross-entropy"]
        self._heads = {name: Head(victim.layers[name].module) for name in closed}  # type: ignore[arg-type]
        self._columns = {name: Columns(layer) for name, layer in victim.layers.items() if name not in closed}
        self._norms = {name: wide(victim.layers[name].weight).norm() for name in self._columns}
        x = example if isinstance(example, Tensor) else example[0]
        with exact_arithmetic(victim.device):
            self._found = preflight(victim, self._columns, x, seed=seed)
        self.needs: Needs = self._found.needs
        self.victim: Victim = victim.needing(self.needs)
        self._chunk, self._memory = CHUNK, MEMORY
        self.methods: dict[str, Method] = {name: self._method(name) for name in victim.layers}

    def _method(self, name: str) -> Method:
        if name in self._heads:
            return Method(CLOSED_FORM, True)
        if name in self._found.once:
            return Method(GAUSS_NEWTON, False)
        if name in self._found.smooth:
            return Method(HUTCHINSON, False)
        if exhausts(self.loss, self.victim.classes, self.exact_classes, self.probes) is None:
            return Method(STRATIFIED, False)
        return Method(EXACT, True)

    def __call__(self, here: Pass, *, spectrum: bool = False, later: list[Check] | None = None) -> dict[str, Curvature]:
        """Curvature of every layer at a pass whose graph is alive; the graph is kept.

        Args:
            here: made by `victim`. The attack's own gradient, which frees the graph, comes after.
            spectrum: also the non-zero eigenvalues, where the method is exact.
            later: takes what is to be asked when the attack is done with the pass (`Head`); asked now when None.

        Raises:
            ResourceError: memory ran out, even in the smallest pieces.
            LayerError: the model does more at these inputs than it did at the first ones.
        """
        found = {
            name: head(here.taps[name].input, here.y, logits=here.logits, spectrum=spectrum, later=later)
            for name, head in self._heads.items()
        }
        if self._columns:
            self._check(here)
            with exact_arithmetic(self.victim.device):
                found |= self._measure(here, spectrum)
        return {name: found[name] for name in self.victim.layers}

    def _check(self, here: Pass) -> None:
        """What was found piecewise linear still is: a branch may lead elsewhere at other inputs."""
        graph = Graph(here.logits)
        for name in self._columns:
            if self.methods[name].method not in (EXACT, STRATIFIED):
                continue
            if (node := bending(graph, place(here.taps[name].output))) is not None:
                raise LayerError(
                    f"layer '{name}' is followed by {node} at some inputs and by nothing that bends at the first ones: "
                    "the model branches; choose inputs that take one branch, or another layer"
                )

    def _measure(self, here: Pass, spectrum: bool) -> dict[str, Curvature]:
        along = directions(
            self.loss,
            here.logits,
            here.y,
            exact_classes=self.exact_classes,
            samples=self.probes,
            generator=stream(self.seed, "classes", 0),
        )
        logits = wide(here.logits.detach())
        smooth = [name for name in self._columns if name in self._found.smooth]
        try:
            residual = Residual(here, smooth, along.residual) if smooth else None
        except Exception as error:
            if is_out_of_memory(error):
                raise _exhausted(smooth[0]) from error
            raise
        found: dict[str, Products] = {}
        rests: dict[str, Rest] = {}
        waiting = self._groups(here, along.weight.shape[1])
        while waiting:
            names = waiting.pop()
            try:
                deltas = pull_back(here, names, along.vectors)
                for name in names:
                    columns = self._columns[name]
                    found[name] = contract(columns, here, deltas[name], chunk=self._chunk)
                    if residual is not None and name in smooth:
                        x = here.taps[name].input
                        rests[name] = rest(
                            columns, x, deltas[name], along, residual, probes=self.probes, seed=self.seed
                        )
                    del deltas[name]
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                deltas = {}
                waiting += self._smaller([name for name in names if name not in found])
        gram = torch.stack([products.gram for products in found.values()])
        spectra = zip(*_spectra(gram, along.weight), strict=True)
        return {
            name: self._assemble(name, along, products, *spectra_of, logits, rests.get(name), spectrum)
            for (name, products), spectra_of in zip(found.items(), spectra, strict=True)
        }

    def _groups(self, here: Pass, passes: int) -> list[list[str]]:
        """The layers in groups that share backward passes and fit into memory together."""
        groups: list[list[str]] = [[]]
        room = self._memory
        for name in self._columns:
            need = passes * here.taps[name].output_shape.numel() * here.logits.element_size()
            if need > room and groups[-1]:
                groups.append([])
                room = self._memory
            groups[-1].append(name)
            room -= need
        return groups

    def _smaller(self, names: list[str]) -> list[list[str]]:
        """After memory ran out: the same layers in two halves, or one layer in smaller pieces."""
        if len(names) > 1:
            self._memory //= 2
            return [names[: len(names) // 2], names[len(names) // 2 :]]
        if self._chunk == 1:
            raise _exhausted(names[0])
        self._chunk //= 4
        return [names]

    def _assemble(
        self,
        name: str,
        along: Directions,
        found: Products,
        values: Float[Tensor, "n m"],
        rank: Float[Tensor, " n"],
        logits: Float[Tensor, "n K"],
        more: Rest | None,
        spectrum: bool,
    ) -> Curvature:
        method, exact = self.methods[name]
        diagonal = found.gram.diagonal(dim1=1, dim2=2) * along.weight
        ggn, trace, trace_se = _total(diagonal, along.samples, None if more is None else more.trace)
        _, kappa, kappa_se = _total(found.kappa * along.weight, along.samples, None if more is None else more.kappa)
        top = values[:, 0] if more is None else more.top_eigenvalue
        if along.samples:
            # Not linear in what is drawn, so that draws put these off by factors, and nothing says how far: they are
            # known where the drawn classes together weigh nothing against them.
            known = diagonal[:, -along.samples :].sum(1) <= NEGLIGIBLE * values[:, 0]
            top, rank = (torch.where(known, number, torch.nan) for number in (top, rank))
        slope = (found.gram @ along.gradient.unsqueeze(2)).squeeze(2) * along.gradient
        norm = self._norms[name].to(trace.device)
        unknown = torch.full_like(trace, torch.nan)
        confidence = softmax(logits).confidence_term
        if method == GAUSS_NEWTON:
            trace = trace_se = kappa = kappa_se = top = unknown
        return Curvature(
            method=method,
            exact=exact,
            trace=trace,
            trace_se=trace_se,
            ggn_trace=ggn,
            top_eigenvalue=top,
            relative_flatness=kappa,
            relative_flatness_se=kappa_se,
            relative_sharpness=norm**2 * trace,
            weight_norm=norm.expand_as(trace),
            feature_norm_sq=found.feature_norm_sq,
            confidence_term=confidence,
            # Of another loss κ is no multiple of c.
            scale_free=scale_free(kappa, confidence, logits) if self.loss == "cross-entropy" else unknown,
            weight_grad_norm=slope.sum(1).clamp(min=0).sqrt(),
            effective_rank=rank,
            spectrum=values if spectrum and exact else None,
        )


def _exhausted(name: str) -> ResourceError:
    return ResourceError(f"not enough memory for the curvature of layer '{name}'; use a smaller --batch-size")


def _total(
    terms: Float[Tensor, "n m"], samples: int, rest: Float[Tensor, "n s"] | None
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The Gauss–Newton part, the whole, and the standard error of the whole.

    The last ``samples`` terms are draws of the classes that were not taken exactly, ``rest`` draws of what
    Gauss–Newton leaves out. Where both are there, the i-th of one is paired with the i-th of the other, so that the
    sum of a pair is one draw and its interval is a plain t-interval.
    """
    fixed = terms[:, : terms.shape[1] - samples].sum(1)
    drawn = terms[:, terms.shape[1] - samples :] * samples
    ggn = fixed + drawn.mean(1) if samples else fixed
    if rest is not None:
        drawn = drawn + rest if samples else rest
    if not drawn.shape[1]:
        return ggn, fixed, 0 * fixed
    return ggn, fixed + drawn.mean(1), drawn.std(1) / drawn.shape[1] ** 0.5


def _spectra(
    gram: Float[Tensor, "layers n m m"], weight: Float[Tensor, "n m"]
) -> tuple[Float[Tensor, "layers n m"], Float[Tensor, "layers n"]]:
    """Of Σ_c ω_c vec(G_c) vec(G_c)ᵀ: the eigenvalues that are not 0, descending; (Σ λ)² / Σ λ², NaN where all are 0.

    All layers at once.
    """
    matrix = gram * weight.sqrt().unsqueeze(1) * weight.sqrt().unsqueeze(2)
    # Unit scale: in saturation the entries are so small that LAPACK's squares underflow.
    size = matrix.diagonal(dim1=2, dim2=3).amax(2)
    finite = torch.isfinite(matrix).flatten(2).all(2)
    known = (finite & (size > 0)).unsqueeze(2).unsqueeze(3)
    unit = torch.where(known, matrix / size.unsqueeze(2).unsqueeze(3), 0.0)
    values = torch.linalg.eigvalsh(unit).flip(2).clamp(min=0) * size.unsqueeze(2)
    rank = unit.diagonal(dim1=2, dim2=3).sum(2).square() / unit.square().sum((2, 3))
    return torch.where(finite.unsqueeze(2), values, torch.nan), torch.where(finite, rank, torch.nan)
