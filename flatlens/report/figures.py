"""Trace -> plotly figures, for notebooks and papers; the page draws the same aggregates.

from flatlens.report import figures
figures.valley(trace, measure="trace", aligned=True).show()
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from flatlens.errors import LayerError, SpecError, unknown
from flatlens.records.schema import ATTACK, MEASURES
from flatlens.records.trajectory import Trace
from flatlens.records.valley import Band, Floats, Ints
from flatlens.report import series

# Okabe and Ito's colours, the darker ones: told apart by colour-blind readers, and on paper.
ATTACK_COLOUR = "#0072B2"
CONTROL_COLOURS = ("#B8860B", "#008A65", "#B0578D", "#6B7280", "#7B3F00")
DASHES = ("dash", "dot", "dashdot", "longdash", "longdashdot")


def valley(
    trace: Trace,
    measure: str = "relative_flatness",
    *,
    layer: str | None = None,
    aligned: bool = False,
    controls: bool = True,
    lines: int = 60,
    scale: str = "log",
) -> go.Figure:
    """A measure along the path: median and quartile band of every path, and n below.

    A path that crosses a boundary confidently has a valley: read the attack beside its controls.

    Args:
        trace: what is drawn.
        measure: one of `flatlens.records.schema.MEASURES`.
        layer: the layer; the first one when left out.
        aligned: offsets from the flip (flipped samples only) in place of steps.
        controls: draw the controls beside the attack.
        lines: at most so many samples of the attack as thin lines.
        scale: ``"log"`` or ``"linear"``; values at or below 0 are not drawn on the former.
    """
    measure, layer = _known(trace, measure, layer)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.86, 0.14], vertical_spacing=0.05)
    for index, path in enumerate(trace.paths if controls else (ATTACK,)):
        values = trace.matrix(measure, path=path, layer=layer).values
        flip = series.flip_step(trace, path)
        if path == ATTACK and lines:
            rows = series.pick(flip, lines)
            shift = flip[rows] if aligned else np.zeros(len(rows), dtype=np.int64)
            keep = flip[rows] >= 0 if aligned else np.ones(len(rows), dtype=bool)
            figure.add_trace(_thin(values[rows[keep]], shift[keep]), row=1, col=1)
        curve = series.curve(values, flip)
        band = curve.aligned if aligned else curve.raw
        for drawn in _band(band, path, index):
            figure.add_trace(drawn, row=1, col=1)
        count = go.Scatter(
            x=band.position,
            y=band.n,
            line={"color": _colour(index), "shape": "hvh", "dash": _dash(index)},
            showlegend=False,
            hovertemplate="n = %{y}<extra>" + _text(path) + "</extra>",
        )
        figure.add_trace(count, row=2, col=1)
    figure.update_yaxes(title_text=MEASURES[measure].split(",")[0], type=scale, row=1, col=1)
    figure.update_yaxes(title_text="n", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(title_text=_step_title(aligned), row=2, col=1)
    return _finish(figure, f"{MEASURES[measure]}, {layer}", 520)


def flow(trace: Trace, *, aligned: bool = False, controls: bool = True) -> go.Figure:
    """Loss, confidence and margin along the path; the prediction is wrong where the margin is below 0."""
    figure = make_subplots(rows=len(series.FLOW), cols=1, shared_xaxes=True, vertical_spacing=0.06)
    for index, path in enumerate(trace.paths if controls else (ATTACK,)):
        flip = series.flip_step(trace, path)
        for row, (column, name) in enumerate(series.FLOW.items(), start=1):
            curve = series.curve(trace.matrix(column, path=path).values, flip)
            for drawn in _band(curve.aligned if aligned else curve.raw, path, index, legend=row == 1):
                figure.add_trace(drawn, row=row, col=1)
            figure.update_yaxes(title_text=name, row=row, col=1)
    figure.update_xaxes(title_text=_step_title(aligned), row=len(series.FLOW), col=1)
    return _finish(figure, "Loss, confidence, margin", 560)


def factors(trace: Trace, *, layer: str | None = None, path: str = ATTACK, aligned: bool = False) -> go.Figure:
    """Which factor of relative sharpness moves: log₁₀ of each, as its change since the clean input.

    Raises:
        LayerError: the layer has no closed-form confidence term.
    """
    _, layer = _known(trace, "trace", layer)
    curves = series.factors(trace, layer, series.flip_step(trace, path), path=path)
    if curves is None:
        raise LayerError(f"layer '{layer}' has no confidence term; factors exist for the head alone")
    figure = go.Figure()
    looks = (("#D55E00", "solid"), ("#009E73", "dash"), ("#6B7280", "dot"), ("#1A2230", "solid"))
    for (name, title), (colour, dash) in zip(series.FACTORS.items(), looks, strict=True):
        band = curves[name].aligned if aligned else curves[name].raw
        figure.add_scatter(
            x=band.position, y=band.median, name=title, line={"color": colour, "dash": dash, "width": 2.5}
        )
    figure.update_layout(xaxis_title=_step_title(aligned), yaxis_title="change, log₁₀")
    return _finish(figure, f"Which factor moves, {layer}", 440)


def certificate(trace: Trace, *, layer: str | None = None, path: str = ATTACK, aligned: bool = False) -> go.Figure:
    """How tight the certificate is: its bounds divided by the true rise of the loss, 1 where they are tight.

    Raises:
        LayerError: the layer has no bound, or the loss never rises.
    """
    _, layer = _known(trace, "trace", layer)
    curves = series.looseness(trace, layer, series.flip_step(trace, path), path=path)
    if curves is None:
        raise LayerError(f"layer '{layer}' has no bound of a loss that rises; the certificate is the head's alone")
    figure = go.Figure()
    for index, (name, found) in enumerate(curves.items()):
        for drawn in _band(found.aligned if aligned else found.raw, series.BOUNDS[name], index):
            figure.add_trace(drawn)
    figure.add_hline(y=1, line={"color": "#9AA6B5", "width": 1})
    figure.update_yaxes(title_text="bound ÷ true rise of the loss", type="log")
    figure.update_xaxes(title_text=_step_title(aligned))
    return _finish(figure, f"How tight the certificate is, {layer}", 440)


def against_margin(
    trace: Trace, measure: str = "relative_flatness", *, layer: str | None = None, path: str = ATTACK, lines: int = 60
) -> go.Figure:
    """A measure against the margin: each sample's way as a thin line, and the medians of each step."""
    measure, layer = _known(trace, measure, layer)
    values = trace.matrix(measure, path=path, layer=layer).values
    margin = trace.matrix("margin", path=path).values
    rows = series.pick(series.flip_step(trace, path), lines)
    gap = np.full((len(rows), 1), np.nan)
    x, y = (np.hstack([m[rows], gap]).ravel() for m in (margin, values))
    figure = go.Figure(go.Scatter(x=x, y=y, mode="lines", line={"color": _fade(0), "width": 1}, hoverinfo="skip"))
    middle, across = (series.curve(m, np.full(len(m), -1)).raw for m in (values, margin))
    figure.add_scatter(
        x=across.median, y=middle.median, mode="lines+markers", line={"color": ATTACK_COLOUR, "width": 3}
    )
    figure.update_xaxes(title_text="margin (correct ← 0 → wrong)", autorange="reversed")
    figure.update_yaxes(title_text=MEASURES[measure].split(",")[0], type="log")
    return _finish(figure, f"{MEASURES[measure]} against the margin, {layer}", 440).update_layout(showlegend=False)


