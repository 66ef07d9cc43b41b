"""From a specification to the attack that it names."""

from __future__ import annotations

import hashlib
import inspect

from torch import nn

from flatlens import attacks
from flatlens.attacks import libraries, points, recording
from flatlens.attacks.language import replay
from flatlens.attacks.protocol import Attack, stated
from flatlens.errors import AttackError
from flatlens.specs.run import RunSpec
from flatlens.specs.uris import parse


def build(spec: RunSpec, model: nn.Module | None) -> Attack:
    """The attack that a specification names, flatlens' own or another library's, made for ``model``.

    What is in a file needs none.
    """
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


def _foreign(spec: RunSpec, model: nn.Module | None) -> points.Along | recording.Recorded | replay.Strings:
    uri = parse(spec.attack, AttackError)
    if uri.scheme == "path":
        uri.only(())
        if spec.of_language:
            return replay.from_file(uri.file, spec.attack)
        return points.from_file(uri.file, target=spec.targeted)
    assert model is not None
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
