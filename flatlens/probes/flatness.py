"""Curvature of the probed layers at an iterate."""

from __future__ import annotations

from flatlens.errors import LayerError
from flatlens.forward import Forward, Victim
from flatlens.hessian import Curvature
from flatlens.hessian.head import Head


class Flatness:
    """Measures the victim's tapped layers on the pass at hand; no further forward pass is made."""

    def __init__(self, victim: Victim) -> None:
        self._heads = {}
        for name, layer in victim.layers.items():
            if layer.target != victim.head:
                raise LayerError(f"layer '{name}' cannot be probed yet; probe the head")
            self._heads[name] = Head(layer.module)  # type: ignore[arg-type]

    def __call__(self, here: Forward, *, spectrum: bool = False) -> dict[str, Curvature]:
        """The curvature of each layer, by name."""
        return {name: head(here.taps[name].input, spectrum=spectrum) for name, head in self._heads.items()}
