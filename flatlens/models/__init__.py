"""Models by name: which there are, and `load`. Imports no torch until a model is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flatlens.specs.known_models import BUILT_IN, CODE, OBJECT, OPTIONS, SCHEMES

if TYPE_CHECKING:
    from flatlens.models.loaders import Loaded as Loaded

__all__ = ["BUILT_IN", "CODE", "OBJECT", "OPTIONS", "SCHEMES", "load"]


def load(
    uri: str,
    *,
    shape: tuple[int, ...],
    classes: int,
    trust_pickle: bool = False,
    trust_remote_code: bool = False,
    download: bool = False,
) -> Loaded:
    """The model that ``uri`` names, in eval mode, on the CPU.

    Naming the same model twice gives the same weights: what is untrained is initialised from the option ``seed``
    (0 unless given), and the global random numbers are left as they were.

    Args:
        uri: one of `BUILT_IN`, or a name by one of the other `SCHEMES` or of a plug-in.
        shape: of one input, without the samples' axis; what is built is fitted to it.
        classes: how many classes the data have.
        trust_pickle: let pickled weights, and programs of ``torch.export``, run code while they are read.
        trust_remote_code: let Python files beside an ``hf:`` model run.
        download: fetch the weights of a hub's model that are missing, by network.

    Raises:
        ModelError: no such model or option, or weights that are missing, damaged, misfit or not finite.
    """
    from flatlens.models import loaders
    from flatlens.specs.trust import Trust

    trust = Trust(trust_pickle, trust_remote_code, download)
    return loaders.load(uri, shape=shape, classes=classes, trust=trust)
