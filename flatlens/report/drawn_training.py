"""The figures of a training as plotly's plain data: what was looked at after each epoch, and where alarms are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flatlens.report.layout import BOTTOM, Plain, curve_line, escaped, figure_layout, ink, stroke, whole_numbers
from flatlens.report.roles import colour

RIGHT_OF_LINES = 118
"""Margin in px for the names at the lines' ends."""
LINE_OF_WORDS = 9.0
"""Percent of the first figure's axis, above 100, that each alarm's words take."""
MOST_DOTTED = 40
"""Epochs of which each is marked by a dot: more of them would hide the line."""
_INK = {"attack": "attack", "cross": "cross-ink", "noise": "noise-ink", "ink": "ink"}


class Line(NamedTuple):
    """A column of the rows as it is drawn."""

    column: str
    name: str
    role: str
    dash: str = "solid"


class Kind(NamedTuple):
    """A figure: its title, what stands on its upright axis, its lines, and what is said below it."""

    title: str
    axis: str
    lines: tuple[Line, ...]
    scale: str
    caption: str


FIGURES: Mapping[str, Kind] = {
    "accuracy": Kind(
        "Right, epoch by epoch", "right, %",
        (Line("accuracy", "trained on", "noise", "dash"), Line("watched_accuracy", "clean", "ink"),
         Line("fgsm_accuracy", "FGSM", "cross", "dash"), Line("pgd_accuracy", "PGD-10", "attack")),
        "percent",
        "Trained on: the inputs as they were trained with, attacked ones in adversarial training. The others are of "
        "the watched samples: clean, under one step from the clean input, and under ten from a random start. Where an "
        "attack is trained against and its line lies far above PGD-10’s, the model has learnt to mask its gradients "
        "from that attack: catastrophic overfitting.",
    ),
    "loss": Kind("Loss", "loss, nats", (Line("loss", "trained on", "ink"),), "linear",
                 "The mean of what was minimised, penalties included."),
    "kappa": Kind(
        "Flatness of the head", "κ, sharp ↑",
        (Line("flatness_mean", "mean", "cross", "dash"), Line("flatness_median", "median", "attack")), "log",
        "Relative flatness κ at the watched samples' clean inputs, in closed form. A flat head is not a robust model.",
    ),
    "roles": Kind(
        "The two roles of the gradient", "Euclidean norm",
        (Line("weight_gradient", "‖∂L/∂W‖", "attack"), Line("input_gradient", "‖∂ℓ/∂x‖", "cross", "dash")), "log",
        "Of the mean loss by the weights, and the mean over samples by their inputs. By the weights it is what "
        "training follows, and it falls as the loss settles. By the inputs it is what an attack follows: a model may "
        "be trained to the end and steep in its inputs.",
    ),
}  # fmt: skip
"""Name -> figure, in the page's order."""


def figure(name: str, rows: Mapping[str, Any], alarms: Sequence[Mapping[str, Any]]) -> Plain | None:
    """One of `FIGURES`; None where none of its columns was looked at.

    Args:
        name: which.
        rows: column -> its values ``[epochs]``, NaN where nothing was looked at.
        alarms: each with its ``code`` and ``epoch``.
    """
    kind, epochs = FIGURES[name], np.asarray(rows["epoch"], dtype=float)
    lines: list[tuple[Line, Any, Any]] = []
    for line in kind.lines:
        values = np.asarray(rows[line.column], dtype=float) * (100 if kind.scale == "percent" else 1)
        there = np.isfinite(values) & ((values > 0) | (kind.scale != "log"))
        if there.any():
            lines.append((line, epochs[there], values[there]))
    if not lines:
        return None
    ys = _range(np.concatenate([values for _, _, values in lines]), kind.scale)
    if name == "accuracy":
        ys[1] += LINE_OF_WORDS * len(alarms)
    xs = [float(epochs[0]) - 0.5, float(epochs[-1]) + 0.5]
    marks, notes = _alarms(alarms, xs, ys, words=name == "accuracy")
    axis: Plain = {"title": {"text": kind.axis}, "range": ys, "nticks": 6}
    if kind.scale == "percent":
        axis |= {"tickvals": [0, 20, 40, 60, 80, 100]}
    elif kind.scale == "log":  # within two decades, 2 and 5 are told, too
        axis |= {"type": "log", "exponentformat": "power", "dtick": "D2" if ys[1] - ys[0] < 2.1 else 1}
    layout = figure_layout(
        xaxis={"title": {"text": "epoch"}, "range": xs, **whole_numbers(xs, 9)},
        yaxis=axis,
        shapes=marks,
        annotations=[*notes, *line_names([(line, y) for line, _, y in lines], xs, ys, kind.scale)],
        margin={"l": 64, "r": RIGHT_OF_LINES, "t": 22, "b": BOTTOM},
    )
    return {"data": [_drawn(line, x, y, kind.scale) for line, x, y in lines], "layout": layout}


