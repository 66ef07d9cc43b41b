"""The figures of an immunization as plotly's plain data: who learns each task how fast, with θ and without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flatlens.report.drawn_training import Line, line_names
from flatlens.report.layout import BOTTOM, Plain, curve_line, escaped, figure_layout, ink, stroke, whole_numbers
from flatlens.report.roles import colour, fade
from flatlens.specs.values import shown

HARMFUL, PRIMARY = "harmful", "primary"
IMMUNIZED, IDENTITY = "immunized", "identity"
DESCENT = "gradient-descent"
UNDOING = ("conjugate-gradients", "least-squares", "whitening")
"""Attackers that θ does not slow down."""
FLOOR = 1e-10
"""Shares of the loss below which there is nothing left to learn: less is drawn at the lower edge."""
RIGHT_OF_LINES, LEFT_OF_NAMES = 150, 138
"""Margins in px for names of attackers."""
NARROW: Mapping[str, int] = {"l": 54, "r": 134}
NARROW_NAMES: Mapping[str, int] = {"l": 128, "r": 14}
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


def words(attacker: str) -> str:
    """An attacker's name for people; it may be any text."""
    return shown(attacker).replace("-", " ").replace("adam", "Adam") or "?"


def optimizer_words(name: str) -> str:
    """An optimizer's name for people; it may be any text."""
    return {"sgd": "SGD", "adam": "Adam"}.get(name, shown(name))


def last(attackers: Mapping[str, Any], task: str, extractor: str, attacker: str) -> float | None:
    """The share of the loss that an attacker leaves at its last iteration; None where it is not told."""
    curve = _curve(attackers, task, extractor, attacker)
    return None if curve is None else float(curve[1][-1])


def names(attackers: Mapping[str, Any], task: str) -> list[str]:
    """The attackers of a task, in the order of the table."""
    return list(dict.fromkeys(attackers["attacker"][attackers["task"] == task].tolist()))


def convergence(attackers: Mapping[str, Any], task: str) -> Plain | None:
    """What each attacker leaves of a task's loss, iteration by iteration, with θ; gradient descent also without."""
    lines: list[tuple[Line, Any, Any]] = []
    used = {"cross": 0, "noise": 0}
    for attacker in names(attackers, task):
        if (curve := _curve(attackers, task, IMMUNIZED, attacker)) is None:
            continue
        if attacker == DESCENT:
            line = Line(attacker, "gradient descent", "attack")
        else:
            role = "cross" if attacker in UNDOING else "noise"
            line = Line(attacker, escaped(words(attacker)), role, _DASHES[used[role] % len(_DASHES)])
            used[role] += 1
        lines.append((line, *curve))
    if (plain := _curve(attackers, task, IDENTITY, DESCENT)) is not None:
        lines.append((Line(DESCENT, "… not immunized", "ink", "dash"), *plain))
    if not lines:
        return None
    lines.sort(key=lambda one: one[0].role in ("attack", "ink"))  # what is compared lies above the others
    clipped = [(line, x, np.maximum(y, FLOOR)) for line, x, y in lines]
    lowest = min(float(y.min()) for _, _, y in clipped)
    highest = max(float(y.max()) for _, _, y in clipped)
    low = np.log10(FLOOR) - 0.3 if lowest <= FLOOR else np.floor(np.log10(lowest))
    xs = [0.0, max(float(x[-1]) for _, x, _ in clipped)]
    ys = [float(low), max(float(np.log10(highest)), 0.0) + 0.3]
    data = [
        curve_line(x, y, line.role, dash=line.dash, width=3.2 if line.role in ("attack", "ink") else 2,
                   hover=f"{line.name}, iteration %{{x}}: %{{y:.2g}} of the loss left<extra></extra>")
        | {"name": line.name}
        for line, x, y in clipped
    ]  # fmt: skip
    layout = figure_layout(
        xaxis={"title": {"text": "iteration"}, "range": xs, **whole_numbers(xs, 6)},
        yaxis={"title": {"text": "share of the loss left"}, "type": "log", "range": ys, "exponentformat": "power",
               "dtick": 2 if ys[1] - ys[0] > 5 else 1},
        annotations=line_names([(line, y) for line, _, y in clipped], xs, ys, "log"),
        margin={"l": 64, "r": RIGHT_OF_LINES, "t": 14, "b": BOTTOM},
        meta={"narrow": dict(NARROW)},
    )  # fmt: skip
    return {"data": data, "layout": layout}


