"""Curvature of the probed layers as columns of the table of layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import torch

from flatlens.hessian import Curvature
from flatlens.hessian.any_layer import AnyLayer
from flatlens.hessian.head import Check
from flatlens.probes import Columns, Path
from flatlens.probes.gradients import zero_inputs
from flatlens.records.schema import LAYERS
from flatlens.victims.protocol import Pass

# The table's numbers that a curvature has, one per sample.
_NUMBERS = [f.name for f in LAYERS if f.name in Curvature.__dataclass_fields__ and pa.types.is_floating(f.type)]


class Flatness:
    """The curvature of every probed layer along all paths of one batch, which begin at the same clean inputs.

    Args:
        measure: of the victim's layers.
    """

    table = "layers"
    late = False

    def __init__(self, measure: AnyLayer) -> None:
        self._measure = measure
        self._clean: Mapping[str, Columns] = {}
        self._open: list[Check] = []

    def __call__(self, here: Pass, path: Path) -> Mapping[str, Columns]:
        """The columns of each layer, ``[n]`` float64 each."""
        at_clean = path.previous is None and torch.equal(here.x, path.clean)
        if at_clean and self._clean:
            return self._clean
        found: dict[str, Columns] = {
            name: columns(curvature) | zero_inputs(here.taps[name], len(here.logits))
            for name, curvature in self._measure(here, later=self._open).items()
        }
        if at_clean:
            self._clean = found
        return found

    def settle(self) -> None:
        """Ask what is open: whether the head's logits were the model's.

        Raises:
            LayerError: they were not.
        """
        for check in self._open:
            check()
        self._open.clear()


@dataclass(frozen=True)
class Settled:
    """Settles what `Flatness` left open at a pass once the attack's gradient is on its way: a GPU is busy then."""

    flatness: Flatness
    table: str = "layers"
    late: bool = True

    def __call__(self, here: Pass, path: Path) -> Mapping[str, Columns]:
        """No columns."""
        self.flatness.settle()
        return {}


def columns(found: Curvature) -> dict[str, torch.Tensor | str | bool]:
    """The columns of one layer."""
    return {"method": found.method, "exact": found.exact, **{name: getattr(found, name) for name in _NUMBERS}}