def flip_and_peak(
    trace: Trace, measure: str = "relative_flatness", *, layer: str | None = None, path: str = ATTACK
) -> go.Figure:
    """Flip step against peak step of all flipped samples; a mark's area is the number of samples."""
    measure, layer = _known(trace, measure, layer)
    cells = series.flip_peak_counts(trace.valley(measure, layer=layer, path=path))
    end = trace.matrix("margin", path=path).values.shape[1] - 1
    figure = go.Figure()
    figure.add_scatter(x=[0, end], y=[0, end], mode="lines", line={"color": "#9AA6B5", "dash": "dot"}, hoverinfo="skip")
    size = 6 + 20 * np.sqrt(cells.count / max(int(cells.count.max(initial=1)), 1))
    figure.add_scatter(
        x=cells.flip,
        y=cells.peak,
        mode="markers",
        text=cells.count,
        marker={"size": size, "color": _fade(0, 0.5), "line": {"color": ATTACK_COLOUR, "width": 1}},
        hovertemplate="flip %{x}, peak %{y}: %{text} samples<extra></extra>",
    )
    figure.update_layout(xaxis_title="flip step", yaxis_title="peak step")
    return _finish(figure, f"Flip against peak, {layer}", 440).update_layout(showlegend=False)


def layers(trace: Trace, measure: str = "relative_flatness", *, path: str = ATTACK) -> go.Figure:
    """Layer × step: log₁₀ of the median measure relative to the same layer's at the clean input."""
    measure, _ = _known(trace, measure, None)
    z = []
    for layer in trace.layer_names:
        middle = series.curve(
            trace.matrix(measure, path=path, layer=layer).values, np.zeros(0, dtype=np.int64)
        ).raw.median
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            z.append(np.log10(middle / middle[0]))
    change: Floats = np.where(np.isfinite(z), z, np.nan)
    names = [_text(name) for name in trace.layer_names]
    scale = [[0, "#0B5C94"], [0.5, "#F4F5F7"], [1, "#C24E00"]]
    figure = go.Figure(go.Heatmap(z=change, y=names, colorscale=scale, zmid=0, colorbar={"title": "log₁₀ change"}))
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title_text=_step_title(False))
    return _finish(figure, MEASURES[measure], 140 + 26 * len(names))