def left(attackers: Mapping[str, Any], task: str) -> Plain | None:
    """What each attacker leaves at the last iteration, without θ and with it."""
    ends: list[tuple[str, float, float]] = []
    for one in names(attackers, task):
        a, b = (last(attackers, task, of, one) for of in (IDENTITY, IMMUNIZED))
        if a is not None and b is not None:
            ends.append((one, max(a, FLOOR), max(b, FLOOR)))
    if not ends:
        return None
    heights = [float(len(ends) - k) for k in range(len(ends))]
    pairs = np.array([value for _, a, b in ends for value in (a, b, np.nan)])
    data = [curve_line(pairs, np.repeat(heights, 3), "noise", width=2, opacity=0.5) | {"name": "between"}]
    for k, (name, role) in enumerate((("before", "ink"), ("after", "attack"))):
        x = np.array([value for end in ends for value in (end[1 + k], np.nan)])
        y = np.array([value for height in heights for value in (height, height)])
        said = np.array([escaped(words(end[0])) for end in ends for _ in range(2)])
        data.append(
            curve_line(x, y, role, width=0.1, hover=f"%{{text}}, {name}: %{{x:.2g}} of the loss left<extra></extra>")
            | {"mode": "lines+markers", "name": name, "text": said, "marker": {"size": 11, "color": colour(role)}}
        )
    low = np.log10(FLOOR) - 0.3 if min(min(a, b) for _, a, b in ends) <= FLOOR else -8.0
    xs = [float(low), max(0.0, *(float(np.log10(max(a, b))) for _, a, b in ends)) + 0.3]
    top = heights[0] + 1.0
    places = ((xs[0] + 0.1, "before", "ink"), (xs[0] + 0.42 * (xs[1] - xs[0]), "after", "attack"))
    keys = [
        {"x": at, "xanchor": "left", "y": top - 0.2, "showarrow": False, "text": f"<b>● {name}</b>",
         "font": ink(role, 12)}
        for at, name, role in places
    ]  # fmt: skip
    layout = figure_layout(
        xaxis={"title": {"text": "share of the loss left"}, "type": "log", "range": xs,
               "exponentformat": "power", "dtick": 5},
        yaxis={"range": [0.4, top + 0.25], "tickvals": heights, "ticktext": [escaped(words(end[0])) for end in ends],
               "showgrid": False},
        annotations=keys,
        margin={"l": LEFT_OF_NAMES, "r": 16, "t": 8, "b": BOTTOM},
        meta={"narrow": dict(NARROW_NAMES)},
    )  # fmt: skip
    return {"data": data, "layout": layout}


def history(rows: Mapping[str, Any], bound: float | None) -> Plain | None:
    """What a search has reached after each step."""
    order = np.argsort(rows["step"], kind="stable")
    steps = rows["step"][order]
    lines = []
    for line in (Line("i", "i, harmful", "attack"), Line("ii", "ii, primary", "cross", "dash"),
                 Line("rir", "RIR = i / ii", "ink")):  # fmt: skip
        values = rows[line.column][order]
        there = np.isfinite(values) & (values > 0)
        if there.any():
            lines.append((line, steps[there], values[there]))
    if not lines:
        return None
    every = np.concatenate([np.log10(values) for _, _, values in lines] + [np.zeros(1)])
    told = bound is not None and np.isfinite(bound) and bound > 0
    ceiling = [float(np.log10(bound))] if told and bound is not None else []
    ys = [min(float(every.min()), *ceiling, 0.0) - 0.3, max(float(every.max()), *ceiling, 0.0) + 0.3]
    xs = [float(steps[0]), float(max(steps[-1], steps[0] + 1))]
    shapes = [{"type": "line", "x0": xs[0], "x1": xs[1], "y0": 1, "y1": 1, "line": stroke("faint", 1, "dot")}]
    ends: list[tuple[Line, Any]] = [(line, values) for line, _, values in lines]
    if told:
        level = float(bound or 1)
        shapes.append({"type": "line", "x0": xs[0], "x1": xs[1], "y0": level, "y1": level,
                       "line": stroke("noise-ink", 1.4, "dash")})  # fmt: skip
        ends.append((Line("bound", "ceiling of RIR", "noise"), np.array([level])))
    data = [
        curve_line(x, y, line.role, dash=line.dash, hover=f"{line.name}, step %{{x}}: %{{y:.4g}}<extra></extra>")
        | {"name": line.name}
        for line, x, y in lines
    ]
    layout = figure_layout(
        xaxis={"title": {"text": "step of the search"}, "range": xs, "nticks": 7, "tickformat": "d"},
        yaxis={"title": {"text": "ratio"}, "type": "log", "range": ys, "exponentformat": "power",
               "dtick": max(1, round((ys[1] - ys[0]) / 6))},
        shapes=shapes, annotations=line_names(ends, xs, ys, "log"),
        margin={"l": 64, "r": 118, "t": 14, "b": BOTTOM}, meta={"narrow": {"l": 54, "r": 98}},
    )  # fmt: skip
    return {"data": data, "layout": layout}


