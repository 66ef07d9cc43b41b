"""The figures as plotly's plain data: `figures` makes them of a trace, and the page embeds them as they are.

What a path looks like is its role's; what stands beside a figure in words is the page's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flatlens.records.ledger import CONFIDENCE, DISPERSION, FEATURES, WHOLE
from flatlens.records.schema import ATTACK
from flatlens.records.valley import TAU, Band, Floats
from flatlens.report import series
from flatlens.report.layout import (
    BOTTOM,
    FEW_TICKS,
    LEFT,
    RIGHT,
    TOP,
    Plain,
    curve_line,
    decades_axis,
    escaped,
    figure_layout,
    ink,
    legend,
    nothing,
    stroke,
    whole_numbers,
)
from flatlens.report.roles import Look, colour, fade

FEWEST = 20
"""Flipped samples below which a path's curve around the flip is not drawn: a median of a handful is no curve."""
NARROW, NARROWEST = 0.21, 0.1
"""Shares of the picture's width that the words for a side of the flip take, and that the shortest take."""
SYMBOLS = {
    "relative_flatness": "κ",
    "trace": "Tr H",
    "top_eigenvalue": "λ_max",
    "relative_sharpness": "‖W‖²·Tr H",
    "ggn_trace": "Tr GGN",
    "scale_free": "κ / (c · gap²)",
}
DENSITY_DECADES = 7
"""Of a spectral density that are drawn: what lies below is no eigenvalue of so many."""
LEDGER = {WHOLE: ("κ", "ink", "solid"), CONFIDENCE: ("c, confidence", "attack", "solid"),
          FEATURES: ("‖a‖²", "cross", "dash"), DISPERSION: ("dispersion", "noise", "dot")}  # fmt: skip


def sharpness(
    found: dict[str, series.Curve],
    seen: dict[str, Look],
    measure: str,
    *,
    aligned: bool,
    scale: str = "log",
    small: bool = False,
) -> Plain:
    """The picture: one measure along all paths; a ``small`` one names nothing, and draws no noise."""
    if small:
        found = {path: curve for path, curve in found.items() if seen[path].role != "noise"}
    few = {path: FEWEST if seen[path].role == "noise" else 1 for path in found}
    bands = {path: _shown(curve, aligned, few[path]) for path, curve in found.items()}
    bands = {path: band for path, band in bands.items() if len(band.position)}
    if scale == "log" and not all((band.median > 0).all() for band in bands.values()):
        scale = "linear"
    data = [part for path in reversed(bands) for part in _banded(bands[path], seen[path], path)]
    xs = _span(found[ATTACK].aligned if aligned else found[ATTACK].raw, aligned)
    ys = _heights([bands[path] for path in bands if seen[path].role != "noise"], xs, scale)
    shapes, notes = _sides(xs) if aligned else ([], [])
    if small:
        notes = []
    else:
        notes += _names(bands, seen, xs, ys, scale)
    if aligned and not small and scale == "log":
        notes += _uncanny(bands.get(ATTACK), xs, ys)
    layout = figure_layout(
        xaxis=_steps(aligned, xs),
        yaxis={
            "type": scale,
            "range": ys,
            "title": {"text": f"{SYMBOLS[measure]}, sharp ↑"},
            **decades_axis(ys, scale),
        },
        shapes=shapes,
        annotations=notes,
        **({} if small else {"margin": {"l": LEFT, "r": RIGHT, "t": TOP, "b": BOTTOM}}),
    )
    return {"data": data, "layout": layout}


