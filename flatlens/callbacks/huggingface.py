"""`HuggingFace`: a callback of the Hugging Face ``Trainer`` that tells its loggers of a `Gauge`'s numbers."""

from __future__ import annotations

from typing import Any

from flatlens.callbacks.gauge import Gauge
from flatlens.errors import LoggerError
from flatlens.extras import need

_library: Any = need("transformers", "trainer", "callbacks of the Trainer", LoggerError)


class HuggingFace(_library.TrainerCallback):  # type: ignore[misc]
    """After each epoch of training, `Gauge`'s numbers by ``trainer.log``, which tells whatever it reports to.

    The model is called with inputs alone, as the first argument, and returns logits or an object with ``.logits``. It
    is looked at in the first process; models whose weights are shared out among processes (FSDP, DeepSpeed) cannot be.

    Args:
        *samples: the clean inputs and their labels, as for `Gauge`.
        trainer: that it is added to, by ``trainer.add_callback``: a trainer does not tell its callbacks who it is.
            Without it the numbers are in ``state.log_history`` alone, which the trainer saves.
        **settings: those of `Gauge`: ``eps``, ``norm``, ``bounds``, ``samples``, ``part``, ``every``, ``seed``.

    Raises:
        LoggerError: transformers is not installed (when the class is first asked for).
    """

    def __init__(self, *samples: Any, trainer: Any = None, **settings: Any) -> None:
        super().__init__()
        self.gauge, self.trainer = Gauge(*samples, **settings), trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Refuse what cannot be looked at, before the first epoch."""
        if state.is_world_process_zero:
            self.gauge.check(model)

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Look, and tell."""
        if not state.is_world_process_zero or round(state.epoch) % self.gauge.every:
            return
        found = self.gauge(model)
        if self.trainer is None:
            state.log_history.append({**found, "epoch": state.epoch, "step": state.global_step})
            return
        # To log is to have logged: the trainer would drop its own numbers of this epoch.
        asked = control.should_log
        self.trainer.log(found)
        control.should_log = asked
