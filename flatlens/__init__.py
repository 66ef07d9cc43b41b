"""flatlens: exact, per-sample loss-landscape flatness at every step of an adversarial attack.

Typical use::

    import flatlens as fl
    trace = fl.trace(model, x, y, attack=fl.attacks.PGD(eps=8/255, steps=40), layers=["head"])
    trace.report("report.html")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flatlens import attacks as attacks
    from flatlens import callbacks as callbacks
    from flatlens import datasets as datasets
    from flatlens import loggers as loggers
    from flatlens import models as models
    from flatlens.datasets.prompts import Prompt as Prompt
    from flatlens.errors import FlatlensError as FlatlensError
    from flatlens.hessian.condition import Condition as Condition
    from flatlens.hessian.condition import condition as condition
    from flatlens.hessian.training import head_flatness as head_flatness
    from flatlens.immunity.immunize import immunize as immunize
    from flatlens.immunity.result import Immunized as Immunized
    from flatlens.measure.curvature import curvature as curvature
    from flatlens.measure.robustness import robustness as robustness
    from flatlens.measure.run import run as run
    from flatlens.measure.trace import trace as trace
    from flatlens.measure.trace_text import curvature_text as curvature_text
    from flatlens.measure.trace_text import trace_text as trace_text
    from flatlens.measure.watch import watch as watch
    from flatlens.models.normalized import normalized as normalized
    from flatlens.progress import progress_bar as progress_bar
    from flatlens.records.runs import Run as Run
    from flatlens.records.trajectory import Trace as Trace
    from flatlens.specs.run import RunSpec as RunSpec
    from flatlens.specs.train import TrainSpec as TrainSpec
    from flatlens.sweeps.folder import Sweep as Sweep
    from flatlens.sweeps.opening import open as open
    from flatlens.sweeps.supervisor import run_sweep as run_sweep
    from flatlens.training import defences as defences
    from flatlens.training.recipes import train as train
    from flatlens.training.robustness import Robustness as Robustness
    from flatlens.trials.autopsy import autopsy as autopsy
    from flatlens.trials.causes import Autopsy as Autopsy
    from flatlens.trials.detected import Detection as Detection
    from flatlens.trials.detectors import detect as detect
    from flatlens.wording import CautionWarning as CautionWarning

from flatlens.version import __version__

# Public name -> where it lives; imported when first used, so that `flatlens --help` needs no torch.
_PUBLIC = {
    "Autopsy": ("flatlens.trials.causes", "Autopsy"),
    "CautionWarning": ("flatlens.wording", "CautionWarning"),
    "Condition": ("flatlens.hessian.condition", "Condition"),
    "Detection": ("flatlens.trials.detected", "Detection"),
    "FlatlensError": ("flatlens.errors", "FlatlensError"),
    "Immunized": ("flatlens.immunity.result", "Immunized"),
    "Prompt": ("flatlens.datasets.prompts", "Prompt"),
    "Robustness": ("flatlens.training.robustness", "Robustness"),
    "Run": ("flatlens.records.runs", "Run"),
    "RunSpec": ("flatlens.specs.run", "RunSpec"),
    "TrainSpec": ("flatlens.specs.train", "TrainSpec"),
    "Sweep": ("flatlens.sweeps.folder", "Sweep"),
    "Trace": ("flatlens.records.trajectory", "Trace"),
    "attacks": ("flatlens.attacks", None),
    "autopsy": ("flatlens.trials.autopsy", "autopsy"),
    "callbacks": ("flatlens.callbacks", None),
    "condition": ("flatlens.hessian.condition", "condition"),
    "curvature": ("flatlens.measure.curvature", "curvature"),
    "curvature_text": ("flatlens.measure.trace_text", "curvature_text"),
    "datasets": ("flatlens.datasets", None),
    "defences": ("flatlens.training.defences", None),
    "detect": ("flatlens.trials.detectors", "detect"),
    "head_flatness": ("flatlens.hessian.training", "head_flatness"),
    "immunize": ("flatlens.immunity.immunize", "immunize"),
    "loggers": ("flatlens.loggers", None),
    "models": ("flatlens.models", None),
    "normalized": ("flatlens.models.normalized", "normalized"),
    "progress_bar": ("flatlens.progress", "progress_bar"),
    "robustness": ("flatlens.measure.robustness", "robustness"),
    "run": ("flatlens.measure.run", "run"),
    "run_sweep": ("flatlens.sweeps.supervisor", "run_sweep"),
    "open": ("flatlens.sweeps.opening", "open"),
    "trace": ("flatlens.measure.trace", "trace"),
    "trace_text": ("flatlens.measure.trace_text", "trace_text"),
    "train": ("flatlens.training.recipes", "train"),
    "watch": ("flatlens.measure.watch", "watch"),
}
__all__ = [
    "Autopsy",
    "CautionWarning",
    "Condition",
    "Detection",
    "FlatlensError",
    "Immunized",
    "Prompt",
    "Robustness",
    "Run",
    "RunSpec",
    "Sweep",
    "Trace",
    "TrainSpec",
    "__version__",
    "attacks",
    "autopsy",
    "callbacks",
    "condition",
    "curvature",
    "curvature_text",
    "datasets",
    "defences",
    "detect",
    "head_flatness",
    "immunize",
    "loggers",
    "models",
    "normalized",
    "open",
    "progress_bar",
    "robustness",
    "run",
    "run_sweep",
    "trace",
    "trace_text",
    "train",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'flatlens' has no attribute '{name}'")
    module, attribute = _PUBLIC[name]
    found = import_module(module)
    value = found if attribute is None else getattr(found, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
