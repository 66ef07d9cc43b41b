"""The four axes of a defended training, and the recipes over them: a row each. No torch.

    adversarial          which attack makes the inputs that are trained on
    loss                 what is minimised on clean and attacked inputs
    perturb_weights      whether the step is that of the weights, or of weights that were made worse first
    penalty              what is added for each sample, joined by ``+``

A recipe is a name of the literature for a choice along the axes. It is resolved into them, and gone.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from flatlens.errors import SpecError, unknown
from flatlens.specs.options import Entry, Named, Option, read, written

NONE = "none"
STANDARD = "standard"

ADVERSARIAL = {
    "pgd": Entry("projected gradient from a random start, of --steps steps (Madry et al. 2018, arXiv 1706.06083)"),
    "fgsm": Entry(
        "one step from a random start (Wong et al. 2020, 2001.03994); start=clean: Goodfellow et al. 2015, 1412.6572",
        {
            "size": Option(1.25, "of the step, in units of eps; 1 from a clean start", above=0, high=2),
            "start": Option("random", "where the step begins", words=("random", "clean")),
        },
    ),
    "free": Entry(
        "each batch several times, its perturbation and the weights by one pass (Shafahi et al. 2019, 1904.12843)",
        {"replays": Option(4, "steps on each batch", low=1, high=1000)},
    ),
    "gan": Entry(
        "a generator that learns in turn with the classifier (Lee et al. 2017, 1705.03387)",
        {
            "width": Option(16, "channels of the generator", low=1, high=1024),
            "lr": Option(5e-3, "of the generator", above=0),
        },
    ),
}
LOSSES = {
    "adversarial": Entry("the cross-entropy of attacked inputs (Madry et al. 2018, 1706.06083)"),
    "mix": Entry(
        "mean of clean and attacked cross-entropy, the latter by weight (Goodfellow et al. 2015, 1412.6572)",
        {"weight": Option(1.0, "of the attacked inputs; 1 for the clean", above=0)},
    ),
    "trades": Entry(
        "clean cross-entropy, and beta times the divergence of the attacked answer (Zhang et al. 2019, 1901.08573)",
        {"beta": Option(6.0, "of the divergence", above=0)},
    ),
    "mart": Entry(
        "boosted cross-entropy, and beta times the divergence where the clean answer is unsure (Wang et al. 2020)",
        {"beta": Option(5.0, "of the divergence", above=0)},
    ),
}
WEIGHTS = {
    "sam": Entry(
        "the step of the worst weights within rho (Foret et al. 2021, 2010.01412)",
        {"rho": Option(0.05, "length of the perturbation of all weights", above=0)},
    ),
    "asam": Entry(
        "the same, each weight by its own size (Kwon et al. 2021, 2102.11600)",
        {"rho": Option(0.5, "length of the perturbation, in units of each weight", above=0)},
    ),
    "awp": Entry(
        "the step of weights made worse, each matrix by a share of its norm (Wu et al. 2020, 2004.05884)",
        {
            "gamma": Option(0.005, "length of the perturbation, as a share of the matrix's norm", above=0, below=1),
            "warmup": Option(0, "epochs without it", low=0, high=10**6),
        },
    ),
}
PENALTIES = {
    "fam": Entry(
        "relative flatness of the head, in closed form and through every weight (Petzka et al. 2021, 2001.00939)",
        {
            "weight": Option(0.01, "of the penalty", above=0),
            "at": Option("trained-on", "which inputs", words=("trained-on", "clean")),
        },
    ),
    "gradient": Entry(
        "eps times the dual norm of the loss's gradient by the input (Drucker & LeCun 1992; Simon-Gabriel et al. 2019)",
        {"weight": Option(1.0, "of the penalty, in units of eps", above=0)},
    ),
    "spectral": Entry(
        "half the squared spectral norms of all weight matrices, summed (Yoshida & Miyato 2017, 1705.10941)",
        {"weight": Option(0.01, "of the penalty", above=0)},
    ),
}
AXES: Mapping[str, Mapping[str, Entry]] = {
    "adversarial": ADVERSARIAL,
    "loss": LOSSES,
    "perturb_weights": WEIGHTS,
    "penalty": PENALTIES,
}
KINDS = {
    "adversarial": "adversarial training",
    "loss": "loss",
    "perturb_weights": "perturbation of weights",
    "penalty": "penalty",
}
"""What a name on each axis is the name of, for messages."""


class Recipe(NamedTuple):
    """A name of the literature, and what it chooses along the axes."""

    summary: str
    axes: Mapping[str, str]


RECIPES = {
    "fgsm": Recipe("one attack step, random start", {"adversarial": "fgsm"}),
    "free": Recipe("adversarial training at the price of a standard one", {"adversarial": "free"}),
    "pgd": Recipe("adversarial training proper", {"adversarial": "pgd"}),
    "mix": Recipe("clean and attacked inputs, half and half", {"adversarial": "pgd", "loss": "mix"}),
    "trades": Recipe("accuracy against smoothness of the answer", {"adversarial": "pgd", "loss": "trades"}),
    "mart": Recipe("weighs what is misclassified", {"adversarial": "pgd", "loss": "mart"}),
    "gan": Recipe("clean and generated inputs", {"adversarial": "gan", "loss": "mix"}),
    "sam": Recipe("sharpness-aware minimisation", {"perturb_weights": "sam"}),
    "asam": Recipe("the same, whatever the weights' scale", {"perturb_weights": "asam"}),
    "fam": Recipe("flatness-aware minimisation, exact", {"penalty": "fam"}),
    "gradient": Recipe("small input gradients, no attack", {"penalty": "gradient"}),
    "spectral": Recipe("small spectral norms, no attack", {"penalty": "spectral"}),
    "awp": Recipe("adversarial weight perturbation", {"adversarial": "pgd", "perturb_weights": "awp"}),
    "trades-awp": Recipe(
        "TRADES with perturbed weights", {"adversarial": "pgd", "loss": "trades", "perturb_weights": "awp"}
    ),
    "fam-pgd": Recipe("flat and robust at once", {"adversarial": "pgd", "penalty": "fam"}),
    "flat-lipschitz": Recipe("flat and smooth, no attack", {"penalty": "fam+gradient"}),
    "flat-spectral": Recipe("flat and smooth, by spectral norms", {"penalty": "fam+spectral"}),
}


_JOINED = re.compile(r"(?<![0-9.][eE])\+")
"""What joins penalties: a +, but not that of 1e+20."""


def chosen(axis: str, text: str | None) -> tuple[Named, ...]:
    """What a value of an axis names: nothing, one thing, or on the axis ``penalty`` several.

    Raises:
        SpecError: a name or an option that does not exist, or cannot be so.
    """
    if text is None or text == NONE:
        return ()
    parts = _JOINED.split(text) if axis == "penalty" else [text]
    found = tuple(read(KINDS[axis], part, AXES[axis], also=(NONE,)) for part in parts)
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(f"--penalty {text}: names {name} twice; give one of the two")
    return found


def canonical(axis: str, text: str | None) -> str | None:
    """The one way to write a value of an axis: options at their defaults left out, penalties in the list's order."""
    order = list(AXES[axis])
    found = sorted(chosen(axis, text), key=lambda one: order.index(one.name))
    return "+".join(written(one, AXES[axis]) for one in found) or None


