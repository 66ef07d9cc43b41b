"""What came out of a run: the same figures as text for people and as plain data for programs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatlens.specs.values import radius
from flatlens_cli import terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.console import RenderableType

    from flatlens.records.trajectory import Trace
    from flatlens.records.valley import Fraction, Median, Summary

MEASURE = "relative_flatness"

_NOTE = (
    "Shares of the flipped in %, medians over them, each with its 95 % interval (a median from n = 6 on). A valley "
    "stays flipped, peaks inside the path and ends at {tau:g} × the peak or below. Settled: flipped at the end; "
    "flat end: at {tau:g} × the peak or below. Lag: peak − flip step; rise: peak / start; depth: log₁₀(peak / end)."
)


def facts(trace: Trace) -> dict[str, Any]:
    """The summary as plain data, under keys that stay.

    Returns:
        ``accuracy``: shares of all samples that are correct at first, and at what the attack found; ``paths``:
        for each, the fields of `flatlens.records.valley.Summary`, intervals as ``value``, ``low``, ``high``, ``n`` and
        ``count`` of a share; ``cautions``; the ``measure`` and ``layer`` that valleys were looked for in; and, where it
        was asked for, ``condition``: condition numbers at the attack's ``start`` and ``end`` (None where they are not
        finite), and their ``ridge``; and ``worst_case``: the fields of `fl.robustness`.
    """
    from flatlens.records import worst_case

    clean, attacked, n = _accuracy(trace)
    return {
        "accuracy": {"clean": clean, "attacked": attacked, "n": n},
        "paths": {name: _nested(summary) for name, summary in _summaries(trace).items()},
        "cautions": [caution._asdict() for caution in trace.cautions],
        "measure": MEASURE,
        "layer": trace.layer_names[0],
        **({} if (found := _condition(trace)) is None else {"condition": found}),
        **({} if (left := worst_case.told(trace.manifest)) is None else {worst_case.KEY: dict(left)}),
    }


def text(trace: Trace, page: Path) -> RenderableType:
    """The summary for people: what was run, what it did, what to beware of, where the report is."""
    from rich.console import Group
    from rich.padding import Padding

    from flatlens.records import worst_case
    from flatlens.records.digest import attacked_at
    from flatlens.records.schema import MEASURES

    clean, attacked, n = _accuracy(trace)
    summaries = _summaries(trace)
    head = [
        *([("name", str(trace.spec["name"]))] if trace.spec.get("name") else []),
        ("model", str(trace.spec["model"])),
        ("data", f"{trace.spec['data']}, {terminal.several(n, 'prompt' if trace.of_language else 'sample')}"),
        ("attack", attack(trace.spec)),
        ("measure", f"{MEASURES[MEASURE]}, of {trace.layer_names[0]}"),
        _answers(trace, clean, attacked, n)
        if trace.of_language
        else ("accuracy", f"{100 * clean:.1f} % clean, {100 * attacked:.1f} % under attack ({attacked_at(trace)})"),
    ]
    if (found := _condition(trace)) is not None:
        start, end = ("none" if found[when] is None else f"{found[when]:.4g}" for when in ("start", "end"))
        head.append(
            ("condition", f"{start} clean → {end}: of a probe on the head's features, ridge {found['ridge']:g}")
        )
    if (left := worst_case.told(trace.manifest)) is not None:
        head.append(("worst case", worst_case.line(left)))
    tail = [("caution", caution.message) for caution in trace.cautions]
    tail.append(("report", str(page)))
    tau = next(iter(summaries.values())).tau
    return Group(
        terminal.columns(head),
        Padding(_table(summaries), (1, 0)),
        terminal.note(_NOTE.format(tau=tau)),
        Padding(terminal.columns(tail), (1, 0, 0, 0)),
    )


def _condition(trace: Trace) -> dict[str, float | None] | None:
    """The condition numbers that the attack's first run begins and ends with; None where none were asked for."""
    from flatlens.records.schema import ATTACK

    if trace.condition is None:
        return None
    rows = [row for row in trace.condition.to_pylist() if row["path"] == ATTACK and row["restart"] == 0]
    first, last = (row["condition_number"] for row in (rows[0], rows[-1]))
    start, end = (value if math.isfinite(value) else None for value in (first, last))
    return {"start": start, "end": end, "ridge": rows[0]["ridge"]}


def _answers(trace: Trace, clean: float, attacked: float, n: int) -> tuple[str, str]:
    """Of language models: how many prompts' greedy answer is the target, at the start and at the end."""
    start, end = (round((1 - share) * n) for share in (clean, attacked))
    return "target said", f"{start:,} of {n:,} at the start, {end:,} of {n:,} at the attack's end"


