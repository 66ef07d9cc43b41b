"""Curvature of the probed layers as columns of the table of layers."""

from __future__ import annotations

import pyarrow as pa

from flatlens.hessian import Curvature
from flatlens.probes import Columns
from flatlens.records.schema import LAYERS

# The table's numbers that a curvature has, one per sample.
_NUMBERS = [f.name for f in LAYERS if f.name in Curvature.__dataclass_fields__ and pa.types.is_floating(f.type)]


def flatness(found: Curvature) -> Columns:
    """The columns of one layer, ``[n]`` float64 each."""
    return {name: getattr(found, name) for name in _NUMBERS}
