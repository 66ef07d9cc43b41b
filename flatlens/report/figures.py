"""Trace -> plotly figures. The page, notebooks and `flatlens report --format` draw the very same ones.

from flatlens.report import figures
figures.valley(trace, measure="trace").show()

What the page adds by itself (single samples, the chosen one, the dark theme) lies on top of these.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from flatlens.errors import DataError, LayerError, SpecError, unknown
from flatlens.records.schema import ATTACK, MEASURES
from flatlens.records.trajectory import Trace
from flatlens.report import drawn, series
from flatlens.report.drawn import SYMBOLS
from flatlens.report.drawn_text import worded
from flatlens.report.layout import Plain, curve_line, escaped
from flatlens.report.roles import looks


def valley(
    trace: Trace,
    measure: str = "relative_flatness",
    *,
    layer: str | None = None,
    aligned: bool = True,
    controls: bool = True,
    lines: int = 60,
    scale: str = "log",
) -> go.Figure:
    """Sharpness along the path: median and quartiles of every path, the attack's samples as thin lines.

    A path that crosses a boundary confidently has a valley: read the attack beside its controls.

    Args:
        trace: what is drawn.
        measure: one of `flatlens.records.schema.MEASURES`, or ``scale_free``.
        layer: the layer; the first one when left out.
        aligned: steps are counted from each sample's flip (flipped samples only); else from the clean input.
        controls: draw the controls beside the attack.
        lines: at most so many samples of the attack as thin lines.
        scale: ``"log"`` or ``"linear"``; values at or below 0 are not drawn on the former.
    """
    measure, layer = _known(trace, measure, layer)
    made = drawn.sharpness(
        {path: series.curves(trace, measure, layer, path) for path in (trace.paths if controls else (ATTACK,))},
        looks(trace.paths), measure, aligned=aligned, scale=scale,
    )  # fmt: skip
    if lines:
        made["data"].insert(0, _thin(trace, measure, layer, lines, aligned=aligned))
    return _figure(trace, made, f"{MEASURES.get(measure, SYMBOLS[measure])}, {layer}")


def margin(trace: Trace, *, aligned: bool = True, controls: bool = True) -> go.Figure:
    """The label's logit minus the largest other one, along the path: below 0 the prediction is wrong."""
    return _figure(
        trace, drawn.flow(_flow(trace, "margin", controls), looks(trace.paths), "margin", aligned=aligned), "Margin"
    )


def loss(trace: Trace, *, aligned: bool = True, controls: bool = True) -> go.Figure:
    """Cross-entropy of the label along the path, in nats; still rising at the end, the attack had not converged."""
    return _figure(
        trace, drawn.flow(_flow(trace, "loss", controls), looks(trace.paths), "loss", aligned=aligned), "Loss"
    )


def over_tau(trace: Trace, measure: str = "relative_flatness", *, layer: str | None = None) -> go.Figure:
    """The share of valleys among the flipped, had τ been another: τ is a choice, and this is what hangs on it."""
    measure, layer = _known(trace, measure, layer)
    found = {path: trace.valley(measure, layer=layer, path=path).over_tau() for path in trace.paths}
    return _figure(trace, drawn.tau(found, looks(trace.paths)), f"How much hangs on τ, {layer}")


def ledger(trace: Trace, *, layer: str | None = None, path: str = ATTACK, aligned: bool = True) -> go.Figure:
    """What moves κ, in decades since the clean input: log κ = log c + log ‖a‖² + log dispersion.

    Raises:
        LayerError: the layer has no closed-form confidence term.
    """
    _, layer = _known(trace, "relative_flatness", layer)
    found = series.ledger(trace, layer, path)
    if found is None:
        raise LayerError(f"layer '{layer}' has no confidence term; the ledger is the head's alone")
    return _figure(trace, drawn.decades(found, aligned=aligned), f"What moves κ, {layer}")


def certificate(trace: Trace, *, layer: str | None = None, path: str = ATTACK, aligned: bool = True) -> go.Figure:
    """How tight the certificate is: its bounds divided by the true rise of the loss, 1 where they are tight.

    Raises:
        LayerError: the layer has no bound, or the loss never rises.
    """
    _, layer = _known(trace, "trace", layer)
    found = series.looseness(trace, layer, path)
    if found is None:
        raise LayerError(f"layer '{layer}' has no bound of a loss that rises; the certificate is the head's alone")
    return _figure(trace, drawn.tightness(found, aligned=aligned), f"How tight the certificate is, {layer}")


