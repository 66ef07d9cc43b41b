"""An example of a plug-in: a package with an entry point in the group ``flatlens.models``.

Its pyproject.toml would say::

    [project.entry-points."flatlens.models"]
    example = "flatlens_example:factory"
"""

from __future__ import annotations

from torch import nn


def factory(*, shape: tuple[int, ...], classes: int, name: str = "linear", width: str = "8") -> nn.Module:
    """``example:linear`` or ``example:mlp?width=N``."""
    features = 1
    for size in shape:
        features *= size
    if name == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(features, classes))
    if name == "mlp":
        hidden = int(width)
        return nn.Sequential(nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, classes))
    raise ValueError(f"no model {name!r}; there are: linear, mlp")


def broken(**_: object) -> nn.Module:
    """Raise, as a plug-in may."""
    raise SystemExit("not today")
