"""From a specification to the attack that it names."""

from __future__ import annotations

import hashlib
import inspect

from torch import nn

from flatlens import attacks
from flatlens.attacks import libraries, points, recording
from flatlens.attacks.protocol import Attack, stated
from flatlens.errors import AttackError
from flatlens.specs.run import RunSpec
from flatlens.specs.uris import parse


def build(spec: RunSpec, model: nn.Module) -> Attack:
    """The attack that a specification names, flatlens' own or another library's, made for ``model``."""
    if spec.foreign:
        return stated(_foreign(spec, model))
    wanted = {
        "eps": spec.eps,
        "norm": spec.norm,
        "steps": spec.steps,
        "step_size": spec.step_size,
        "random_start": spec.random_start,
        "target": spec.targeted,
        "objective": spec.objective,
        "momentum": spec.momentum,
        "restarts": spec.restarts,
        **{key: getattr(spec, key) for key in ("candidates", "topk", "swaps", "ball", "sharpen")},
    }
    made = attacks.find(spec.attack)
    names = inspect.signature(made).parameters
    return stated(made(**{key: value for key, value in wanted.items() if key in names and value is not None}))


def _foreign(spec: RunSpec, model: nn.Module) -> points.Along | recording.Recorded:
    uri = parse(spec.attack, AttackError)
    if uri.scheme == "path":
        uri.only(())
        return points.from_file(uri.file, target=spec.targeted)
    made, eps = libraries.build(uri, model, seed=spec.seed)
    if spec.targeted is not None and hasattr(made, "set_mode_targeted_by_label"):
        made.set_mode_targeted_by_label(quiet=True)
    norm = None if spec.norm == RunSpec.norm else spec.norm
    radius = spec.eps if eps is None else eps
    return recording.recorded(made, eps=radius, norm=norm, target=spec.targeted, seed=spec.seed)


def points_sha256(spec: RunSpec) -> str | None:
    """Of a file of points: the run is of its content, not of its name."""
    uri = parse(spec.attack, AttackError)
    if uri.scheme != "path":
        return None
    with uri.file.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
