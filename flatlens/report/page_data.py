"""Trace -> the plain data that the page embeds: bounded in size, whatever the number of samples.

Statistics and aggregates cover all samples; curves and images of single samples are kept for a few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flatlens.records import worst_case
from flatlens.records.digest import attacked_at
from flatlens.records.digest import record as record
from flatlens.records.schema import ATTACK, MEASURES
from flatlens.records.trajectory import Trace
from flatlens.records.valley import Ints, Valley
from flatlens.report import drawn, lands, packing, sentence_text, series, text_data
from flatlens.report.comparison import comparison
from flatlens.report.density import density
from flatlens.report.drawn_text import of_prompts
from flatlens.report.packing import encode, pack
from flatlens.report.roles import colours, looks
from flatlens.report.sentence import lead
from flatlens.specs.wording import text

MOST_SAMPLES = 140
"""Samples whose own curves (and images) are embedded."""
CURVE_BYTES = 8_000_000
IMAGE_BYTES = 5_000_000
"""What all runs of one page together may spend on curves of single samples, and on images."""
LARGE = 3 * 64 * 64
"""Numbers of an input beyond which it is kept in 8 bits: at four moments, ImageNet's take 0.6 MB a sample."""
MOST_CLASSES = 1000
"""Probabilities of more classes than this are not embedded."""

Plain = dict[str, Any]


class Share(NamedTuple):
    """How many bytes one run may use."""

    curves: int
    images: int
    text: int


