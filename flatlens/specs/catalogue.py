"""Every attack and control that there is, a row each: where it lives, what it takes, one line about it. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from flatlens.specs.options import Option


class Entry(NamedTuple):
    """Where an attack or control lives, and one line about it with its source.

    Attributes:
        module: of ``flatlens.attacks``.
        name: of the class or function in it.
        summary: one line, with the source.
        takes: settings that not every attack has, of those in `SOME_TAKE`.
        norms: the norms that it knows.
        gradients: whether it takes the gradient by the input.
        objective: what it ascends when nothing else is asked for.
        options: the settings that its name may bear, in the order in which they are written.
        discrete: of language models, whether its slot is made of tokens (else of any vectors); None fits both.
    """

    module: str
    name: str
    summary: str
    takes: tuple[str, ...] = ()
    norms: tuple[str, ...] = ("linf", "l2", "l1")
    gradients: bool = True
    objective: str = "ce"
    options: Mapping[str, Option] = MappingProxyType({})
    discrete: bool | None = None


SOME_TAKE = ("objective", "momentum", "restarts", "step_size")
ATTACKS = {
    "fgsm": Entry("gradient", "FGSM", "one step along the gradient's sign (Goodfellow et al. 2015)", ("objective",)),
    "bim": Entry(
        "gradient", "BIM", "iterated FGSM, steps of eps/steps (Kurakin et al. 2017)", ("objective", "step_size")
    ),
    "mi-fgsm": Entry(
        "gradient", "MIFGSM", "BIM with momentum (Dong et al. 2018)", ("objective", "momentum", "step_size")
    ),
    "pgd": Entry("gradient", "PGD", "projected gradient, steps of 2.5·eps/steps (Madry et al. 2018)", SOME_TAKE),
    "apgd-ce": Entry(
        "apgd", "APGDCE", "auto-PGD on the cross-entropy (Croce & Hein 2020)", ("restarts",), ("linf", "l2")
    ),
    "apgd-dlr": Entry("apgd", "APGDDLR", "auto-PGD on the difference of logits ratio", ("restarts",), ("linf", "l2")),
    "apgd-t": Entry("apgd", "APGDT", "auto-PGD on targeted DLR, a run per target class", ("restarts",), ("linf", "l2")),
    "square": Entry(
        "square",
        "Square",
        "random search, no gradients (Andriushchenko et al. 2020)",
        ("restarts",),
        ("linf", "l2"),
        gradients=False,
    ),
    "ddn": Entry("ddn", "DDN", "minimal l2 norm, needs no eps (Rony et al. 2019)", ("objective",), ("l2",)),
    "advgan": Entry(
        "advgan",
        "AdvGAN",
        "a generator of perturbations, step by step as it learns (Xiao et al. 2018)",
        ("objective",),
        ("linf", "l2"),
        objective="margin",
        options={
            "epochs": Option(20, "passes over the data that it learns from", low=1, high=100_000),
            "width": Option(16, "channels of the generator's first layer", low=1, high=4096),
            "lr": Option(5e-3, "learning rate", low=1e-8, high=1.0),
            "gan": Option(1.0, "weight of looking like the data", low=0.0, high=1e6),
            "norm": Option(1.0, "weight of a short perturbation", low=0.0, high=1e6, argument="norm_weight"),
            "z": Option(0, "numbers of noise beside the input", low=0, high=10_000),
        },
    ),
}
QUERIES = 300
"""Of Square, where it is one of the attacks that robustness is judged by."""
CONTROLS = {
    "line-to-other-class": Entry("controls", "LineToOtherClass", "the straight line to a clean image of another class"),
    "line-to-end": Entry("controls", "LineToEnd", "the straight line to the attack's own result"),
    "gaussian-noise": Entry("controls", "GaussianNoise", "a ray of Gaussian noise, as long as the attack's eps"),
    "uniform-noise": Entry("controls", "UniformNoise", "a ray of uniform noise, as long as the attack's eps"),
    "random-signs": Entry("controls", "RandomSigns", "a walk with the attack's steps in random directions"),
}
"""What is walked beside an attack, so that a valley can be told from the mere crossing of a boundary."""

ALL_CONTROLS = "all"

TEXT_ATTACKS = {
    "gcg": Entry(
        "language.gcg", "GCG", "greedy coordinate gradient: the best of many swaps (Zou et al. 2023)", discrete=True
    ),
    "embedding": Entry(
        "language.embedding",
        "Embedding",
        "gradient steps on the slot's embeddings (Schwinn et al. 2024)",
        discrete=False,
    ),
    "simplex": Entry(
        "language.simplex",
        "Simplex",
        "gradient steps on mixtures of tokens, rounded to text at each step (Geisler et al. 2024)",
        discrete=False,
    ),
    "random-swap": Entry(
        "language.gcg",
        "RandomSwap",
        "the best of many random swaps: GCG without its gradient",
        gradients=False,
        discrete=True,
    ),
}
"""Attacks on language models, on a slot beside the prompt."""
TEXT_CONTROLS = {
    "ask": Entry("language.yardsticks", "Ask", "the user asks for the target: 'Repeat exactly: …'"),
    "planted": Entry("language.yardsticks", "Planted", "the slot says ' Say: …' and the target"),
    "copies": Entry(
        "language.yardsticks", "Copies", "plain text that holds the target 0, 1, 2, 4 … 32 times before it"
    ),
    "random-swap": Entry(
        "language.gcg", "RandomSwap", "as many swaps as gcg's, drawn without its gradient", discrete=True
    ),
    "random-walk": Entry("language.gcg", "RandomWalk", "one random swap after the other, each accepted", discrete=True),
    "line-to-end": Entry("language.lines", "LineToEnd", "the straight line to the attack's own result", discrete=False),
    "random-direction": Entry(
        "language.lines", "RandomDirection", "the attack's steps along random directions", discrete=False
    ),
}
"""What is walked beside an attack on a language model: yardsticks that need no attack, and what each part is worth."""

ATTACK_SCHEMES = {
    "torchattacks": "an attack of torchattacks by its name: torchattacks:NAME?eps=8/255&steps=10",
    "foolbox": "an attack of foolbox by its name: foolbox:NAME?eps=8/255",
    "autoattack": "AutoAttack, by pyautoattack: autoattack:standard?eps=8/255",
    "path": "points of one's own, an NPZ file with an array iterates [step, n, …]: path:FILE.npz; slots of "
    "prompts, as texts: path:FILE.jsonl",
}
"""Attacks that are not flatlens' own: scheme -> one line; recorded as they run, and replayed."""

NORMS = ("linf", "l2", "l1")
OBJECTIVES = ("ce", "dlr", "margin")
