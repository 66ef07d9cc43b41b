"""A figure as SVG without any program: the first thing that a page shows, and what a notebook keeps.

Of plotly's figures it knows what `flatlens.report.figures` draws: lines and dots on them, bands between two,
rectangles, straight lines and texts, on linear and logarithmic axes. Colours are the page's variables, for the dark
theme too.
"""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np

from flatlens.report.roles import colours

Plain = dict[str, Any]

WIDTH, HEIGHT = 980, 420
DASHES = {"dash": "7 4", "dot": "2 3", "dashdot": "7 3 2 3", "longdash": "10 4"}


def svg(figure: Plain, *, width: int = WIDTH, height: int = HEIGHT, variables: bool = True, label: str = "") -> str:
    """The figure.

    Args:
        figure: ``{"data": [...], "layout": {...}}`` with plain arrays.
        width: in px.
        height: in px.
        variables: write colours as CSS variables of the page; else as they are.
        label: what a screen reader says of it.
    """
    layout = figure["layout"]
    margin = layout["margin"]
    x = _Axis(layout["xaxis"], [t["x"] for t in figure["data"]], margin["l"], width - margin["r"])
    y = _Axis(layout["yaxis"], [t["y"] for t in figure["data"]], height - margin["b"], margin["t"])
    paint = _painter(variables)
    box = f'x="{margin["l"]}" y="{margin["t"]}" width="{width - margin["l"] - margin["r"]}"'
    box += f' height="{height - margin["t"] - margin["b"]}"'
    out = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}" font-size="12" '
        f'font-family="sans-serif" xmlns="http://www.w3.org/2000/svg">',
        f'<clipPath id="inside"><rect {box}/></clipPath><g clip-path="url(#inside)">',
    ]
    out += [_shape(shape, x, y, (margin["t"], height - margin["b"]), paint) for shape in layout.get("shapes", [])]
    grid = paint(layout["yaxis"]["gridcolor"])
    for value, _ in y.ticks:
        out.append(f'<path d="M{margin["l"]} {y(value):.1f}H{width - margin["r"]}" stroke="{grid}"/>')
    before: Plain | None = None
    for trace in figure["data"]:
        out += _trace(trace, before, x, y, paint)
        before = trace
    out.append("</g>")
    grey = paint(layout["font"]["color"])
    out += [_label(margin["l"] - 8, float(y(value)) + 4, "end", grey, text) for value, text in y.ticks]
    out += [_label(float(x(value)), height - margin["b"] + 17, "middle", grey, text) for value, text in x.ticks]
    middle = (margin["l"] + width - margin["r"]) / 2
    out.append(_label(middle, height - 4, "middle", grey, layout["xaxis"]["title"].get("text", "")))
    out += [_note(note, x, y, margin["t"], paint) for note in layout.get("annotations", [])]
    return "".join(out) + "</svg>"


def thinned(traces: list[Plain], points: int) -> list[Plain]:
    """Curves with at most about so many points each: evenly spaced ones, and where a line of the figure is highest."""
    lengths = {len(np.atleast_1d(trace["x"])) for trace in traces}
    keep: dict[int, Any] = {}
    for length in (n for n in lengths if n > points):
        alike = [np.asarray(t["y"], dtype=float) for t in traces if len(np.atleast_1d(t["x"])) == length]
        highest = [int(np.nanargmax(y)) for y in alike if np.isfinite(y).any()]
        even = np.linspace(0, length - 1, max(points - len(highest), 2)).astype(int)
        keep[length] = np.union1d(even, np.asarray(highest, dtype=int))
    out = []
    for trace in traces:
        at = keep.get(len(np.atleast_1d(trace["x"])))
        cut = {} if at is None else {name: np.asarray(trace[name])[at] for name in ("x", "y")}
        out.append(trace | cut)
    return out


