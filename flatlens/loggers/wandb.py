"""Weights & Biases: a run with its history, summary and an artifact; offline unless ``WANDB_MODE`` says otherwise."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flatlens.loggers import history
from flatlens.loggers.writing import by_step, client, writing
from flatlens.records.trajectory import Trace


@dataclass(frozen=True)
class WandB:
    """A run of Weights & Biases; one that was written offline is sent by ``wandb sync``.

    Args:
        folder: it lies in ``wandb/`` there.
        project: of the run.

    Raises:
        LoggerError: wandb is not installed.
    """

    folder: str | Path
    project: str = "flatlens"

    def __post_init__(self) -> None:
        client("wandb", "wandb")

    def log(self, trace: Trace, *, name: str = "flatlens", files: Sequence[str | Path] = ()) -> Path:
        """See `flatlens.loggers.Logger`."""
        folder = Path(self.folder)
        with writing("wandb", folder):
            wandb = client("wandb", "wandb")
            folder.mkdir(parents=True, exist_ok=True)
            # What the machine is and does, and the script, are nobody's business here.
            quiet = {"console": "off", "silent": True, "x_disable_stats": True, "x_disable_meta": True}
            private = {"disable_git": True, "save_code": False, "disable_job_creation": True}
            run = wandb.init(
                mode=os.environ.get("WANDB_MODE", "offline"),
                dir=str(folder),
                project=self.project,
                name=name,
                config=history.settings(trace),
                reinit="create_new",
                settings=wandb.Settings(**quiet, **private),
            )
            try:
                for step, numbers in by_step(history.steps(trace)):
                    run.log(numbers, step=step)
                run.summary.update({f"result/{tag}": value for tag, value in history.result(trace).items()})
                if files:
                    artifact = wandb.Artifact("flatlens-run", type="run")
                    for file in files:
                        artifact.add_file(str(file), policy="immutable")
                    run.log_artifact(artifact)
                place = Path(run.dir).parent
            finally:
                run.finish()
        return place
