"""What a reader must know before believing the numbers, found in the tables themselves (numpy only)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from flatlens.records.intervals import wilson
from flatlens.records.schema import ATTACK, BEST, OK, Caution
from flatlens.records.trajectory import Trace

SATURATED = 0.999
"""A confidence above which low curvature says no more than that the softmax is saturated."""
RISING = 0.01
"""A relative rise of the loss over the last tenth of the steps that counts as not converged."""
ROUNDING = 1e-5
"""By how much, relatively, float32 arithmetic may overshoot eps."""
WIDEST = 16.0
"""Bounds wider than this are those of raw bytes: standardised images span about 5."""
LEAST_GAIN, GAIN_BY_CHANCE = 8, 1e-3
"""Inputs that standardising must at least put right, and how probable a gain like this may be by chance."""
SLACK = 0.03
"""By how much a clean accuracy may lie below the recorded one, which may be of other samples of the same data."""
BOUND_ROUNDING = 1e-9
"""By how much, relatively, a float64 loss may exceed its certificate's bound by rounding."""


def of_trace(trace: Trace) -> tuple[Caution, ...]:
    """All cautions that the tables call for, each with its figure."""
    checks = (
        _accuracy,
        _not_finite,
        _unconfirmed,
        _zero_gradients,
        _stopped_early,
        _silent_success,
        _not_converged,
        _too_large,
        _confident,
        _wide_errors,
        _certificate,
    )
    return tuple(caution for check in checks for caution in check(trace))


def _not_finite(trace: Trace) -> Iterator[Caution]:
    loss = trace.steps["loss"].to_numpy()
    bad = len(set(trace.steps["sample"].to_numpy()[~np.isfinite(loss)]))
    if bad:
        yield Caution(
            "not-finite-loss", f"the loss of {bad} samples is not finite at some step; their rows are kept as they are"
        )
    for name in trace.layer_names:
        rows = trace.layers.filter(
            pc.and_(pc.equal(trace.layers["layer"], name), pc.not_equal(trace.layers["status"], OK))
        )
        if rows.num_rows:
            samples = len(pc.unique(rows["sample"]))
            yield Caution(
                "not-finite",
                f"curvature of layer '{name}' is not finite for {samples} samples, "
                f"first at step {pc.min(rows['step'])}",
            )


def _unconfirmed(trace: Trace) -> Iterator[Caution]:
    wrong = int(pc.sum(pc.invert(trace.steps["confirmed"].drop_null())).as_py() or 0)
    if wrong:
        yield Caution(
            "unconfirmed",
            f"a fresh forward pass of the model predicts otherwise for {wrong} of the final iterates; "
            "they lie on the boundary to rounding",
        )


def _zero_gradients(trace: Trace) -> Iterator[Caution]:
    zero = [trace.matrix("input_grad_norm", restart=run).values == 0 for run in range(trace.restarts)]
    if any(one.any() for one in zero):
        samples = int(np.any([one.any(1) for one in zero], axis=0).sum())
        step = min(int(one.any(0).argmax()) for one in zero if one.any())
        yield Caution(
            "zero-gradient",
            f"the input gradient of {samples} of {len(zero[0])} samples is exactly 0 at some step (first at step "
            f"{step}): the attack stalls there, whatever the landscape (gradient masking or a saturated loss)",
        )


def _stopped_early(trace: Trace) -> Iterator[Caution]:
    for path in trace.paths:
        runs = trace.restarts if path == ATTACK else 1
        last = np.stack([trace.last_steps(path=path, restart=run) for run in range(runs)])
        if last.size and last.min() < last.max():
            shorter = int((last < last.max()).any(0).sum())
            yield Caution(
                "stopped-early",
                f"{path} stopped early for {shorter} of {last.shape[1]} samples (paths of {last.min()} to {last.max()} "
                "steps): an average at a step runs over those still on their way, n stands beside it",
            )


