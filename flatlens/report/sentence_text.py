"""The result of a language model's run in words: how many prompts flipped, what is known of them, the yardsticks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flatlens.records.schema import ATTACK
from flatlens.records.trajectory import Trace
from flatlens.records.valley import Fraction, Valley, wilson
from flatlens.report.sentence import rounded

EVERYWHERE = "head, all positions"
"""The layer whose numbers are averaged over all positions, the prompt's included."""
AS_IN_THE_CODE = "all positions, as in the paper’s code"
YARDSTICKS = {"copies": "plain text with copies of the target", "planted": "a planted instruction", "ask": "asking"}
"""Controls that are plain texts: where they end without any attack."""
FLIPPED = "Flipped: the model’s greedy answer is the target, word for word."

Numbers = tuple[tuple[str, str, str], ...]


def said(trace: Trace, measure: str, layer: str, found: Mapping[str, Valley]) -> tuple[str, str, str, Numbers]:
    """The sentence's number and its rest, what stands below, and the key numbers, each with its interval.

    Args:
        trace: of a language model.
        measure: which one the page shows.
        layer: at which layer.
        found: path -> its valleys.
    """
    summary = found[ATTACK].summary()
    flipped, flat = summary.flipped, summary.flat_end
    numbers = (
        _number(flipped, "flipped"),
        _number(summary.settled, "settled"),
        _number(flat, "flat at the end"),
        _number(_confirmed(trace), "by generation"),
        _number(_never(trace), "never retokenise"),
    )
    if not flipped.n:
        return "", "Every prompt’s target is said from the start, so none can flip.", "", numbers
    count = f"{flipped.count:,} of {flipped.n:,} {'prompt' if flipped.n == 1 else 'prompts'}"
    rest = " flipped"
    if flipped.count:
        rest += f", and {flat.count:,} of these {'ends' if flat.count == 1 else 'end'} in a flat place"
    told = [FLIPPED, _ends(trace, measure, layer), *_averagings(trace, measure)]
    return count, f"{rest}.", " ".join(part for part in told if part), numbers


def _number(share: Fraction, words: str) -> tuple[str, str, str]:
    if not share.n:
        return "–", words, "n = 0"
    return f"{share.count:,} of {share.n:,}", words, f"{100 * share.low:.0f}–{100 * share.high:.0f} %"


def _confirmed(trace: Trace) -> Fraction:
    """Of the prompts that are flipped at the end, how many the model answers so when it writes by itself."""
    rows = trace.steps.filter(pc.equal(trace.steps["path"], ATTACK))
    rows = rows.filter(pc.and_(pc.is_valid(rows["confirmed"]), rows["flipped"]))
    return wilson(int(pc.sum(pc.cast(rows["confirmed"], pa.int64())).as_py() or 0), rows.num_rows)


def _never(trace: Trace) -> Fraction:
    """Of the prompts whose slot is text at any later step, how many have none there that gives its tokens back."""
    rows = trace.steps.filter(pc.equal(trace.steps["path"], ATTACK))
    rows = rows.filter(pc.and_(pc.is_valid(rows["retokenises"]), pc.greater(rows["step"], 0)))
    table = pa.table({"sample": rows["sample"], "back": pc.cast(rows["retokenises"], pa.int64())})
    most = table.group_by("sample").aggregate([("back", "max")])["back_max"].to_numpy()
    return wilson(int((most == 0).sum()), len(most))


def _ends(trace: Trace, measure: str, layer: str) -> str:
    """Where the attack and the plain texts end: medians of the measure and of the loss."""
    parts = [f"The attack ends at {_place(trace, measure, layer, ATTACK)}"]
    parts += [f"{words} at {_place(trace, measure, layer, p)}" for p, words in YARDSTICKS.items() if p in trace.paths]
    return f"{', '.join(parts)} (medians)." if len(parts) > 1 else f"{parts[0]} (median); no plain text beside it."


def _place(trace: Trace, measure: str, layer: str, path: str) -> str:
    value, loss = (_last(trace, name, at, path) for name, at in ((measure, layer), ("loss", None)))
    return f"{_number_of(value)} with a loss of {_number_of(loss)}"


def _number_of(value: float) -> str:
    return rounded(value) if value > 0 and np.isfinite(value) else f"{value:g}"


def _last(trace: Trace, column: str, layer: str | None, path: str) -> float:
    values = trace.matrix(column, path=path, layer=layer).values
    ends: NDArray[np.float64] = values[np.arange(len(values)), trace.last_steps(path=path)]
    known = ends[np.isfinite(ends)]
    return float(np.median(known)) if len(known) else float("nan")


def _averagings(trace: Trace, measure: str) -> list[str]:
    """Both averagings side by side, where both were measured."""
    if EVERYWHERE not in trace.layer_names or "head" not in trace.layer_names:
        return []
    ways = {}
    for layer in ("head", EVERYWHERE):
        values = trace.matrix(measure, layer=layer).values
        clean, end = float(np.nanmedian(values[:, 0])), _last(trace, measure, layer, ATTACK)
        ways[layer] = f"{_number_of(clean)} → {_number_of(end)}"
    return [f"Averaged over the target: {ways['head']}; {AS_IN_THE_CODE}: {ways[EVERYWHERE]}."]
