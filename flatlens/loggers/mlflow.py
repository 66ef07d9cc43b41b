"""MLflow (mlflow-skinny is enough): metrics by step, parameters and artifacts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flatlens.loggers import history
from flatlens.loggers.writing import client, finite, writing
from flatlens.records.trajectory import Trace

LONGEST = 500
"""Characters that MLflow takes of a parameter."""


@dataclass(frozen=True)
class MLflow:
    """A run of MLflow: where ``MLFLOW_TRACKING_URI`` says, or in files of a folder.

    Args:
        folder: of the files, as ``mlflow ui --backend-store-uri FOLDER`` reads them.
        experiment: of the run.

    Raises:
        LoggerError: mlflow is not installed.
    """

    folder: str | Path
    experiment: str = "flatlens"

    def __post_init__(self) -> None:
        client("mlflow", "mlflow")

    def log(self, trace: Trace, *, name: str = "flatlens", files: Sequence[str | Path] = ()) -> Path:
        """See `flatlens.loggers.Logger`; the folder, or the run's identity where a server keeps it."""
        folder, server = Path(self.folder).absolute(), os.environ.get("MLFLOW_TRACKING_URI")
        with writing("mlflow", folder):
            if server is None:
                # Files are what needs no server and no data base; MLflow only asks that one wants them.
                os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
                folder.mkdir(parents=True, exist_ok=True)
            tracking = client("mlflow.tracking", "mlflow").MlflowClient(server or folder.as_uri())
            metric, param = (getattr(client("mlflow.entities", "mlflow"), kind) for kind in ("Metric", "Param"))
            known = tracking.get_experiment_by_name(self.experiment)
            experiment = known.experiment_id if known else tracking.create_experiment(self.experiment)
            run = tracking.create_run(experiment, run_name=name)
            identity = run.info.run_id
            metrics = [
                metric(_allowed(tag), value, 0, step)
                for tag, values in history.steps(trace).items()
                for step, value in finite(values)
            ]
            metrics += [metric(_allowed(f"result/{tag}"), value, 0, 0) for tag, value in history.result(trace).items()]
            params = [param(key, value[:LONGEST]) for key, value in history.settings(trace).items()]
            tracking.log_batch(identity, params=params)
            for first in range(0, len(metrics), 1000):  # as many as it takes at once
                tracking.log_batch(identity, metrics=metrics[first : first + 1000])
            for file in files:
                tracking.log_artifact(identity, str(file))
            tracking.set_terminated(identity)
        return folder if server is None else Path(identity)


def _allowed(tag: str) -> str:
    """A metric's name: letters, digits and ``_ - . / :`` and spaces alone."""
    return "".join(letter if letter.isalnum() or letter in "_-./: " else "_" for letter in tag)
