"""`Gauge`: a few numbers of a model in training, on fixed samples, that leave the training as it was."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from flatlens.attacks.balls import ball
from flatlens.attacks.objectives import ascended
from flatlens.attacks.recording import random_state, restore
from flatlens.errors import ModelError, one_line
from flatlens.hessian.training import head_flatness
from flatlens.measure import given
from flatlens.models import OBJECT
from flatlens.specs.run import from_dict
from flatlens.training.attacked import DUAL
from flatlens.training.inner import climb
from flatlens.training.passes import forward
from flatlens.training.watch import closed_head
from flatlens.victims.layers import as_logits
from flatlens.victims.samples import check_data, check_labels
from flatlens.wording import python_words

STEPS = 10
"""Of each of the two attacks."""
SAMPLES = 128


class Gauge:
    """Looks at a model on fixed samples; what it finds goes by the names below.

    - ``flatlens/log10_kappa``: of the median relative flatness κ of the head, at the clean inputs; left out where no
      Linear layer gives the logits, and where κ is 0.
    - ``flatlens/slope``: median of ‖∂margin/∂x‖ at the clean inputs, in the dual norm (l1 for linf, l2 for l2).
    - ``flatlens/clean_accuracy``: share that is classified as labelled.
    - ``flatlens/pgd10_accuracy``: share that is so still after each of two attacks of 10 steps from a random start, on
      the cross-entropy and on the margin. It is cheap and an upper bound: `fl.robustness` judges a finished model.

    A look costs about 25 passes of each sample. The model's modes, gradients and random numbers are left as they were.

    Args:
        x: clean inputs ``[n, …]`` as the model takes them, best ones that are not trained on; in all forms that
            `fl.trace` takes.
        y: labels ``[n]``.
        eps: radius of the attacks, in units of ``x``; 8/255 when left out, in linf alone.
        norm: ``linf`` or ``l2``.
        bounds: the range of valid inputs.
        samples: at most so many are looked at, the first ones.
        part: name of the submodule that is the classifier, ``"net"`` for example; the whole model when left out.
        every: epochs from one look to the next.
        seed: of the random starts, which are the same at each look.

    Raises:
        DataError: inputs or labels that cannot be.
        SpecError: a value that cannot be.
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        *,
        eps: float | None = None,
        norm: str = "linf",
        bounds: Any = (0.0, 1.0),
        samples: int = SAMPLES,
        part: str | None = None,
        every: int = 1,
        seed: int = 0,
    ) -> None:
        with python_words():
            known = {"eps": eps, "norm": norm, "bounds": bounds, "seed": seed, "limit": samples}
            # Square takes the two norms that these attacks do.
            spec = from_dict({"model": OBJECT, "data": OBJECT, "attack": "square"} | known).resolved()
            every = from_dict({"model": OBJECT, "data": OBJECT, "steps": every}).steps
            data = given.samples(x, y)
            inputs, labels = check_data(data.x, data.y)
        assert spec.eps is not None  # `resolved` has written the default
        self._x, self._y = inputs[:samples].cpu(), labels[:samples]
        self._eps, self._norm, self._bounds, self._seed = spec.eps, spec.norm, spec.bounds, spec.seed
        self._part, self.every = part, every

    def check(self, model: nn.Module) -> None:
        """Refuse, before a training, what cannot be looked at after an epoch.

        Raises:
            ModelError: there is no such part, or it takes no such inputs.
            DataError: labels that the model does not have.
        """
        net = self._classifier(model)
        with _left_as_it_is(net):
            x, _ = self._placed(net)
            try:
                logits = as_logits(net(x[:1]))
            except (RuntimeError, TypeError, ValueError) as error:
                raise ModelError(
                    f"the model does not take inputs {list(self._x[:1].shape)} alone ({one_line(error)}); its "
                    'classifier may be a part of it: part="net"'
                ) from error
            if logits.dim() != 2:
                raise ModelError(f"the model returns {list(logits.shape)} for one input; logits [n, K] are needed")
        check_labels(self._y, torch.arange(len(self._y)), logits.shape[1])

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Look at a model, in whatever mode it is.

        Raises:
            ModelError: there is no such part.
        """
        net = self._classifier(model)
        with _left_as_it_is(net):
            x, y = self._placed(net)
            here = forward(net, x.requires_grad_(), y, closed_head(net, x[:2]))
            lost = ascended("margin", here.logits, y)
            (gradient,) = torch.autograd.grad(lost.sum(), here.x)
            right = (here.logits.argmax(1) == y) & ~here.logits.isnan().any(1)
            clean = right
            for seed, objective in enumerate(("ce", "margin"), start=self._seed):
                right = right & self._withstood(net, x.detach(), y, objective, seed)
            found = {
                "log10_kappa": _log10_kappa(here.logits, here.features, here.head),
                "slope": float(ball(DUAL[self._norm]).size(gradient.double()).quantile(0.5)),
                "clean_accuracy": float(clean.double().mean()),
                "pgd10_accuracy": float(right.double().mean()),
            }
        return {f"flatlens/{name}": value for name, value in found.items() if math.isfinite(value)}

    def _classifier(self, model: nn.Module) -> nn.Module:
        if self._part is None:
            return model
        try:
            return model.get_submodule(self._part)
        except AttributeError as error:
            there = ", ".join(name for name, _ in model.named_children())
            raise ModelError(f"the model has no part '{self._part}'; it has: {there or 'none'}") from error

    def _placed(self, net: nn.Module) -> tuple[Tensor, Tensor]:
        own = next(net.parameters(), self._x)
        return self._x.to(own.device, own.dtype, copy=True), self._y.to(own.device)

    def _withstood(self, net: nn.Module, x: Tensor, y: Tensor, objective: str, seed: int) -> Tensor:
        found = climb(
            net, x, lambda logits: ascended(objective, logits, y), eps=self._eps, steps=STEPS,
            size=2.5 * self._eps / STEPS, norm=self._norm, bounds=self._bounds,
            rng=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        logits = as_logits(net(found)).detach()
        return (logits.argmax(1) == y) & ~logits.isnan().any(1)


def _log10_kappa(logits: Tensor, features: Tensor | None, head: nn.Linear | None) -> float:
    if features is None or head is None:
        return math.nan
    with torch.no_grad():
        median = float(head_flatness(logits.double(), features.double(), head.weight.double()).quantile(0.5))
    return math.log10(median) if median > 0 else math.nan


@contextmanager
def _left_as_it_is(net: nn.Module) -> Iterator[None]:
    """The model in eval mode, with gradients; afterwards modes and random numbers as they were."""
    modes, state = [(module, module.training) for module in net.modules()], random_state()
    try:
        net.eval()
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        restore(state)
