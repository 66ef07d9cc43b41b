"""`Lightning`: a callback of Lightning that tells its logger of a `Gauge`'s numbers after each epoch."""

from __future__ import annotations

import sys
from typing import Any

from flatlens.callbacks.gauge import Gauge
from flatlens.errors import LoggerError
from flatlens.extras import need

# Of the two packages that Lightning comes as, that whose trainer is in use.
_OLD = "pytorch_lightning" in sys.modules and "lightning" not in sys.modules
_library: Any = need(
    "pytorch_lightning" if _OLD else "lightning.pytorch", "lightning", "callbacks of Lightning", LoggerError
)


class Lightning(_library.Callback):  # type: ignore[misc]
    """After each epoch of training, `Gauge`'s numbers by ``pl_module.log_dict``.

    The model is the LightningModule itself, called with inputs alone, or its ``part``. It is looked at in the first
    process; models whose weights are shared out among processes (FSDP, DeepSpeed) cannot be.

    Args:
        *samples: the clean inputs and their labels, as for `Gauge`.
        **settings: those of `Gauge`: ``eps``, ``norm``, ``bounds``, ``samples``, ``part``, ``every``, ``seed``.

    Raises:
        LoggerError: Lightning is not installed (when the class is first asked for).
    """

    def __init__(self, *samples: Any, **settings: Any) -> None:
        super().__init__()
        self.gauge = Gauge(*samples, **settings)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse what cannot be looked at, before the first epoch."""
        if trainer.is_global_zero:
            self.gauge.check(pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Look, and tell."""
        if trainer.is_global_zero and (trainer.current_epoch + 1) % self.gauge.every == 0:
            pl_module.log_dict(self.gauge(pl_module), on_step=False, on_epoch=True, rank_zero_only=True)
