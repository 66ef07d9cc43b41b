"""The figure of all pairs of classes as plotly's plain data: what each extractor does to both of its tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flatlens.report.layout import BOTTOM, Plain, curve_line, escaped, figure_layout, stroke
from flatlens.report.roles import colour


def scatter(pairs: Mapping[str, Any]) -> Plain | None:
    """A dot a pair: along how much worse the harmful task is conditioned, upright how much worse the primary one.

    Args:
        pairs: columns of the table of pairs; what was held out is NaN where nothing was.
    """
    data: list[Plain] = []
    every: list[Any] = []
    for across, up, name, role in (("heldout_i", "heldout_ii", "held out", "cross"), ("i", "ii", "seen", "attack")):
        there = np.isfinite(pairs[across]) & np.isfinite(pairs[up]) & (pairs[across] > 0) & (pairs[up] > 0)
        if not there.any():
            continue
        x, y = pairs[across][there], pairs[up][there]
        said = [
            f"{escaped(a)} against {escaped(b)}"
            for a, b in zip(pairs["primary"][there].tolist(), pairs["harmful"][there].tolist(), strict=True)
        ]
        gaps = np.full(len(x), np.nan)
        # Dots without a line between them, for who draws lines and the dots on them.
        apart = {"x": np.column_stack([x, gaps]).ravel(), "y": np.column_stack([y, gaps]).ravel()}
        hover = f"%{{text}}, {name}: i %{{x:.3g}}, ii %{{y:.3g}}<extra></extra>"
        data.append(
            curve_line(apart["x"], apart["y"], role, width=0.1, hover=hover)
            | {"mode": "lines+markers", "name": name, "text": np.repeat(said, 2),
               "marker": {"size": 8, "color": colour(role), "opacity": 0.75}}
        )  # fmt: skip
        every.append((np.log10(x), np.log10(y)))
    if not data:
        return None
    xs, ys = (_range(np.concatenate([one[axis] for one in every])) for axis in (0, 1))
    line = stroke("faint", 1, "dot")
    shapes = [
        {"type": "line", "x0": 10 ** xs[0], "x1": 10 ** xs[1], "y0": 1, "y1": 1, "line": line},
        {"type": "line", "x0": 1, "x1": 1, "y0": 10 ** ys[0], "y1": 10 ** ys[1], "line": line},
    ]
    log: Plain = {"type": "log", "exponentformat": "power", "dtick": 1}
    layout = figure_layout(
        xaxis=log | {"title": {"text": "i, harmful: worse →"}, "range": xs},
        yaxis=log | {"title": {"text": "ii, primary: worse ↑"}, "range": ys},
        shapes=shapes, annotations=[], margin={"l": 64, "r": 16, "t": 14, "b": BOTTOM}, meta={"narrow": {"l": 54}},
    )  # fmt: skip
    return {"data": data, "layout": layout}


def _range(logs: Any) -> list[float]:
    """Ends of an axis in powers of ten, with 1 on it."""
    return [min(float(logs.min()), 0.0) - 0.25, max(float(logs.max()), 0.0) + 0.25]
