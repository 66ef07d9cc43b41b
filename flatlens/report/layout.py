"""What all figures share: layout, axes, a line's look, as plotly's plain data."""

from __future__ import annotations

from typing import Any

import numpy as np

from flatlens.report.roles import colour, fade

Plain = dict[str, Any]

FONT = 'Inter, ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif'
LEFT, RIGHT, TOP, BOTTOM = 58, 150, 26, 40
"""Margins of the picture in px: the film strip below it stands on the same axis."""
MARGIN = {"l": 56, "r": 12, "t": 22, "b": 44}
"""Of a small figure."""
FEW_TICKS: Plain = {"nticks": 3}
"""Of a logarithmic axis of a small figure: more are all nine digits of each decade where there are few decades."""


def figure_layout(**parts: Any) -> Plain:
    """What all figures share, and what is one figure's own: ``xaxis``, ``yaxis`` and other parts of a layout."""
    axis = {
        "gridcolor": colour("grid"),
        "zeroline": False,
        "tickfont": {"size": 11.5},
        "linecolor": colour("line"),
        "automargin": False,
    }
    title = {"font": {"size": 12, "color": colour("muted")}, "standoff": 6}
    for key in ("xaxis", "yaxis"):
        own = parts.get(key, {})
        # Not plotly's prefixes, as in "100μ nats"; and powers of ten only where there is room for them.
        powers = {"exponentformat": "power" if own.get("type") == "log" else "e"}
        parts[key] = axis | powers | own | {"title": title | own.get("title", {})}
    return {
        "paper_bgcolor": colour("card"), "plot_bgcolor": colour("card"), "showlegend": False,
        "font": {"family": FONT, "size": 12, "color": colour("muted")}, "hovermode": "closest",
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 11.5}},
        "margin": MARGIN,
        "hoverlabel": {"bgcolor": colour("ink"), "bordercolor": colour("ink"),
                       "font": {"color": colour("card"), "size": 12}},
    } | parts  # fmt: skip


def legend(lines: int) -> Plain:
    """A legend of so many lines above a small figure: no corner of it is empty in every run."""
    above = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 11}, "itemwidth": 30}
    return {"legend": above, "margin": MARGIN | {"t": 10 + 18 * lines}}


def whole_numbers(ends: list[float], most: int) -> Plain:
    """At most so many ticks on an axis from one end to the other, none between two whole numbers."""
    return {"dtick": 1, "tick0": 0} if ends[1] - ends[0] < most else {"nticks": most}


def decades_axis(ys: list[float], scale: str) -> Plain:
    """The ticks of a logarithmic axis from one power of ten to another; nothing for another scale."""
    if scale != "log":
        return {}
    if ys[1] - ys[0] < 1:  # hardly a power of ten is in it
        return {"nticks": 6}
    if ys[1] - ys[0] < 2:  # 1, 2 and 5 of each decade: plotly's own choice, all nine digits, lie over each other
        return {"dtick": "D2"}
    return {"dtick": max(1, int(np.ceil((ys[1] - ys[0]) / 9)))}


def nothing(why: str) -> Plain:
    """What an empty figure says."""
    return {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "showarrow": False, "text": why,
            "font": ink("muted", 13)}  # fmt: skip


def curve_line(
    x: Any, y: Any, role: str, *, width: float = 2.4, dash: str = "solid", opacity: float = 1.0, hover: str = "",
    path: str | None = None,
) -> Plain:  # fmt: skip
    """One line, in its role's colour; without ``hover`` it says nothing under the pointer."""
    alone = int(np.isfinite(np.asarray(y, dtype=float)).sum()) == 1  # a line of one point is not seen
    return {
        "type": "scatter", "x": x, "y": y, "mode": "lines+markers" if alone else "lines", "showlegend": False,
        "line": {"color": colour(role) if opacity == 1 else fade(role, opacity), "width": width, "dash": dash},
        **({"hovertemplate": hover} if hover else {"hoverinfo": "skip"}),
        **({} if path is None else {"meta": {"path": path}}),
    }  # fmt: skip


def stroke(role: str, width: float, dash: str = "solid") -> Plain:
    """A straight line's look."""
    return {"color": colour(role), "width": width, "dash": dash}


def ink(role: str, size: float) -> Plain:
    """A text's look."""
    return {"color": colour(role), "size": size}


def escaped(name: str) -> str:
    """A name as plotly's text: it renders some HTML there, and layers' names come from outside."""
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
