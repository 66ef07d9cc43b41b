"""Layers of a language model beside its head: what is known of their curvature at each pass of a path."""

from __future__ import annotations

from collections.abc import Mapping

from flatlens.hessian.fisher import FisherSampled
from flatlens.probes import Columns, Path
from flatlens.probes.flatness import columns
from flatlens.victims.encoding import Encoding
from flatlens.victims.layers import Layer
from flatlens.victims.protocol import Forward, Pass
from flatlens.victims.tokens import TokenVictim
from flatlens.victims.whole_prompt import whole_pass


class InnerLayers:
    """The Gauss–Newton traces of inner layers, one row a layer and pass.

    Each pass is made again, over the whole prompt: the attack's own path does not depend on what is measured.

    Args:
        victim: whose prompt it is.
        layers: by their names in the tables.
        measure: of these layers.
    """

    table: str = "layers"
    late: bool = False

    def __init__(self, victim: TokenVictim, layers: Mapping[str, Layer], measure: FisherSampled) -> None:
        self._layers, self._measure = layers, measure
        self._victims = [victim]

    def __call__(self, here: Pass, path: Path) -> Mapping[str, Columns]:
        """The columns of each layer, ``[1]`` float64 each."""
        found = self._measure(whole_pass(self._victim(here), here.x.detach(), self._layers))
        return {name: columns(curvature) for name, curvature in found.items()}

    def _victim(self, here: Pass) -> TokenVictim:
        """The model at the prompt of this pass: that of a control may be another."""
        encoding: Encoding | None = here.encoding if isinstance(here, Forward) else None
        if encoding is None:
            return self._victims[0]
        known = next((victim for victim in self._victims if victim.encoding is encoding), None)
        if known is None:
            known = self._victims[0].at(encoding)
            self._victims.append(known)
        return known
