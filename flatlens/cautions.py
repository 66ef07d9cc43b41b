"""What a reader must know before believing the numbers, found in the tables themselves (numpy only)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow.compute as pc

from flatlens.trajectory import ATTACK, Caution, Trace

SATURATED = 0.999
"""A confidence above which low curvature says no more than that the softmax is saturated."""
RISING = 0.01
"""A relative rise of the loss over the last tenth of the steps that counts as not converged."""
ROUNDING = 1e-5
"""By how much, relatively, float32 arithmetic may overshoot eps."""
WIDEST = 16.0
"""Bounds wider than this are those of raw bytes: standardised images span about 5."""
BOUND_ROUNDING = 1e-9
"""By how much, relatively, a float64 loss may exceed its certificate's bound by rounding."""


def find(trace: Trace) -> tuple[Caution, ...]:
    """All that the tables give cause to warn of, each with its figure."""
    checks = (
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
            pc.and_(pc.equal(trace.layers["layer"], name), pc.not_equal(trace.layers["status"], "ok"))
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
    norms = trace.matrix("input_grad_norm").values
    zero = norms == 0
    if zero.any():
        samples, step = int(zero.any(1).sum()), int(zero.any(0).argmax())
        yield Caution(
            "zero-gradient",
            f"the input gradient of {samples} of {len(zero)} samples is exactly 0 at some step (first at step {step}): "
            "the attack stalls there, whatever the landscape (gradient masking or a saturated loss)",
        )


def _stopped_early(trace: Trace) -> Iterator[Caution]:
    for path in trace.paths:
        last = trace.last_steps(path=path)
        if len(last) and last.min() < last.max():
            shorter = int((last < last.max()).sum())
            yield Caution(
                "stopped-early",
                f"{path} stopped early for {shorter} of {len(last)} samples (paths of {last.min()} to {last.max()} "
                "steps): an average at a step runs over those still on their way, n stands beside it",
            )


def _silent_success(trace: Trace) -> Iterator[Caution]:
    if pc.any(pc.equal(trace.steps["kind"], "best")).as_py():
        return  # the attack's result is its best point, not its last
    flipped = trace.matrix("flipped").values
    silent = int((flipped[:, 1:].any(1) & ~flipped[:, -1]).sum())
    if silent:
        yield Caution(
            "silent-success",
            f"{silent} of {len(flipped)} samples were flipped in the middle of the path but are not at its end; "
            "judging by the last iterate alone overstates robustness",
        )


def _not_converged(trace: Trace) -> Iterator[Caution]:
    if trace.spec.get("targeted") is not None:
        return
    loss, flipped = trace.matrix("loss").values, trace.matrix("flipped").values
    length = trace.last_steps()
    if length.max(initial=0) < 2:
        return
    rows = np.arange(len(loss))
    before = loss[rows, np.maximum(0, length - np.maximum(1, length // 10))]
    rising = int((~flipped.any(1) & (length >= 2) & (loss[rows, length] > before * (1 + RISING))).sum())
    if rising:
        yield Caution(
            "not-converged",
            f"the loss of {rising} of {int((~flipped.any(1)).sum())} unflipped samples was still rising at the end; "
            "more steps may flip them",
        )


def _too_large(trace: Trace) -> Iterator[Caution]:
    eps, norm = trace.spec.get("eps"), trace.spec.get("norm")
    if eps is None or norm not in trace.steps.column_names:
        return
    size = trace.result(str(norm))
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
    valley = trace.valley()
    confidence = trace.matrix("confidence").values[np.arange(len(valley.sample)), trace.last_steps()]
    saturated = int((valley.is_valley & (confidence > SATURATED)).sum())
    if saturated:
        yield Caution(
            "flat-because-confident",
            f"{saturated} of {int(valley.is_valley.sum())} valleys end at a confidence above {SATURATED}: "
            "they are flat because the softmax is saturated, which is no evidence of robustness",
        )


def _wide_errors(trace: Trace) -> Iterator[Caution]:
    for name in trace.layer_names:
        se = trace.matrix("trace_se", path=ATTACK, layer=name).values
        value = trace.matrix("trace", path=ATTACK, layer=name).values
        with np.errstate(divide="ignore", invalid="ignore"):
            wide = se > 0.1 * np.abs(value)
        if wide.any():
            yield Caution(
                "wide-error",
                f"the estimate of layer '{name}' has a standard error above 10 % "
                f"in {100 * wide.mean():.0f} % of its rows; "
                "raise --probes",
            )


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