def attack(spec: Mapping[str, Any]) -> str:
    """One line about an attack: ``pgd, linf, eps 8/255, 40 steps of 0.00196``."""
    if "slot_len" in spec:
        return _on_text(spec)
    # The settings of an attack that is not flatlens' own are in its name.
    parts = [str(spec["attack"])] if ":" in str(spec["attack"]) else _native(spec)
    if spec.get("random_start"):
        parts.append("random start")
    if spec.get("targeted") is not None:
        parts.append(f"targeted: {spec['targeted']}")
    return ", ".join(parts)


def _on_text(spec: Mapping[str, Any]) -> str:
    """``gcg, 100 steps, slot of 20 tokens, 512 candidates``; ``embedding, 60 steps of 0.05 mean row norms, …``."""
    length = spec.get("step_size")
    parts = [str(spec["attack"]), terminal.several(spec["steps"], "step")]
    if ":" in parts[0]:  # its steps are those of the file
        return parts[0]
    if length is not None:
        parts[1] += f" of {length:g}" + (" mean row norms" if spec["attack"] != "simplex" else "")
    parts.append(f"slot of {terminal.several(spec['slot_len'], 'token')}")
    if spec.get("candidates") is not None:
        parts.append(f"{spec['candidates']} candidates")
    return ", ".join(parts)


def _native(spec: Mapping[str, Any]) -> list[str]:
    parts = [str(spec["attack"]), str(spec["norm"])]
    if spec.get("eps") is not None:
        parts.append(f"eps {radius(spec['eps'], 3)}")
    length = spec.get("step_size")
    parts.append(terminal.several(spec["steps"], "step") + ("" if length is None else f" of {radius(length, 3)}"))
    if spec.get("objective") not in (None, "ce") and not str(spec["attack"]).startswith("apgd"):
        parts.append(f"on {spec['objective']}")
    if spec.get("restarts", 1) > 1:
        parts.append(f"{spec['restarts']} restarts")
    return parts


def _summaries(trace: Trace) -> dict[str, Summary]:
    return {path: trace.valley(MEASURE, path=path).summary() for path in trace.paths}


def _accuracy(trace: Trace) -> tuple[float, float, int]:
    """Shares of all samples that are classified as labelled, clean and at what the attack found, and their number."""
    from flatlens.records.digest import accuracy

    found = accuracy(trace)
    return float(found.clean.value), float(found.attacked.value), found.clean.n


def _nested(summary: Summary) -> dict[str, Any]:
    return {name: value._asdict() if hasattr(value, "_asdict") else value for name, value in summary._asdict().items()}


def _table(summaries: Mapping[str, Summary]) -> RenderableType:
    """A column per path: intervals are too wide for a row of them in 80 columns."""
    rows = [
        ("", *summaries),
        ("flipped", *(f"{s.flipped.count} of {s.flipped.n}" for s in summaries.values())),
        ("valley of flipped", *(percent(s.valley_of_flipped) for s in summaries.values())),
        ("valley of all", *(percent(s.valley_of_all) for s in summaries.values())),
        ("peak step", *(_median(s.peak_step, s) for s in summaries.values())),
        ("flip step", *(_median(s.flip_step, s) for s in summaries.values())),
        ("lag", *(_median(s.lag, s) for s in summaries.values())),
        ("rise", *(_median(s.rise, s, _ratio) for s in summaries.values())),
        ("depth", *(_median(s.depth, s, "{:.2f}".format) for s in summaries.values())),
        ("settled", *(percent(s.settled) for s in summaries.values())),
        ("flat end", *(percent(s.flat_end) for s in summaries.values())),
        ("flatter than clean", *(percent(s.flatter_than_clean) for s in summaries.values())),
        ("end / clean", *(_median(s.end_vs_clean, s, _ratio) for s in summaries.values())),
    ]
    return terminal.columns(rows, header=True)


def percent(share: Fraction) -> str:
    """A share in %, with its interval: ``49.3 [44.7, 53.9]``."""
    if not share.n:
        return "–"
    return f"{100 * share.value:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def _median(found: Median, summary: Summary, show: Callable[[float], str] = "{:g}".format) -> str:
    if not found.n:
        return "–"
    # Every median says its n: the number of flipped above, or its own where some values are not finite.
    n = "" if found.n == summary.flipped.count else f", n {found.n}"
    interval = "" if math.isnan(found.low) else f" [{show(found.low)}, {show(found.high)}]"
    return f"{show(found.value)}{interval}{n}"


def _ratio(value: float) -> str:
    """Three digits, two of large numbers: 1.45, 46.7, 9200, 1.4e+06."""
    return (
        f"{float(f'{value:.2g}'):.0f}" if 1000 <= value < 1e6 else f"{value:.2g}" if value >= 1e6 else f"{value:#.3g}"
    )
