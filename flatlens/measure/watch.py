"""`watch`: an attack that runs in a `with` block, traced when the block ends."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flatlens.attacks.recording import edited, listening, unchanged, weights
from flatlens.attacks.watching import Seen
from flatlens.errors import AttackError, ModelError, SpecError, unknown
from flatlens.measure import given
from flatlens.measure.prepare import prepare
from flatlens.measure.trace import asked, trace
from flatlens.records import saving
from flatlens.records.trajectory import Trace
from flatlens.specs.catalogue import NORMS
from flatlens.specs.values import typed
from flatlens.victims.precision import as_usual
from flatlens.wording import CautionWarning, python_words, warn

_NOT_HERE = ("model", "x", "y", "attack", "normalize")
"""Keywords of `trace` that a watched block has no use for."""
_KEYWORDS = {
    name: parameter.default for name, parameter in inspect.signature(trace).parameters.items() if name not in _NOT_HERE
}
_NOT_SETTINGS = ("labels", "out", "force", "progress")


class Watched:
    """What `watch` gives to its block."""

    def __init__(self, seen: Seen, shape: torch.Size) -> None:
        self._seen, self._shape = seen, shape
        self._trace: Trace | None = None
        self._over = False

    @property
    def trace(self) -> Trace:
        """The trace; it is there once the block has ended.

        Raises:
            AttackError: the block still runs, or ended in an error.
        """
        if self._trace is None:
            raise AttackError(
                "nothing was measured: the watched block ended in an error"
                if self._over
                else "the trace is measured when the watched block ends; ask for it after the block"
            )
        return self._trace

    def returned(self, x_adv: Tensor | np.ndarray[Any, Any]) -> None:
        """Tell what the attack returned for all samples, the end of their paths.

        An attack takes its last step from the last point at which it takes a gradient: where it ends cannot be seen.

        Args:
            x_adv: ``[n, …]``, as the clean inputs.

        Raises:
            AttackError: another shape, or the block is over.
        """
        if self._over:
            raise AttackError("the watched block is over; call returned(x_adv) within it")
        shown = tuple(getattr(x_adv, "shape", ())) or type(x_adv).__name__
        if not isinstance(x_adv, (Tensor, np.ndarray)) or x_adv.shape != self._shape:
            raise AttackError(f"returned({shown}): adversarial inputs of shape {tuple(self._shape)} are needed")
        self._seen.returned = torch.as_tensor(x_adv).detach().cpu().clone()

    def __repr__(self) -> str:
        """Whether there is a trace, and it."""
        state = repr(self._trace) if self._trace is not None else "over" if self._over else "running"
        return f"Watched({state})"


@contextmanager
def watch(
    model: nn.Module,
    x: Any,
    y: Any = None,
    *,
    eps: float | None = None,
    norm: str = "linf",
    calls_per_step: int = 1,
    name: str = "watched",
    **settings: Any,
) -> Iterator[Watched]:
    """Trace the attack that runs in a block: a loop of your own, or that of any library.

    The inputs on which the model is called with a gradient are noted, and measured when the block ends. ::

        with fl.watch(model, x, y, eps=8 / 255, layers="all") as seen:
            seen.returned(my_attack(model, x, y))
        seen.trace.report("report.html")

    Afterwards the model is as it was before the block: its modes, buffers, gradients, and what requires one. Where the
    block raises, that error comes out as it is, and nothing is measured.

    Args:
        model: the very object that is called in the block; in eval mode. With a normalisation it is
            ``fl.normalized(model, mean, std)``.
        x: the clean inputs ``[n, …]`` of all that is attacked in the block, in all forms that `trace` takes. The block
            may attack them in several batches, in their order; what is called cannot be given to samples otherwise.
        y: labels ``[n]``. A targeted attack is measured against these, too.
        eps: what perturbations are held against.
        norm: ``linf``, ``l2`` or ``l1``.
        calls_per_step: gradients that the attack takes per step, the first of them at the iterate; 0: as many as are
            made at the same point.
        name: how the attack is called in results.
        settings: all other keywords of `trace`: ``layers``, ``controls``, ``bounds``, ``out`` …

    Yields:
        a `Watched`: its ``trace`` is there after the block; ``returned(x_adv)`` tells, within the block, where the
        attack ended. Without it a path ends at the last point at which a gradient was taken.

    Raises:
        AttackError: no gradient was taken in the block, or what was called cannot be given to samples.
        ModelError: the model is no deterministic classifier in eval mode, or its weights change in the block.
        LayerError: a layer does not exist or cannot be probed.
        DataError: inputs or labels that cannot be.
        SpecError: a value that cannot be.

    Warns:
        CautionWarning: for each of the trace's ``cautions``.
    """
    # All that can be refused is refused before the attack, which may take long.
    with python_words(), as_usual():
        for key in settings:
            if key == "normalize":
                raise SpecError("normalize= is of no use here: watch fl.normalized(model, mean, std), and attack that")
            if key not in _KEYWORDS:
                raise SpecError(unknown("keyword", key, _KEYWORDS, where="watch and trace have"))
        if not isinstance(model, nn.Module):
            raise ModelError(f"the model is a {type(model).__name__}; give the torch.nn.Module that the block calls")
        data = given.samples(x, y)
        how = _KEYWORDS | settings
        if how["out"] is not None:
            saving.demand_free(Path(how["out"]), force=how["force"])
        radius = None if eps is None else typed("eps", eps, (int, float), float)
        if norm not in NORMS:
            raise SpecError(unknown("norm", norm, NORMS, where="there are"))
        seen = Seen(name, radius, norm, typed("calls_per_step", calls_per_step, int, int))
        job = prepare(model, data.x, data.y, attack=seen, settings=asked(**_without(how, _NOT_SETTINGS)))
        labels = given.labels(how["labels"], job.victim.classes) or data.labels
    watched = Watched(seen, job.x.shape)
    before = weights(model)
    try:
        with unchanged(model), listening(model) as calls:
            yield watched
    finally:
        watched._over = True
    if changed := edited(model, before):
        raise ModelError(
            f"the model's weights change in the watched block ('{changed}'); what was attacked is no longer there"
        )
    seen.sort(calls, job.x.to("cpu", next(model.parameters(), job.x).dtype), job.victim.bounds)
    with warnings.catch_warnings():
        # Said again below, of the line with the block.
        warnings.simplefilter("ignore", CautionWarning)
        found = trace(model, data.x, data.y, attack=seen, **how | {"labels": labels})
    watched._trace = found
    warn(found.cautions, stacklevel=4)


def _without(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}