def resolved(defence: str | None, axes: Mapping[str, str | None]) -> dict[str, str | None]:
    """The axes of a recipe, completed and refined by what was chosen along them.

    Args:
        defence: a recipe's name, or None.
        axes: what was given for each axis; None where nothing was.

    Returns:
        for each axis its value in canonical form, None for nothing.

    Raises:
        SpecError: the recipe does not exist, or an axis contradicts it.
    """
    if defence is not None and defence != NONE and defence not in RECIPES:
        raise SpecError(unknown("defence", defence, [NONE, *RECIPES], where="there are"))
    wanted: Mapping[str, str] = {} if defence in (None, NONE) else RECIPES[str(defence)].axes
    out: dict[str, str | None] = {}
    for axis in AXES:
        own, of_recipe = axes.get(axis), wanted.get(axis)
        if own is not None and of_recipe is not None:
            mine, theirs = chosen(axis, own), chosen(axis, of_recipe)
            if not {one.name for one in theirs} <= {one.name for one in mine}:
                flag = f"--{axis.replace('_', '-')}"
                raise SpecError(
                    f"--defence {defence} is {flag} {of_recipe}, which {flag} {own} contradicts; leave out one of them"
                )
        out[axis] = canonical(axis, of_recipe if own is None else own)
    if out["loss"] == "adversarial" and out["adversarial"] is not None:
        out["loss"] = None  # what it is anyway
    _check(out)
    return out


def _check(axes: Mapping[str, str | None]) -> None:
    inner, loss, weights = (chosen(axis, axes[axis]) for axis in ("adversarial", "loss", "perturb_weights"))
    if loss and not inner:
        raise SpecError(f"--loss {axes['loss']}: needs attacked inputs; add --adversarial pgd")
    if inner and inner[0].name == "free":
        if weights:
            raise SpecError(
                f"--adversarial free with --perturb-weights {axes['perturb_weights']}: free takes its perturbation "
                "from the weights' own pass, and there is one; use --adversarial fgsm or pgd"
            )
        if loss and loss[0].name != "adversarial":
            raise SpecError(
                f"--adversarial free with --loss {axes['loss']}: free makes one pass, on attacked inputs alone; "
                "use --adversarial fgsm or pgd"
            )


def in_words(train: Mapping[str, Any]) -> str:
    """The defence of a training's plain data in words: a recipe's name where it is one, else what its axes choose."""
    return _in_words(tuple(train.get(axis) for axis in AXES))


@functools.cache
def _in_words(values: tuple[str | None, ...]) -> str:
    if not any(values):
        return STANDARD
    for name in RECIPES:
        if tuple(resolved(name, {}).values()) == values:
            return name
    return " · ".join(value for value in values if value)


def uses_eps(train: Mapping[str, Any]) -> bool:
    """Whether a training's plain data make use of its eps."""
    return bool(train.get("adversarial")) or "gradient" in str(train.get("penalty"))