def _drawn(line: Line, x: Any, y: Any, scale: str) -> Plain:
    value = "%{y:.1f} %" if scale == "percent" else "%{y:.4g}"
    made = curve_line(x, y, line.role, dash=line.dash, hover=f"{line.name}, epoch %{{x}}: {value}<extra></extra>")
    return made | {"mode": "lines+markers" if len(x) <= MOST_DOTTED else "lines", "name": line.name}


def _range(values: Any, scale: str) -> list[float]:
    if scale == "percent":
        return [-3.0, 103.0]
    low, high = float(values.min()), float(values.max())
    if scale == "log":
        ends = [float(np.log10(low)), float(np.log10(high))]
        if ends[1] - ends[0] < 1.5:  # a power of ten is to stand on the axis
            return [float(np.floor(ends[0])) - 0.02, float(np.ceil(ends[1])) + 0.02]
        return [ends[0] - 0.15, ends[1] + 0.15]
    pad = 0.08 * (high - low) or max(abs(high), 1.0) / 10
    return [min(low - pad, 0.0) if low >= 0 and low < high / 3 else low - pad, high + pad]


def _alarms(
    alarms: Sequence[Mapping[str, Any]], xs: list[float], ys: list[float], *, words: bool
) -> tuple[list[Plain], list[Plain]]:
    """An upright line for each epoch with an alarm, and in one figure what each is called, one below the other."""
    shapes: list[Plain] = []
    notes: list[Plain] = []
    for k, alarm in enumerate(alarms):
        at = min(max(float(alarm["epoch"]), xs[0]), xs[1])
        shapes.append({"type": "line", "x0": at, "x1": at, "yref": "paper", "y0": 0, "y1": 1,
                       "line": stroke("cross-ink", 1.4, "dot")})  # fmt: skip
        if words:
            left = at > (xs[0] + xs[1]) / 2
            notes.append({
                "x": at, "xanchor": "right" if left else "left", "xshift": -5 if left else 5, "showarrow": False,
                "y": ys[1] - LINE_OF_WORDS * (k + 0.5), "yanchor": "middle", "name": "alarm",
                "text": f"<b>{_called(alarm)}</b>", "font": ink("cross-ink", 12), "bgcolor": colour("card"),
            })  # fmt: skip
    return shapes, notes


def _called(alarm: Mapping[str, Any]) -> str:
    return escaped(f"{str(alarm['code']).replace('-', ' ')}, epoch {alarm['epoch']}")


def line_names(lines: Sequence[tuple[Line, Any]], xs: Sequence[float], ys: Sequence[float], scale: str) -> list[Plain]:
    """Each line's name beside its end, none over another.

    Args:
        lines: each with its values.
        xs: the range of the axis along.
        ys: that of the upright one; of a logarithmic one in powers of ten.
        scale: ``log``, or another.
    """
    height = [float(np.log10(y[-1]) if scale == "log" else y[-1]) for _, y in lines]
    order = sorted(range(len(lines)), key=lambda k: height[k])
    gap = 0.066 * (ys[1] - ys[0])
    at: dict[int, float] = {}
    last = -np.inf
    for k in order:
        last = at[k] = max(height[k], last + gap)
    highest = ys[1] - gap / 2
    for k in reversed(order):
        at[k] = min(at[k], highest)
        highest = at[k] - gap
    return [
        {"x": xs[1], "xanchor": "left", "xshift": 8, "y": at[k], "showarrow": False,
         "text": f"<b>{lines[k][0].name}</b>", "font": ink(_INK[lines[k][0].role], 12)}
        for k in order
    ]  # fmt: skip