def bending(trace: Trace, *, path: str = ATTACK, aligned: bool = True) -> go.Figure:
    """How the loss bends along the path: its second and third derivative along each step, nats per step² and step³.

    Raises:
        DataError: neither was measured, as in runs of earlier versions.
    """
    found = series.bending(trace, path)
    if found is None:
        raise DataError("this run has no derivatives of the loss along its path; measure it again")
    return _figure(trace, drawn.bends(found, aligned=aligned), "How the loss bends along the path")


def against_margin(
    trace: Trace, measure: str = "relative_flatness", *, layer: str | None = None, path: str = ATTACK, lines: int = 60
) -> go.Figure:
    """A measure against the margin: the medians of each step, and single samples' ways as thin lines."""
    measure, layer = _known(trace, measure, layer)
    values = trace.matrix(measure, path=path, layer=layer).values
    across = trace.matrix("margin", path=path).values
    made = drawn.crossing(series.curve_of(values), series.curve_of(across), measure)
    rows = series.pick(series.flip_step(trace, path), lines)
    gap = np.full((len(rows), 1), np.nan)
    x, y = (np.hstack([m[rows], gap]).ravel() for m in (across, values))
    made["data"].insert(0, curve_line(x, y, "attack", width=1, opacity=0.2))
    return _figure(trace, made, f"{SYMBOLS[measure]} against the margin, {layer}")


def flip_and_peak(
    trace: Trace, measure: str = "relative_flatness", *, layer: str | None = None, path: str = ATTACK
) -> go.Figure:
    """Flip step against peak step of all flipped samples; a mark's area is the number of samples."""
    measure, layer = _known(trace, measure, layer)
    end = trace.matrix("margin", path=path).values.shape[1] - 1
    found = series.flip_peak_counts(trace.valley(measure, layer=layer, path=path))
    return _figure(trace, drawn.counts(found, end), f"Flip against peak, {layer}")


def layers(trace: Trace, measure: str = "relative_flatness", *, path: str = ATTACK, aligned: bool = False) -> go.Figure:
    """Layer × step: log₁₀ of the median measure relative to the same layer's at the clean input."""
    measure, _ = _known(trace, measure, None)
    found = {name: series.curves(trace, measure, name, path) for name in trace.layer_names}
    return _figure(trace, drawn.heat(found), MEASURES.get(measure, SYMBOLS[measure]))


def _figure(trace: Trace, made: Plain, title: str) -> go.Figure:
    made = worded(trace)(made)
    layout = made["layout"] | {"title": {"text": escaped(title)}}
    layout["margin"] = layout["margin"] | {"t": 64}
    return go.Figure(data=made["data"], layout=layout | {"height": layout.get("height", 460)})


def _known(trace: Trace, measure: str, layer: str | None) -> tuple[str, str]:
    if measure not in SYMBOLS:
        raise SpecError(unknown("measure", measure, SYMBOLS))
    layer = layer or trace.layer_names[0]
    if layer not in trace.layer_names:
        raise LayerError(unknown("layer", layer, trace.layer_names, where="this trace has"))
    return measure, layer


def _flow(trace: Trace, column: str, controls: bool) -> dict[str, series.Curve]:
    return {path: series.curves(trace, column, None, path) for path in (trace.paths if controls else (ATTACK,))}


def _thin(trace: Trace, measure: str, layer: str, lines: int, *, aligned: bool) -> Plain:
    # One trace for all lines, with a gap after each: plotly is slow with many traces, not with many points.
    values = trace.matrix(measure, layer=layer).values
    flip = series.flip_step(trace)
    rows = series.pick(flip, lines)
    rows = rows[flip[rows] >= 0] if aligned else rows
    shift = flip[rows] if aligned else np.zeros(len(rows), dtype=np.int64)
    x = np.hstack([np.arange(values.shape[1]) - shift[:, None], np.zeros((len(rows), 1))]).ravel()
    y = np.hstack([values[rows], np.full((len(rows), 1), np.nan)]).ravel()
    return curve_line(x, y, "attack", width=1, opacity=0.18)
