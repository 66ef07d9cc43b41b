"""Numbers as text that a page can hold: arrays in base64, JSON that cannot leave its element, all of it compressed."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

Plain = dict[str, Any]


def pack(values: NDArray[Any]) -> Plain:
    """An array as base64: float32, or float64 where float32 would lose small or large numbers.

    A saturated head's curvature reaches 1e-260, which float32 would draw as 0.
    """
    wide = np.asarray(values, dtype=np.float64)
    wide = np.where(np.isfinite(wide), wide, np.nan)
    return encode(wide.astype("<f4" if _narrow(wide) else "<f8"), "f32" if _narrow(wide) else "f64")


def encode(values: NDArray[Any], kind: str) -> Plain:
    """An array as base64 under its kind, which the page's ``decode`` knows."""
    data = base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
    return {kind: data, "shape": list(values.shape)}


def figure(value: Any) -> Any:
    """A figure's plain data for JSON: arrays in the form that plotly.js reads by itself, NaN as null."""
    if isinstance(value, dict):
        return {key: figure(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [figure(part) for part in value]
    if isinstance(value, np.ndarray):
        return _typed(value)
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def to_json(value: Any) -> str:
    r"""JSON that cannot end the script element around it: ``<``, ``>`` and ``&`` are written as ``\u003c`` …."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def compressed(text: str) -> str:
    """Text, compressed and in base64; the same text gives the same."""
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode("ascii")


def _typed(values: NDArray[Any]) -> Any:
    if values.dtype.kind not in "iuf":
        return [figure(value) for value in values.tolist()]
    if values.dtype.kind == "f":
        wide = values.astype(np.float64)
        wide = np.where(np.isfinite(wide), wide, np.nan)
        kind = "f4" if _narrow(wide) else "f8"
    else:
        wide, kind = values, "i4"
    data = base64.b64encode(np.ascontiguousarray(wide.astype(f"<{kind}")).tobytes()).decode("ascii")
    shape = {} if values.ndim == 1 else {"shape": ", ".join(map(str, values.shape))}
    return {"dtype": kind, "bdata": data} | shape


def _narrow(wide: NDArray[np.float64]) -> bool:
    size = np.abs(wide[np.isfinite(wide) & (wide != 0)])
    return not size.size or bool(size.min() > 1e-37 and size.max() < 1e38)