def flow(found: dict[str, series.Curve], seen: dict[str, Look], column: str, *, aligned: bool) -> Plain:
    """Loss or margin along all paths."""
    bands = {path: _shown(curve, aligned) for path, curve in found.items() if seen[path].role != "noise"}
    data = [part for path in reversed(bands) for part in _banded(bands[path], seen[path], path)]
    xs = _span(found[ATTACK].aligned if aligned else found[ATTACK].raw, aligned)
    zero = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0, "line": stroke("faint", 1)}
    title = {"margin": "margin, wrong ↓", "loss": "loss, nats"}[column]
    layout = figure_layout(
        xaxis=_steps(aligned, xs),
        yaxis={"title": {"text": title}, "nticks": 5},
        shapes=[zero] if column == "margin" else [],
    )
    return {"data": data, "layout": layout}


def tau(found: dict[str, Any], seen: dict[str, Look]) -> Plain:
    """The share of valleys over τ, in %."""
    data: list[Plain] = []
    for path in reversed(found):
        of = found[path]
        if not np.isfinite(of.value).any() or of.n < FEWEST:
            continue
        x, look = np.asarray(of.position, dtype=float), seen[path]
        data += _ribbon(x, 100 * of.low, 100 * of.high, look.role, path=path)
        hover = f"{escaped(look.name)}<br>τ = %{{x}}: %{{y:.1f}} % of {of.n:,} flipped<extra></extra>"
        data.append(curve_line(x, 100 * of.value, look.role, dash=look.dash, hover=hover, path=path))
    mark = {"type": "line", "x0": TAU, "x1": TAU, "yref": "paper", "y0": 0, "y1": 1, "line": stroke("faint", 1, "dot")}
    ticks = [0.001, 0.01, 0.1, 0.9]
    layout = figure_layout(
        xaxis={"type": "log", "tickvals": ticks, "ticktext": [f"{t:g}" for t in ticks], "title": {"text": "τ"},
               "range": [-3.05, 0]},
        yaxis={"range": [-3, 103], "tickvals": [0, 50, 100], "title": {"text": "valleys, % of the flipped"}},
        shapes=[mark],
        annotations=[] if data else [nothing(f"fewer than {FEWEST} samples flip")],
    )  # fmt: skip
    return {"data": data, "layout": layout}


def decades(found: dict[str, series.Curve], *, aligned: bool) -> Plain:
    """The ledger of one path."""
    data: list[Plain] = []
    for part, curve in reversed(found.items()):
        band = _shown(curve, aligned)
        name, role, dash = LEDGER[part]
        hover = f"{name}: %{{y:+.2f}} decades<extra></extra>"
        data.append(
            curve_line(band.position, band.median, role, dash=dash, hover=hover, width=3 if part == WHOLE else 2)
        )
        data[-1] |= {"name": name, "showlegend": True}
    xs = _span(found[WHOLE].aligned if aligned else found[WHOLE].raw, aligned)
    layout = figure_layout(
        xaxis=_steps(aligned, xs),
        yaxis={"title": {"text": "decades since clean"}, "zeroline": True},
        showlegend=True,
        **legend(2),
    )
    return {"data": data, "layout": layout}


def tightness(found: dict[str, series.Curve], *, aligned: bool) -> Plain:
    """The certificate's bounds over the true rise of the loss."""
    data: list[Plain] = []
    for (name, curve), (role, dash) in zip(found.items(), (("attack", "solid"), ("noise", "dash")), strict=False):
        band = _shown(curve, aligned)
        data += _banded(band, Look(role, dash, series.BOUNDS[name]), name)
        data[-1]["showlegend"] = True
    xs = _all_of(found, aligned)
    one = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1, "line": stroke("faint", 1)}
    layout = figure_layout(
        xaxis=_steps(aligned, xs),
        yaxis={"type": "log", "title": {"text": "bound ÷ true rise"}, **FEW_TICKS},
        shapes=[one], showlegend=True, **legend(1),
    )  # fmt: skip
    return {"data": data, "layout": layout}


