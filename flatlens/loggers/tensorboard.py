"""TensorBoard: scalars by step, and the settings beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flatlens.loggers import history
from flatlens.loggers.writing import client, finite, writing
from flatlens.records.trajectory import Trace


@dataclass(frozen=True)
class TensorBoard:
    """Event files for ``tensorboard --logdir FOLDER``.

    Args:
        folder: a folder of events is made in it for each run that is logged.

    Raises:
        LoggerError: tensorboard is not installed.
    """

    folder: str | Path

    def __post_init__(self) -> None:
        client("tensorboard", "tensorboard")

    def log(self, trace: Trace, *, name: str = "flatlens", files: Sequence[str | Path] = ()) -> Path:
        """See `flatlens.loggers.Logger`; TensorBoard keeps no files, so their places are told in ``run.json``."""
        made = Path(self.folder) / name
        with writing("tensorboard", made):
            events = client("tensorboard.summary", "tensorboard").Writer(str(made))
            try:
                for tag, values in history.steps(trace).items():
                    for step, value in finite(values):
                        events.add_scalar(tag, value, step)
                for tag, value in history.result(trace).items():
                    events.add_scalar(f"result/{tag}", value, 0)
            finally:
                events.close()
            told = history.settings(trace) | {Path(file).name: str(Path(file).absolute()) for file in files}
            (made / "run.json").write_text(json.dumps(told, indent=1, ensure_ascii=False), encoding="utf-8")
        return made