def _label(x: float, y: float, anchor: str, colour: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


class _Axis:
    def __init__(self, layout: Plain, values: list[Any], start: float, end: float) -> None:
        self._log = layout.get("type") == "log"
        self._start, self._end = start, end
        ends = layout.get("range")
        if ends is None:
            found = np.concatenate([np.asarray(v, dtype=float).ravel() for v in values] or [np.zeros(1)])
            found = self._scale(found[np.isfinite(found) & ((found > 0) | (not self._log))])
            ends = [float(found.min()), float(found.max())] if len(found) else [0.0, 1.0]
        self._low, self._high = ends[0], ends[1] if ends[1] != ends[0] else ends[0] + 1
        self.ticks = self._ticks(layout)

    def _scale(self, value: Any) -> Any:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log10(value) if self._log else value

    def __call__(self, value: Any) -> Any:
        share = (self._scale(np.asarray(value, dtype=float)) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    def _ticks(self, layout: Plain) -> list[tuple[float, str]]:
        if "tickvals" in layout and not self._log:
            said = layout.get("ticktext") or [f"{v:g}".replace("-", "−") for v in layout["tickvals"]]
            return [(float(v), text) for v, text in zip(layout["tickvals"], said, strict=True)]
        if self._log:
            every = int(layout.get("dtick", 1)) if isinstance(layout.get("dtick", 1), (int, float)) else 1
            powers = range(int(np.ceil(self._low)), int(np.floor(self._high)) + 1, max(every, 1))
            if len(powers) > 1:
                return [(10.0**p, _power(p)) for p in powers]
            near = range(int(np.floor(self._low)), int(np.ceil(self._high)) + 1)
            found = [k * 10.0**p for p in near for k in (1, 2, 5) if self._low <= np.log10(k * 10.0**p) <= self._high]
            return [(v, f"{v:g}") for v in found]
        step = max(_nice((self._high - self._low) / 7), float(layout.get("dtick", 0)))
        first = np.ceil(self._low / step)
        values = [float((first + k) * step) for k in range(int((self._high - first * step) / step) + 1)]
        return [(v, f"{v:g}".replace("-", "−")) for v in values]


def _power(power: int) -> str:
    if 0 <= power <= 3:
        return f"{10**power:,}"
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _nice(step: float) -> float:
    size = 10.0 ** np.floor(np.log10(step))
    return float(next(k * size for k in (1, 2, 5, 10) if k * size >= step * 0.999))


def _painter(variables: bool) -> Any:
    names = {value: name for name, value in colours()["light"].items()}

    def paint(colour: str) -> str:
        return f"var(--{names[colour]})" if variables and colour in names else colour

    return paint


def _points(trace: Plain, x: _Axis, y: _Axis) -> tuple[Any, Any]:
    return x(trace["x"]), y(trace["y"])


def _path(xs: Any, ys: Any) -> str:
    out, up = [], False
    for a, b in zip(np.atleast_1d(xs), np.atleast_1d(ys), strict=True):
        if not (np.isfinite(a) and np.isfinite(b)):
            up = False
            continue
        out.append(f"{'L' if up else 'M'}{a:.1f} {b:.1f}")
        up = True
    return "".join(out)


def _trace(trace: Plain, before: Plain | None, x: _Axis, y: _Axis, paint: Any) -> list[str]:
    xs, ys = _points(trace, x, y)
    line = trace.get("line", {})
    if trace.get("fill") == "tonexty" and before is not None:
        low = _points(before, x, y)
        there = np.isfinite(ys) & np.isfinite(low[1])
        if not there.any():
            return []
        d = _path(xs[there], ys[there]) + _path(low[0][there][::-1], low[1][there][::-1]).replace("M", "L", 1) + "Z"
        fill, alpha = _faded(trace["fillcolor"], paint)
        return [f'<path d="{d}" fill="{fill}" fill-opacity="{alpha}"/>']
    if not line.get("width"):
        return []
    stroke, alpha = _faded(line["color"], paint)
    dots = zip(np.atleast_1d(xs), np.atleast_1d(ys), strict=True) if "markers" in trace.get("mode", "") else ()
    dash = f' stroke-dasharray="{DASHES[line["dash"]]}"' if line.get("dash") in DASHES else ""
    return [f'<path d="{_path(xs, ys)}" fill="none" stroke="{stroke}" stroke-opacity="{alpha}" '
            f'stroke-width="{line["width"]}" stroke-linejoin="round"{dash}/>',
            *(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{stroke}"/>' for a, b in dots if np.isfinite(a + b))
            ]  # fmt: skip


def _faded(colour: str, paint: Any) -> tuple[str, str]:
    if not colour.startswith("rgba("):
        return paint(colour), "1"
    red, green, blue, alpha = colour[5:-1].split(",")
    return paint(f"#{int(red):02x}{int(green):02x}{int(blue):02x}"), alpha


def _shape(shape: Plain, x: _Axis, y: _Axis, inside: tuple[float, float], paint: Any) -> str:
    top, bottom = inside
    left, right = (float(x(shape[k])) for k in ("x0", "x1")) if shape.get("xref") != "paper" else (0, 10_000)
    if shape["type"] == "rect":
        fill = paint(shape["fillcolor"])
        return (
            f'<rect x="{left:.1f}" y="{top}" width="{max(right - left, 0):.1f}" height="{bottom - top}" fill="{fill}"/>'
        )
    ends = (top, bottom) if shape.get("yref") == "paper" else tuple(float(y(shape[k])) for k in ("y0", "y1"))
    line = shape["line"]
    return (f'<path d="M{left:.1f} {ends[0]:.1f}L{right:.1f} {ends[1]:.1f}" stroke="{paint(line["color"])}" '
            f'stroke-dasharray="2 3"/>')  # fmt: skip


def _note(note: Plain, x: _Axis, y: _Axis, top: float, paint: Any) -> str:
    at = float(x(10.0 ** note["x"] if x._log else note["x"])) + note.get("xshift", 0)
    height = top + 14 if note.get("yref") == "paper" else float(y(10.0 ** note["y"] if y._log else note["y"])) + 4
    anchor = {"left": "start", "right": "end"}.get(note.get("xanchor", ""), "middle")
    text = note["text"].replace("<b>", "").replace("</b>", "")  # the rest is escaped already
    return (f'<text x="{at:.1f}" y="{height:.1f}" text-anchor="{anchor}" font-weight="650" '
            f'font-size="{note["font"]["size"]}" fill="{paint(note["font"]["color"])}">{text}</text>')  # fmt: skip