def bends(found: dict[str, series.Curve], *, aligned: bool) -> Plain:
    """The loss's second and third derivative along one path."""
    data: list[Plain] = []
    for (name, curve), (role, dash) in zip(found.items(), (("attack", "solid"), ("noise", "dash")), strict=False):
        data += _banded(_shown(curve, aligned), Look(role, dash, series.BENDING[name]), name)
        data[-1]["showlegend"] = True
    xs = _all_of(found, aligned)
    y = {"title": {"text": "nats per step², step³"}, "zeroline": True, "nticks": 5}
    layout = figure_layout(xaxis=_steps(aligned, xs), yaxis=y, showlegend=True, **legend(1))
    return {"data": data, "layout": layout}


def crossing(values: series.Curve, across: series.Curve, measure: str) -> Plain:
    """A measure against the margin, medians of each step."""
    zero = {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1, "line": stroke("faint", 1, "dot")}
    way = curve_line(across.raw.median, values.raw.median, "attack", width=3, path=ATTACK)
    positive = bool((values.raw.median > 0).all())
    layout = figure_layout(
        xaxis={"autorange": "reversed", "title": {"text": "right ← margin → wrong"}, "nticks": 6},
        yaxis={
            "type": "log" if positive else "linear",
            "title": {"text": SYMBOLS[measure]},
            **(FEW_TICKS if positive else {}),
        },
        shapes=[zero],
    )
    return {"data": [way], "layout": layout}


def counts(found: series.FlipPeakCounts, end: int) -> Plain:
    """Flip step against peak step."""
    size = 5 + 20 * np.sqrt(found.count / max(int(found.count.max(initial=1)), 1))
    marks = {
        "type": "scatter", "x": found.flip, "y": found.peak, "mode": "markers", "text": found.count,
        "marker": {"size": size, "color": fade("attack", 0.5), "line": stroke("attack", 1)}, "showlegend": False,
        "hovertemplate": "flip %{x}, peak %{y}: %{text} samples<extra></extra>", "meta": {"path": ATTACK},
    }  # fmt: skip
    diagonal = {"type": "line", "x0": 0, "y0": 0, "x1": end, "y1": end, "line": stroke("faint", 1, "dot")}
    room = max(0.7, 0.1 * end)  # half of the largest mark: none is cut
    ends = [-room, end + room]
    axis = {"range": ends} | whole_numbers(ends, 6)
    layout = figure_layout(
        xaxis=axis | {"title": {"text": "flip step"}}, yaxis=axis | {"title": {"text": "peak step"}}, shapes=[diagonal],
        annotations=[] if len(found.count) else [nothing("no sample flips")],
    )  # fmt: skip
    return {"data": [marks], "layout": layout}


def heat(found: dict[str, series.Curve]) -> Plain:
    """Layer × step."""
    rows = []
    for curve in found.values():
        middle = curve.raw.median
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            rows.append(np.log10(middle / middle[:1]))
    change = np.array(rows)
    change = np.where(np.isfinite(change), change, np.nan)
    names = [escaped(name) for name in found]
    scale = [[0, colour("attack")], [0.5, colour("soft")], [1, colour("cross")]]
    drawn = {
        "type": "heatmap", "z": change, "y": names, "colorscale": scale, "zmid": 0, "xgap": 1, "ygap": 1,
        "colorbar": {"title": {"text": "log₁₀ change"}, "thickness": 10, "outlinewidth": 0},
        "hovertemplate": "%{y}<br>step %{x}: %{z:+.2f} decades<extra></extra>",
    }  # fmt: skip
    layout = figure_layout(
        xaxis={"title": {"text": "attack step"}, "nticks": 8}, yaxis={"autorange": "reversed", "automargin": True},
        height=110 + 22 * len(names),
    )  # fmt: skip
    return {"data": [drawn], "layout": layout}


