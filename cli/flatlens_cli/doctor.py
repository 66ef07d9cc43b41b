"""`flatlens doctor`: what is installed, on what it computes, what is missing and how to get it."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import NamedTuple

from packaging.requirements import Requirement

from flatlens.errors import one_line
from flatlens.extras import ROBUSTBENCH
from flatlens_cli import options, terminal

_PRIVATE_EXTRAS = ("test", "dev", "docs")
_INSTALLER = "editables"  # an editable installation lists it among what it needs


USES = {
    "pandas": "to_pandas()",
    "images": "imagefolder: and hf: data",
    "pictures": "report --format png, pdf and svg of the figure; it draws with a Chrome or Chromium that is installed",
    "timm": "timm: models",
    "torchvision": "torchvision: models and data; the wheel of PyPI is for CUDA, for the CPU take PyTorch's own index",
    "hf": "hf: models",
    "ray": "sweeps on a Ray cluster",
    "text": "lm: models",
    "tensorboard": "trace --log tensorboard",
    "wandb": "trace --log wandb",
    "mlflow": "trace --log mlflow",
    "lightning": "fl.callbacks.Lightning",
    "trainer": "fl.callbacks.HuggingFace",
    "robustbench": "what robustbench: models need beside RobustBench itself",
    "attacks": "foolbox: attacks, and what torchattacks needs",
}
"""Extra -> what it is good for."""
BY_HAND = {
    "torchattacks": ("pip install --no-deps torchattacks==3.5.1", "its attacks; by itself it asks for an old requests"),
    "pyautoattack": ("pip install --no-deps pyautoattack==0.2.0", "AutoAttack; by itself it may bring another torch"),
    "robustbench": (ROBUSTBENCH, "robustbench: models; by itself it asks for other versions of timm and gdown"),
}
"""Optional packages that no extra can bring, since what they ask for does not fit: how to get them, and what for."""


class Part(NamedTuple):
    """A package that flatlens uses: what is installed of it, what is asked for, and for which extra if for one."""

    name: str
    version: str | None
    wanted: str
    extra: str | None


def doctor(json: options.Json = False) -> None:
    """Versions, devices, optional parts, what is missing and how to get it."""
    parts = _parts()
    devices = _devices()
    missing = {part.name: _remedy(part) for part in parts if part.version is None}
    missing |= {name: how for name, (how, _) in BY_HAND.items() if _version(name) is None}
    if json:
        versions = {"flatlens": _version("flatlens"), "python": platform.python_version()}
        terminal.emit(
            {
                "versions": versions | {part.name: part.version for part in parts} | {n: _version(n) for n in BY_HAND},
                "platform": platform.platform(),
                "devices": devices,
                "missing": missing,
            }
        )
        return
    rows = [("  flatlens", _version("flatlens") or "not installed"), ("  python", platform.python_version())]
    rows += [(f"  {part.name}", _found(part)) for part in parts]
    rows += [(f"  {name}", _version(name) or "missing  (optional)") for name in BY_HAND]
    terminal.show(terminal.heading("versions", first=True))
    terminal.show(terminal.columns(rows))
    terminal.show(terminal.heading("devices", first=False))
    terminal.show(terminal.columns([(f"  {name}", text) for name, text in devices.items()]))
    uses = {part.name: USES.get(part.extra or "", "") for part in parts} | {n: what for n, (_, what) in BY_HAND.items()}
    terminal.show(terminal.heading("missing", first=False))
    terminal.show(
        terminal.columns(
            [(f"  {name}", text, uses.get(name, "")) for name, text in missing.items()] or [("  nothing", "", "")]
        )
    )


def _parts() -> list[Part]:
    """What the installed flatlens says it needs, or can use."""
    try:
        lines = metadata.requires("flatlens") or []
    except metadata.PackageNotFoundError:
        return [Part("flatlens", None, "", None)]
    parts: list[Part] = []
    extras = metadata.metadata("flatlens").get_all("Provides-Extra") or []
    for needed in map(Requirement, lines):
        asking = [extra for extra in ("", *extras) if needed.marker is None or needed.marker.evaluate({"extra": extra})]
        known = {_INSTALLER, *(part.name for part in parts)}  # several extras bring the same
        # What nothing asks for is for other systems.
        if asking and needed.name not in known and asking[0] not in _PRIVATE_EXTRAS:
            parts.append(Part(needed.name, _version(needed.name), str(needed.specifier), asking[0] or None))
    return parts


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _found(part: Part) -> str:
    state = part.version or "missing"
    return f"{state}  (optional)" if part.extra else state


def _remedy(part: Part) -> str:
    return f"pip install 'flatlens[{part.extra}]'" if part.extra else f"pip install '{part.name}{part.wanted}'"


def _devices() -> dict[str, str]:
    """Where torch can compute, and whether curvature is computed there: it takes float64."""
    try:
        import torch
    except Exception as error:  # a broken installation raises whatever its libraries provoke
        return {"none": f"torch cannot be imported: {one_line(error)}"}
    cores = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    found = {"cpu": f"{cores}, float64: yes"}
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        found[f"cuda:{i}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, float64: yes"
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU, float64: no (curvature is computed on the CPU)"
    return found