def tuned(rows: Mapping[str, Any], optimizer: str) -> Plain | None:
    """Accuracy by epoch of fine-tuning the whole network by an optimizer: the seeds' median, and all of them around."""
    looks = (
        (HARMFUL, IMMUNIZED, Line("", "harmful, immunized", "attack")),
        (HARMFUL, IDENTITY, Line("", "harmful, as it was", "ink", "dash")),
        (PRIMARY, IMMUNIZED, Line("", "primary, immunized", "cross")),
        (PRIMARY, IDENTITY, Line("", "primary, as it was", "noise", "dash")),
    )
    data: list[Plain] = []
    ends: list[tuple[Line, Any]] = []
    last_epoch = 1.0
    for task, extractor, line in looks:
        if (bands := spread(rows, optimizer, task, extractor)) is None:
            continue
        epochs, low, middle, high = bands
        last_epoch = max(last_epoch, float(epochs[-1]))
        edge = {"type": "scatter", "x": epochs, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip",
                "showlegend": False, "name": "seeds"}  # fmt: skip
        fill = {"fill": "tonexty", "fillcolor": fade(line.role, 0.16)}
        data += [edge | {"y": 100 * low}, edge | {"y": 100 * high} | fill]
        hover = f"{line.name}, epoch %{{x}}: %{{y:.1f}} %<extra></extra>"
        data.append(curve_line(epochs, 100 * middle, line.role, dash=line.dash, hover=hover) | {"name": line.name})
        ends.append((line, 100 * middle))
    if not ends:
        return None
    xs, ys = [0.0, last_epoch], [-3.0, 103.0]
    layout = figure_layout(
        xaxis={"title": {"text": "epoch of fine-tuning"}, "range": xs, "tickvals": _whole(last_epoch)},
        yaxis={"title": {"text": "right, %"}, "range": ys, "tickvals": [0, 20, 40, 60, 80, 100]},
        annotations=line_names(ends, xs, ys, "linear"),
        margin={"l": 64, "r": RIGHT_OF_LINES, "t": 14, "b": BOTTOM}, meta={"narrow": dict(NARROW)},
    )  # fmt: skip
    return {"data": data, "layout": layout}


def spread(rows: Mapping[str, Any], optimizer: str, task: str, extractor: str) -> tuple[Any, Any, Any, Any] | None:
    """Epochs ``[e]``, and of the seeds' accuracies there the lowest, the median and the highest; None where none is."""
    those = (rows["optimizer"] == optimizer) & (rows["task"] == task) & (rows["extractor"] == extractor)
    those &= np.isfinite(rows["epoch"]) & np.isfinite(rows["accuracy"])
    if not those.any():
        return None
    at, values = rows["epoch"][those], rows["accuracy"][those]
    epochs = np.unique(at)
    kinds = [[float(of(values[at == epoch])) for epoch in epochs] for of in (np.min, np.median, np.max)]
    return epochs, *map(np.array, kinds)  # type: ignore[return-value]


def _curve(attackers: Mapping[str, Any], task: str, extractor: str, attacker: str) -> tuple[Any, Any] | None:
    """Iterations and shares of the loss left, in their order; NaN and infinity are left out."""
    those = (attackers["task"] == task) & (attackers["extractor"] == extractor) & (attackers["attacker"] == attacker)
    those &= np.isfinite(attackers["iteration"]) & np.isfinite(attackers["loss_gap"])
    if not those.any():
        return None
    order = np.argsort(attackers["iteration"][those], kind="stable")
    return attackers["iteration"][those][order], attackers["loss_gap"][those][order]


def _whole(last: float) -> list[int]:
    """At most eight whole numbers from 0 on, evenly apart."""
    return list(range(0, int(last) + 1, max(1, -(-int(last) // 7))))
