"""A finished trace to a tracker of experiments: TensorBoard, Weights & Biases, or MLflow; no torch is needed for it.

Medians and shares of every path at every step, the result in numbers, and, where the tracker keeps files, the page and
the tables. Each writes through its library's own client, and to this machine unless the library's own settings
(``WANDB_MODE``, ``MLFLOW_TRACKING_URI``) say otherwise::

    fl.loggers.TensorBoard("logs").log(trace)
    fl.loggers.WandB("logs", project="valleys").log(trace, files=["runs/first/report.html"])
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from flatlens.errors import LoggerError, unknown
from flatlens.loggers.mlflow import MLflow
from flatlens.loggers.tensorboard import TensorBoard
from flatlens.loggers.wandb import WandB
from flatlens.records.trajectory import Trace

__all__ = ["LOGGERS", "Logger", "MLflow", "TensorBoard", "WandB", "made"]


class Logger(Protocol):
    """What all loggers do."""

    def log(self, trace: Trace, *, name: str = "flatlens", files: Sequence[str | Path] = ()) -> Path:
        """Write a trace; returns the folder, or where it went.

        Args:
            trace: finished.
            name: of the run in the tracker.
            files: kept beside it, where the tracker keeps files.

        Raises:
            LoggerError: its library is not installed, or could not write.
        """


LOGGERS = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}
"""Name on the command line -> class."""


def made(name: str, folder: Path) -> Logger:
    """The logger of a name, that writes into a folder.

    Raises:
        LoggerError: there is none of that name, or its library is not installed.
    """
    if name not in LOGGERS:
        raise LoggerError(unknown("logger", name, LOGGERS, where="there are"))
    found: Logger = LOGGERS[name](folder)
    return found
