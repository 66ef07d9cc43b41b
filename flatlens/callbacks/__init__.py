"""How flat and how robust a model is after each epoch of somebody else's training, told by that training's own logger.

`Lightning` is a callback of Lightning, `HuggingFace` one of the Hugging Face ``Trainer``; a loop of your own calls a
`Gauge`. All three look at a few fixed samples, and take the same arguments::

    Trainer(callbacks=[fl.callbacks.Lightning(x, y, eps=8/255)])  # of Lightning
    trainer.add_callback(fl.callbacks.HuggingFace(x, y, eps=8/255, trainer=trainer))
    fl.callbacks.Gauge(x, y, eps=8/255)(model)  # {"flatlens/log10_kappa": 0.53, …}

The library is imported when its callback is first asked for: `pip install 'flatlens[lightning]'` or
`'flatlens[trainer]'`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flatlens.callbacks.gauge import Gauge as Gauge
    from flatlens.callbacks.huggingface import HuggingFace as HuggingFace
    from flatlens.callbacks.lightning import Lightning as Lightning

__all__ = ["Gauge", "HuggingFace", "Lightning"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'flatlens.callbacks' has no attribute '{name}'")
    return getattr(import_module(f"flatlens.callbacks.{name.lower()}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