def pages(traces: Sequence[Trace]) -> Plain:
    """What the page draws: one entry per run, and the names that they share."""
    share = Share(*(size // max(len(traces), 1) for size in (CURVE_BYTES, IMAGE_BYTES, text_data.TEXT_BYTES)))
    names = run_names([t.spec for t in traces])
    runs = [run(trace, name, share) for trace, name in zip(traces, names, strict=True)]
    common = [measure for measure in runs[0]["measures"] if all(measure in one["measures"] for one in runs)]
    apart = comparison(traces, common)
    return {
        "colours": colours(),
        "measures": MEASURES,
        "symbols": drawn.SYMBOLS,
        "runs": runs,
        "compared": {measure: [packing.figure(record(one)) for one in of] for measure, of in apart.items()},
    }


def run(trace: Trace, name: str, share: Share) -> Plain:
    """One trace: its result in words, figures, and the chosen samples' own curves.

    ``figures`` holds, for each figure, its layout and under a key (`key`) what differs: the very figures of
    `flatlens.report.figures`.
    """
    measures = series.measures(trace)
    probes = series.probes(trace, measures)
    length, samples = trace.matrix("loss").values.shape[1], trace.matrix("loss").sample
    flips = {path: series.flip_step(trace, path) for path in trace.paths}
    lines = len(trace.paths) * (len(series.FLOW) + len(probes) * len(measures))
    affordable = share.curves // max(lines * length * 4, 1)
    chosen = series.pick(flips[ATTACK], int(np.clip(affordable, 12, MOST_SAMPLES)))
    if trace.surfaces is not None:  # whose landscape is there, they are there too
        chosen = np.union1d(chosen, np.flatnonzero(np.isin(samples, trace.surfaces.sample)))
    ids = samples[chosen]
    told = series.accuracy(trace)
    seen = looks(trace.paths)
    made = Figures(of_prompts if trace.of_language else None)
    for column in ("margin", "loss"):
        curves = {path: series.curves(trace, column, None, path) for path in trace.paths}
        for aligned in (True, False):
            made.add(column, key(aligned=aligned), drawn.flow(curves, seen, column, aligned=aligned))
    bent = series.bending(trace)
    if bent is not None:
        for aligned in (True, False):
            made.add("bending", key(aligned=aligned), drawn.bends(bent, aligned=aligned))
    layers = [_layer(trace, index, probe.name, measures, ids, made) for index, probe in enumerate(probes)]
    if len(probes) > 1:
        for measure in measures:
            by_layer = {probe.name: series.curves(trace, measure, probe.name, ATTACK) for probe in probes}
            made.add("layers", key(measure), drawn.heat(by_layer))
    spread = density(trace)
    if spread is not None:
        values = [f"{value:g}".replace("-", "−") for value in spread.value]
        made.add("spectrum", "", drawn.spectrum(spread.position, spread.curves, spread.tick.tolist(), values))
    return {
        "name": name,
        "spec": [[str(k), text(k, v)] for k, v in _settings(trace).items() if v not in (None, [], ())],
        "cautions": [[c.code, c.message] for c in trace.cautions],
        "n": len(samples),
        "steps": length - 1,
        "labels": None if trace.labels is None else [str(x) for x in trace.labels],
        "attacked_at": attacked_at(trace),
        "layers": [record(p) for p in probes],
        "measures": list(measures),
        "sample": [int(i) for i in ids],
        "truth": None if trace.of_language else [int(i) for i in trace.matrix("label").values[chosen, 0]],
        "paths": [
            {"name": path, "role": seen[path].role, "dash": seen[path].dash, "words": seen[path].name}
            | _path(trace, path, ids, flips[path])
            for path in trace.paths
        ],
        "results": layers,
        "ledger": [series.told(trace, probe.name) for probe in probes],
        "lead": [_lead(trace, measure, probe.name, told) for probe in probes for measure in measures],
        "figures": made.packed(),
        "images": images(trace, ids, share.images),
        "text": text_data.texts(trace, ids, share.text),
        "surfaces": lands.surfaces(trace),
        "gradients": lands.gradients(trace.gradients, ids, share.images // 2),
        "peers": lands.peers(trace),
        "eps": _number(trace.spec.get("eps")),
        "spectrum_samples": None if spread is None else spread.samples,
    }


def _settings(trace: Trace) -> dict[str, Any]:
    """What was asked for; of the worst of several attacks, what it left."""
    left = worst_case.told(trace.manifest)
    return dict(trace.spec) | ({} if left is None else {worst_case.KEY: worst_case.line(left)})


class Figures:
    """Figures by name; those that differ in a choice share one layout.

    A variant is kept as what its layout has of its own. ``worded`` says figures in other words, where given.
    """

    def __init__(self, worded: Callable[[Plain], Plain] | None = None) -> None:
        self._found: dict[str, dict[str, Plain]] = {}
        self._worded = worded or (lambda figure: figure)

    def add(self, name: str, variant: str, figure: Plain) -> None:
        """One figure, in one of its variants."""
        self._found.setdefault(name, {})[variant] = self._worded(figure)

    def packed(self) -> Plain:
        """All of them, for JSON."""
        out: Plain = {}
        for name, variants in self._found.items():
            common = next(iter(variants.values()))["layout"]
            kept = {}
            for variant, figure in variants.items():
                own = {part: value for part, value in figure["layout"].items() if common.get(part) != value}
                kept[variant] = packing.figure({"data": figure["data"], "layout": own})
            out[name] = {"layout": packing.figure(common), "variants": kept}
        return out


def key(measure: str = "", layer: int | None = None, path: str = "", *, aligned: bool | None = None) -> str:
    """Which variant of a figure: what it depends on, joined."""
    steps = "" if aligned is None else ("flip" if aligned else "raw")
    return "|".join(part for part in (measure, "" if layer is None else str(layer), path, steps) if part)


def _path(trace: Trace, name: str, ids: Ints, flip: Ints) -> Plain:
    """One path's numbers of the chosen samples."""
    sample = trace.matrix("flipped", path=name).sample
    rows = series.rows_of(sample, ids)
    says = "matched" if trace.of_language else "prediction"
    flow = {column: pack(series.take(trace.matrix(column, path=name).values, rows)) for column in (*series.FLOW, says)}
    return {"flip": pack(np.where(rows >= 0, flip[rows], -1)), "flow": flow}


def _layer(
    trace: Trace, index: int, layer: str, measures: Sequence[str], ids: Ints, made: Figures
) -> dict[str, list[Plain]]:
    """At one layer, for each measure what each path did; its figures go into ``made``."""
    seen = looks(trace.paths)
    out: dict[str, list[Plain]] = {}
    for measure in measures:
        found = {path: trace.valley(measure, layer=layer, path=path) for path in trace.paths}
        curves = {path: series.curves(trace, measure, layer, path) for path in trace.paths}
        for aligned in (True, False):
            made.add("valley", key(measure, index, aligned=aligned),
                      drawn.sharpness(curves, seen, measure, aligned=aligned))  # fmt: skip
        made.add("tau", key(measure, index), drawn.tau({p: v.over_tau() for p, v in found.items()}, seen))
        end = trace.matrix("margin").values.shape[1] - 1
        made.add("peak", key(measure, index), drawn.counts(series.flip_peak_counts(found[ATTACK]), end))
        across = series.curve_of(trace.matrix("margin").values)
        own = series.curve_of(trace.matrix(measure, layer=layer).values)
        made.add("crossing", key(measure, index), drawn.crossing(own, across, measure))
        out[measure] = [_measured(trace, measure, layer, path, found[path], ids) for path in trace.paths]
    free = {path: series.curves(trace, "scale_free", layer, path) for path in trace.paths}
    ledger, loose = series.ledger(trace, layer), series.looseness(trace, layer)
    for aligned in (True, False):
        variant = key(layer=index, aligned=aligned)
        if free[ATTACK].raw.n.any():
            made.add("free", variant, drawn.sharpness(free, seen, "scale_free", aligned=aligned, small=True))
        if ledger is not None:
            made.add("ledger", variant, drawn.decades(ledger, aligned=aligned))
        if loose is not None:
            made.add("certificate", variant, drawn.tightness(loose, aligned=aligned))
    return out


def _measured(trace: Trace, measure: str, layer: str, path: str, found: Valley, ids: Ints) -> Plain:
    matrix = trace.matrix(measure, path=path, layer=layer)
    rows = series.rows_of(matrix.sample, ids)
    middle = series.curve_of(matrix.values).raw.median
    return {
        "lines": pack(series.take(matrix.values, rows)),
        "median": pack(middle),
        "peak": pack(np.where(rows >= 0, found.peak_step[rows], -1)),
        "valley": pack(np.where(rows >= 0, found.is_valley[rows], 0)),
        "rise": pack(np.where(rows >= 0, found.rise[rows], np.nan)),
        "depth": pack(np.where(rows >= 0, found.depth[rows], np.nan)),
        "summary": record(found.summary()),
        "kinds": _kinds(found),
    }


def _kinds(found: Valley) -> Plain:
    """How many of all samples did what."""
    return {
        "valley": int(found.is_valley.sum()),
        "none": int((found.flipped & ~found.is_valley).sum()),
        "unflipped": int((found.counted & ~found.flipped).sum()),
        "wrong": int((~found.counted).sum()),
        "back": int(found.flips_back.sum()),
        "flatter": int((found.flatter_than_clean & found.flipped).sum()),
    }


def _lead(trace: Trace, measure: str, layer: str, told: series.Accuracy) -> Plain:
    found = {path: trace.valley(measure, layer=layer, path=path) for path in trace.paths}
    if trace.of_language:
        count, rest, below, numbers = sentence_text.said(trace, measure, layer, found)
        sentence = [[count, ATTACK]] * bool(count) + [[rest, ""]]
        return {"sentence": sentence, "below": below, "numbers": [list(number) for number in numbers]}
    said = lead(trace, found, told)
    return {"sentence": [list(part) for part in said.sentence], "below": said.below, "numbers": list(said.numbers)}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def images(trace: Trace, ids: Ints, budget: int) -> Plain | None:
    """Inputs of the chosen samples as 16-bit numbers, for as many samples as the budget allows."""
    kept = trace.images
    if kept is None or not len(kept.x):
        return None
    has = ids[np.isin(ids, kept.sample)]
    shape = kept.x.shape[1:]
    drawable = len(shape) == 3 and shape[0] in (1, 3)
    classes = kept.probabilities.shape[-1]
    # 16 bits are steps of 1/65,535 of the range: finer than any change that is shown. Large inputs have 8.
    numbers = int(np.prod(shape))
    bits = 16 if numbers <= LARGE else 8
    size = bits // 8 * numbers * drawable + 4 * classes * (classes <= MOST_CLASSES)
    per_sample = size * max(len(kept.x) / max(len(np.unique(kept.sample)), 1), 1)
    few = has[series.spread(len(has), max(int(budget / max(per_sample, 1)), 1))]
    rows = np.flatnonzero(np.isin(kept.sample, few))
    out: Plain = {
        "shape": list(shape),
        "drawable": drawable,
        "sample": kept.sample[rows].tolist(),
        "step": kept.step[rows].tolist(),
        "samples": len(few),
        "classes": classes,
    }
    if drawable:
        x = np.nan_to_num(kept.x[rows].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        low, high = float(min(x.min(), 0.0)), float(max(x.max(), 1.0))
        out |= {"low": low, "high": high}
        levels = np.round((x - low) / (high - low) * (2**bits - 1))
        out["x"] = encode(levels.astype(f"<u{bits // 8}"), f"u{bits}")
    if classes <= MOST_CLASSES:
        out["p"] = pack(kept.probabilities[rows])
    return out


def run_names(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A short name for each run: what differs between them, else a number."""
    keys = dict.fromkeys(key for spec in specs for key in spec)
    differ = [k for k in keys if len({text(k, s.get(k)) for s in specs}) > 1]
    names = [", ".join(f"{k} {text(k, s.get(k))}" for k in differ[:4]) for s in specs]
    if len(set(names)) < len(names) or not all(names):
        names = [f"run {i + 1}" + (f": {name}" if name else "") for i, name in enumerate(names)]
    return names