def _silent_success(trace: Trace) -> Iterator[Caution]:
    if pc.any(pc.equal(trace.steps["kind"], BEST)).as_py():
        return  # the attack's result is its best point, not its last
    flipped = [trace.matrix("flipped", restart=run).values for run in range(trace.restarts)]
    ever = np.any([one[:, 1:].any(1) for one in flipped], axis=0)
    silent = int((ever & ~np.any([one[:, -1] for one in flipped], axis=0)).sum())
    if silent:
        yield Caution(
            "silent-success",
            f"{silent} of {len(ever)} samples were flipped in the middle of the path but are not at its end; "
            "judging by the last iterate alone overstates robustness",
        )


def _not_converged(trace: Trace) -> Iterator[Caution]:
    if trace.spec.get("targeted") is not None or trace.of_language:
        return  # these lower the loss
    unflipped, rising = [], []
    for run in range(trace.restarts):
        loss, length = trace.matrix("loss", restart=run).values, trace.last_steps(restart=run)
        rows = np.arange(len(loss))
        before = loss[rows, np.maximum(0, length - np.maximum(1, length // 10))]
        rising.append((length >= 2) & (loss[rows, length] > before * (1 + RISING)))
        unflipped.append(~trace.matrix("flipped", restart=run).values.any(1))
    never = np.all(unflipped, axis=0)
    count = int((never & np.any(rising, axis=0)).sum())
    if count:
        yield Caution(
            "not-converged",
            f"the loss of {count} of {int(never.sum())} unflipped samples was still rising at the end; "
            "more steps may flip them",
        )


def _too_large(trace: Trace) -> Iterator[Caution]:
    eps, norm = trace.spec.get("eps"), trace.spec.get("norm")
    if eps is None or norm not in trace.steps.column_names:
        return
    size = trace.ends(str(norm)).max(axis=1)
    over = int((size > eps * (1 + ROUNDING)).sum())
    if over:
        yield Caution(
            "too-large",
            f"{over} perturbations are larger than eps = {eps:g} in {norm}, the largest {np.nanmax(size):g}",
        )


def _confident(trace: Trace) -> Iterator[Caution]:
    """Low flatness beside a saturated softmax."""
    if not trace.layer_names:
        return
    valleys = saturated = 0
    for run in range(trace.restarts):
        valley = trace.valley(restart=run)
        last = trace.last_steps(restart=run)
        confidence = trace.matrix("confidence", restart=run).values[np.arange(len(last)), last]
        valleys += int(valley.is_valley.sum())
        saturated += int((valley.is_valley & (confidence > SATURATED)).sum())
    if saturated:
        yield Caution(
            "flat-because-confident",
            f"{saturated} of {valleys} valleys end at a confidence above {SATURATED}: "
            "they are flat because the softmax is saturated, which is no evidence of robustness",
        )


def _wide_errors(trace: Trace) -> Iterator[Caution]:
    of: dict[str, tuple[int, int]] = {}
    for name in trace.layer_names:
        wide = known = 0
        for run in range(trace.restarts):
            names = ("trace_se", "trace", "ggn_trace")
            se, value, ggn = (trace.matrix(column, layer=name, restart=run).values for column in names)
            value = np.where(np.isfinite(value), value, ggn)
            finite = np.isfinite(se) & np.isfinite(value)
            known += int(finite.sum())
            wide += int((se[finite] > 0.1 * np.abs(value[finite])).sum())
        if wide:
            of[name] = wide, known
    if of:
        share = _share(*(sum(counts) for counts in zip(*of.values(), strict=True)))
        first = f"'{next(iter(of))}'"
        one, its = f"the estimate of layer {first} has", "its"
        if len(of) > 1:
            one, its = f"the estimates of {len(of)} layers ({first} among them) have", "their"
        yield Caution("wide-error", f"{one} a standard error above 10 % in {share} of {its} rows; raise --probes")


def _share(count: int, n: int) -> str:
    """A share in %, never rounded to none or all."""
    return f"{min(max(100 * count / n, 1), 99 if count < n else 100):.0f} %"


def _accuracy(trace: Trace) -> Iterator[Caution]:
    right = _right(trace)
    classes, recorded = trace.manifest.get("classes"), trace.manifest.get("recorded_accuracy")
    yield from low_accuracy(int(right.sum()), len(right), classes, recorded)


def wrong(trace: Trace) -> int:
    """How many clean inputs are classified otherwise than labelled."""
    return int((~_right(trace)).sum())


def _right(trace: Trace) -> NDArray[np.bool_]:
    """Which clean inputs are classified as labelled, ``[n]``."""
    return trace.right_at_start()


def low_accuracy(right: int, n: int, classes: int | None, recorded: float | None = None) -> Iterator[Caution]:
    """A clean accuracy that says that the model is not fed as it was made to be.

    Args:
        right: clean inputs that are classified as labelled.
        n: of how many.
        classes: K. A model that was made for these data does better than half way from guessing, 1/K, to 1: below
            that, with the whole 95 % interval, something else is likely wrong.
        recorded: the share, 0 to 1, that is on record for these weights and data.

    Yields:
        the caution, where it is so.
    """
    found = wilson(right, n)
    said = (
        f"of {n} clean inputs {100 * found.value:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}] are classified"
    )
    causes = (
        "likely causes: inputs that are not normalised as in its training (?mean=…&std=… in the model's name, "
        "normalize= in Python), labels in another order, other bounds, weights that are not its own; figures of such a "
        "model say nothing about it"
    )
    if recorded is not None and found.high < recorded - SLACK:
        yield Caution("low-accuracy", f"{said} as labelled, and {100 * recorded:.1f} % are on record; {causes}")
    elif classes and found.high < (1 + 1 / classes) / 2:
        guess = f"guessing among {classes} classes gives {100 / classes:.3g} %"
        yield Caution("low-accuracy", f"{said} as labelled, where {guess} and a model made for them far more; {causes}")


def _certificate(trace: Trace) -> Iterator[Caution]:
    """A loss above its bound: the mathematics excludes it, so the code is wrong."""
    change = trace.layers["loss_change"].to_numpy()
    for column in ("certificate_bound_kappa", "certificate_bound_eigenvalue"):
        bound = trace.layers[column].to_numpy()
        with np.errstate(invalid="ignore"):
            above = change > bound + BOUND_ROUNDING * (1 + np.abs(change) + np.abs(bound))
        if above.any():
            worst = float((change - bound)[above].max())
            yield Caution(
                "certificate-violated",
                f"the loss exceeds {column} at {int(above.sum())} of {int(np.isfinite(bound).sum())} points, "
                f"by {worst:.3g} nats at most: this is a bug of flatlens, please report it",
            )


def not_normalised(right: int, gained: int, lost: int, n: int, mean: str, std: str) -> Iterator[Caution]:
    """A model that does better on standardised inputs: it was trained on such, and its normalisation is missing.

    Args:
        right: inputs that are classified as labelled as they are.
        gained: those that are only when standardised.
        lost: those that are no longer when standardised.
        n: of how many.
        mean: of the inputs, by channel, as people type it.
        std: their standard deviation, likewise.

    Yields:
        the caution, where it is so.
    """
    changed = gained + lost
    # The sign test of McNemar: were both alike, at most so many of those that change would be lost.
    chance = sum(math.comb(changed, k) for k in range(lost + 1)) / 2**changed
    if gained >= LEAST_GAIN and chance < GAIN_BY_CHANCE:
        yield Caution(
            "not-normalised",
            f"{100 * right / n:.1f} % of {n} clean inputs are classified as labelled, and "
            f"{100 * (right + gained - lost) / n:.1f} % once they are standardised: the model looks like one that was "
            "trained on normalised inputs and is given others. Its normalisation belongs into it: ?mean=…&std=… in its "
            f"name, normalize= in Python (these inputs have mean {mean}, std {std}); figures of such a model say "
            "nothing about it",
        )


def recorded(notes: Mapping[str, int], n: int) -> tuple[Caution, ...]:
    """What was noticed while a foreign attack was recorded: counts of samples, by code."""
    said = {
        "blank": "{} of {n} returned examples are zero throughout: this is how some libraries (foolbox's C&W) mark a "
        "failure, and they may count it as a success",
        "one-by-one": "the attack's calls could not be told apart by sample for {} of {n} samples: their iterates are "
        "of a second run, one sample at a time; the returned examples are those of the batch",
        "differs-alone": "attacked alone, {} of {n} samples end elsewhere than in their batch: their iterates do not "
        "lead to the returned example",
        "no-gradient": "the attack took no gradient on {} of {n} samples: only the clean and the returned example "
        "are on their path",
        "end-not-told": "where the attack ended is not known for {} of {n} samples: their paths end at the last point "
        "on which it took a gradient, mostly a step before; in the watched block, tell seen.returned(x_adv)",
    }
    return tuple(Caution(code, text.format(notes[code], n=n)) for code, text in said.items() if notes.get(code))


def bounds(outside: int, n: int, low: float, high: float, wanted: tuple[float, float]) -> Caution:
    """Inputs that do not lie in the bounds."""
    return Caution(
        "out-of-bounds",
        f"{outside} of {n} inputs lie outside the bounds [{wanted[0]:g}, {wanted[1]:g}] "
        f"(they span {low:g} … {high:g}); "
        "the attack projects them back at its first step: give the inputs' true --bounds; "
        "normalisation belongs into the model",
    )


def unnormalised(wanted: tuple[float, float], eps: object) -> Iterator[Caution]:
    """Bounds as wide as those of raw bytes."""
    low, high = wanted
    if high - low > WIDEST:
        size = f": eps = {eps:g} is {100 * eps / (high - low):.2g} % of their width" if isinstance(eps, float) else ""
        yield Caution(
            "unnormalised",
            f"the bounds [{low:g}, {high:g}] look like those of unnormalised inputs{size}; "
            "radii are mostly given for inputs in [0, 1]: divide the inputs, or scale eps",
        )


def masked(why: str) -> Iterator[Caution]:
    """Attacks on the cross-entropy overstate the robustness; ``why`` says by what, and is empty where they do not."""
    if why:
        yield Caution(
            "masked",
            f"attacks on the cross-entropy, plain PGD among them, overstate this model's robustness: {why}; judge it "
            "by the worst case",
        )


def broken(count: int, n: int) -> Iterator[Caution]:
    """Samples that count as fooled because the model, or its gradient, was not a number on the way."""
    if count:
        yield Caution(
            "not-a-number",
            f"the model or its gradient gave NaN for {count} of {n} samples under attack: they count as fooled",
        )


def wide_eps(eps: float, norm: str, bounds: tuple[float, float]) -> Caution:
    """A radius that reaches further than from the middle of the bounds to their corners."""
    return Caution(
        "wide-eps",
        f"eps = {eps:g} in {norm} is more than half of the width of the bounds [{bounds[0]:g}, {bounds[1]:g}]: such a "
        "perturbation can make any input grey, and no classifier is right then; radii are mostly far smaller",
    )


def few_samples(n: int) -> Caution:
    """Too few samples for an interval that says much."""
    return Caution("few-samples", f"{n} samples: intervals are wide, and models that differ by less look alike")


def few_classes(classes: int) -> Caution:
    """Why the targeted attack ascends another objective than the published one."""
    return Caution(
        "few-classes",
        f"{classes} classes: the targeted difference of logits ratio needs at least 4; APGD-T ascends the targeted "
        "margin instead",
    )


def tested_on_training(data: str) -> Caution:
    """The samples that a model is judged by are those that it was trained on."""
    return Caution(
        "training-data",
        f"'{data}' holds the data that this model was trained on, by its record: what is measured there says nothing "
        "of other inputs; name a test split",
    )


def not_probed(skipped: Mapping[str, str]) -> Iterator[Caution]:
    """Layers that a pattern selected and that cannot be probed, each with its reason."""
    if skipped:
        names = ", ".join(f"'{name}'" for name in skipped)
        why = next(iter(skipped.values()))
        yield Caution("not-probed", f"{len(skipped)} of the layers asked for are left out ({names}): {why}")


def probabilities(ending: str = "") -> Caution:
    """Outputs that already sum to 1; ``ending`` says what makes them so, and how to take it away."""
    return Caution(
        "probabilities",
        "the model's outputs are non-negative and sum to 1 on the inputs checked: they look like probabilities, "
        f"but are read as logits; {ending or 'return what goes into the softmax'}",
    )