def spectrum(position: Floats, curves_at: dict[str, Floats], tick: list[float], value: list[str]) -> Plain:
    """PyHessian's spectral density at the clean inputs, flips and ends."""
    roles = (("noise", "dash"), ("cross", "solid"), ("attack", "solid"))
    data = [
        curve_line(position, density, role, dash=dash, hover=f"{at}: %{{y:.3g}}<extra></extra>")
        | {"name": at, "showlegend": True}
        for (at, density), (role, dash) in zip(curves_at.items(), roles, strict=False)
    ]
    highest = max((float(np.max(density)) for density in curves_at.values()), default=1.0) or 1.0
    layout = figure_layout(
        xaxis={"tickvals": tick, "ticktext": value, "title": {"text": "eigenvalue"}},
        yaxis={"type": "log", "title": {"text": "density"}, "nticks": 5,
               "range": [np.log10(highest) - DENSITY_DECADES, np.log10(highest) + 0.3]},
        showlegend=True,
    )  # fmt: skip
    return {"data": data, "layout": layout}


def _shown(curve: series.Curve, aligned: bool, fewest: int = 1) -> Band:
    """The band that is drawn: around the flip only where there are enough samples for a median to be one."""
    band = curve.aligned if aligned else curve.raw
    most = int(band.n.max(initial=0))
    keep = band.n >= (max(fewest, 1 + most // 10) if aligned else 1)
    return Band(*(part[keep] for part in band))  # type: ignore[arg-type]


def _ribbon(x: Any, low: Any, high: Any, role: str, alpha: float = 0.16, path: str | None = None) -> list[Plain]:
    edge = {"type": "scatter", "x": x, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False,
            **({} if path is None else {"meta": {"path": path}})}  # fmt: skip
    return [edge | {"y": low}, edge | {"y": high, "fill": "tonexty", "fillcolor": fade(role, alpha)}]


def _banded(band: Band, look: Look, path: str) -> list[Plain]:
    """Quartiles, and the median over a halo, so that it stands off from what lies below."""
    main = look.role == "attack"
    x, y = band.position, band.median
    hover = (
        f"{escaped(look.name)}<br>median %{{y:.4g}}, quartiles %{{customdata[0]:.4g}} … %{{customdata[1]:.4g}}, n = "
    )
    line = curve_line(x, y, look.role, width=3.2 if main else 2.2, dash=look.dash, path=path)
    line |= {"name": escaped(look.name), "customdata": np.stack([band.low, band.high, band.n], axis=1).astype(float)}
    line.pop("hoverinfo")
    line["hovertemplate"] = hover + "%{customdata[2]:,}<extra></extra>"
    halo = curve_line(x, y, "card", width=6 if main else 4.4, opacity=0.85, path=path)
    ribbon = [] if look.role == "noise" else _ribbon(x, band.low, band.high, look.role, 0.18 if main else 0.12, path)
    return [*ribbon, halo, line]


def _span(band: Band, aligned: bool) -> list[float]:
    """Where most flipped samples are: a few early flips would stretch the axis to twice its length."""
    if not aligned:
        return [-0.4, float(max(band.position[-1] if len(band.position) else 1, 1)) + 0.4]
    there = band.position[band.n >= max(0.1 * band.n.max(initial=0), 1)]
    return [float(there.min(initial=-1)) - 0.5, float(there.max(initial=1)) + 0.5]


def _all_of(found: dict[str, series.Curve], aligned: bool) -> list[float]:
    """Every step at which a curve of these is drawn."""
    if not aligned:
        return _span(next(iter(found.values())).raw, False)
    bands = [_shown(curve, aligned) for curve in found.values()]
    there = np.concatenate([band.position[np.isfinite(band.median)] for band in bands])
    return [float(there.min(initial=0)) - 0.4, float(there.max(initial=1)) + 0.4]


def _heights(bands: list[Band], xs: list[float], scale: str) -> list[float]:
    seen = [(band, (band.position >= xs[0]) & (band.position <= xs[1])) for band in bands]
    low = np.concatenate([band.low[at] for band, at in seen] or [np.ones(1)])
    high = np.concatenate([band.high[at] for band, at in seen] or [np.ones(1)])
    if scale == "log":
        values = np.concatenate([low, high])
        values = values[np.isfinite(values) & (values > 0)]
        bottom, top = (float(np.log10(values.min())), float(np.log10(values.max()))) if len(values) else (0.0, 1.0)
        pad = 0.06 * (top - bottom) + 0.15
        return [bottom - pad, top + pad]
    ends = np.array([np.nanmin(low, initial=0), np.nanmax(high, initial=1e-12)])
    return [float(ends[0]), float(ends[1] + 0.06 * (ends[1] - ends[0]))]


def _sides(xs: list[float]) -> tuple[list[Plain], list[Plain]]:
    """Right of the flip the prediction is wrong, and the ground says so."""
    wrong = {"type": "rect", "x0": 0, "x1": xs[1], "yref": "paper", "y0": 0, "y1": 1, "layer": "below",
             "fillcolor": colour("wrong"), "line": {"width": 0}}  # fmt: skip
    flip = {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1, "line": stroke("faint", 1, "dot")}
    said: Plain = {"y": 1, "yref": "paper", "yanchor": "top", "showarrow": False, "x": 0}
    notes = [
        said | {"xanchor": "right", "xshift": -6, "text": "<b>← prediction right</b>", "font": ink("attack", 13)},
        said | {"xanchor": "left", "xshift": 6, "text": "<b>prediction wrong →</b>", "font": ink("cross-ink", 13)},
    ]
    left = -xs[0] / (xs[1] - xs[0])
    # Where a side is narrower than its words, they would lie over the axis.
    for note, room in zip(notes, (left, 1 - left), strict=True):
        if room < NARROW:
            note["text"] = note["text"].replace("prediction ", "")
    return [wrong, flip], [note for note, room in zip(notes, (left, 1 - left), strict=True) if room > NARROWEST]


def _uncanny(band: Band | None, xs: list[float], ys: list[float]) -> list[Plain]:
    """What the valley is called, where there is one in the median."""
    if band is None or not len(band.median) or not band.median[-1] <= TAU * np.nanmax(band.median):
        return []
    low = float(np.log10(band.low[-1])) if band.low[-1] > 0 else ys[0]
    height = max(low - 0.04 * (ys[1] - ys[0]), ys[0] + 0.05 * (ys[1] - ys[0]))
    return [{"x": xs[1], "xanchor": "right", "xshift": -8, "y": height, "yanchor": "top", "showarrow": False,
             "text": "<b>the uncanny valley: flat, and wrong</b>", "font": ink("ink", 14)}]  # fmt: skip


def _names(bands: dict[str, Band], seen: dict[str, Look], xs: list[float], ys: list[float], scale: str) -> list[Plain]:
    """Each path's name at the end of its line, none over another."""
    ends: list[tuple[float, str]] = []
    for path, band in bands.items():
        inside = np.flatnonzero((band.position <= xs[1]) & np.isfinite(band.median))
        if not len(inside):
            continue
        value = float(band.median[inside[-1]])
        height = np.log10(value) if scale == "log" and value > 0 else value
        ends.append((min(max(float(height), ys[0]), ys[1]), path))
    notes, last = [], -np.inf
    for height, path in sorted(ends):
        last = max(height, last + 0.045 * (ys[1] - ys[0]))
        name = {"attack": "attack", "cross": "cross-ink", "noise": "noise-ink"}[seen[path].role]
        notes.append({
            "x": xs[1], "xanchor": "left", "xshift": 8, "y": last, "showarrow": False, "align": "left",
            "text": f"<b>{escaped(seen[path].name)}</b>", "font": ink(name, 12), "name": path,
        })  # fmt: skip
    return notes


def _steps(aligned: bool, xs: list[float]) -> Plain:
    """An axis of steps, which are whole numbers."""
    title = {"text": "steps from the flip" if aligned else "attack step"}
    return {"title": title, "range": xs} | whole_numbers(xs, 8)