def _known(trace: Trace, measure: str, layer: str | None) -> tuple[str, str]:
    if measure not in MEASURES:
        raise SpecError(unknown("measure", measure, MEASURES))
    layer = layer or trace.layer_names[0]
    if layer not in trace.layer_names:
        raise LayerError(unknown("layer", layer, trace.layer_names, where="this trace has"))
    return measure, layer


def _band(band: Band, path: str, index: int, *, legend: bool = True) -> list[go.Scatter]:
    there = band.n > 0
    x, name = band.position[there], _text(path)
    edge = {"x": x, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    seen = np.stack([band.low[there], band.high[there], band.n[there]], axis=1)
    return [
        go.Scatter(y=band.low[there], **edge),
        go.Scatter(y=band.high[there], fill="tonexty", fillcolor=_fade(index, 0.16), **edge),
        go.Scatter(
            x=x,
            y=band.median[there],
            name=name,
            legendgroup=name,
            showlegend=legend,
            customdata=seen,
            line={"color": _colour(index), "dash": _dash(index), "width": 2.6},
            hovertemplate="median %{y:.4g}<br>"
            "quartiles %{customdata[0]:.4g} … %{customdata[1]:.4g}, n = %{customdata[2]}",
        ),
    ]


def _thin(values: Floats, shift: Ints) -> go.Scatter:
    # One trace for all lines, with a gap after each: plotly is slow with many traces, not with many points.
    length = values.shape[1]
    x = np.hstack([np.arange(length) - shift[:, None], np.zeros((len(values), 1))]).ravel()
    y = np.hstack([values, np.full((len(values), 1), np.nan)]).ravel()
    return go.Scatter(x=x, y=y, mode="lines", line={"color": _fade(0), "width": 1}, hoverinfo="skip", showlegend=False)


def _finish(figure: go.Figure, title: str, height: int) -> go.Figure:
    # plotly renders some HTML in its texts, and layers' names come from outside.
    figure.update_layout(
        template="plotly_white", title=_text(title), height=height, legend={"orientation": "h", "y": 1.06}
    )
    return figure


def _step_title(aligned: bool) -> str:
    return "steps from the flip" if aligned else "attack step"


def _colour(index: int) -> str:
    return ATTACK_COLOUR if index == 0 else CONTROL_COLOURS[(index - 1) % len(CONTROL_COLOURS)]


def _dash(index: int) -> str:
    return "solid" if index == 0 else DASHES[(index - 1) % len(DASHES)]


def _fade(index: int, alpha: float = 0.18) -> str:
    red, green, blue = (int(_colour(index)[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def _text(name: str) -> str:
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
