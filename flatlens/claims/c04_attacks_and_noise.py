"""C4: every attack ends in a valley, and noise does not: attacks that go on, one that stops at the boundary, noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flatlens.claims.claim import Claim, Part, Region
from flatlens.claims.nets import Case
from flatlens.claims.paths import along
from flatlens.claims.statistics import Table, difference, share

if TYPE_CHECKING:
    from torch import Tensor

STEPS, IMAGE_STEPS = 40, 10
NOISE = "gaussian-noise"
ATTACKS = {"pgd": "PGD", "mifgsm": "MI-FGSM", "apgd": "APGD-CE", "margin": "PGD on the margin", "ddn": "DDN"}
"""Name in the columns -> in words; the last one looks for the nearest point and stays there."""

CLAIM = Claim(
    name="C4",
    title="All attacks end in a valley, noise does not",
    source="Walter et al., arXiv 2405.16918",
    reported="the same course for all attacks that were tried; noise shows none of it",
    question="Which attacks have a valley, and which noise?",
    protocol={
        "nets": "flatlens:cnn, five seeds; quick: digits-cnn",
        "data": "flatlens:digits, test split, samples that are right",
        "attack": f"linf eps 0.3, {STEPS} steps: PGD (eps/10), MI-FGSM, APGD-CE, PGD on the margin; DDN, {STEPS} steps",
        "noise": f"a ray of Gaussian noise to the radius of the ball, {STEPS} steps; and, as in the paper's code, the "
        f"line to an image of noise, 0.25·N + 0.5 within the bounds, {IMAGE_STEPS} steps",
        "valley": "the path flips, stays flipped, has its largest κ within, and ends at a tenth of that or less",
        "statistic": "for attacks, share of valleys among the samples that flip; of noise in the ball, which "
        "flips hardly any, among all",
    },
    parts=(
        *(
            Part(name, f"valleys of {said}", share(f"valley_{name}", f"flipped_{name}"), Region(low=0.5))
            for name, said in ATTACKS.items()
        ),
        Part("ball", "valleys of noise in the ball, of all samples", share("valley_ball"), Region(high=0.05)),
        Part("image", "valleys of the line to a noise image, of those that it flips",
             share("valley_image", "flipped_image"), Region(high=0.1)),
        Part("flips_ball", "samples that noise in the ball flips", share("flipped_ball")),
        Part("flips_image", "samples that the line to a noise image flips", share("flipped_image")),
        Part("image_of_all", "valleys of that line, of all samples", share("valley_image")),
        Part("flat_image", "of these, end at a tenth of their peak, wherever it lies",
             share("flat_image", "flipped_image")),
        Part("difference", "more valleys of PGD than of that line, both flipped",
             difference("valley_pgd", "valley_image", "both")),
        *(Part(f"flips_{name}", f"samples that {said} flips", share(f"flipped_{name}"))
          for name, said in ATTACKS.items()),
    ),
    caveats=(
        "DDN stays at the boundary by its very aim, where κ is largest: that it has no valley is what it is for.",
        "Noise in the ball hardly flips: that it has no valley says nothing of noise that does.",
    ),
)  # fmt: skip


def measure(case: Case) -> Table:
    """Which paths flip, and which end in a valley."""
    from flatlens import attacks

    x, _, ids = case.right()
    ways: dict[str, Any] = {
        "pgd": attacks.PGD(eps=case.eps, steps=STEPS, step_size=case.eps / 10),
        "mifgsm": attacks.MIFGSM(eps=case.eps, steps=STEPS),
        "apgd": attacks.APGDCE(eps=case.eps, steps=STEPS),
        "margin": attacks.PGD(eps=case.eps, steps=STEPS, step_size=case.eps / 10, objective="margin"),
        "ddn": attacks.DDN(steps=STEPS),
        "image": attacks.along(to_noise_image(x, case.seed, case.data.bounds)),
    }
    columns: dict[str, NDArray[np.generic]] = {"sample": ids.numpy()}
    for name, attack in ways.items():
        trace = along(case, attack, controls=(NOISE,) if name == "pgd" else ())
        for column, path in {name: "attack", "ball": NOISE}.items():
            if path in trace.paths:
                found = trace.valley(path=path)
                columns[f"flipped_{column}"], columns[f"valley_{column}"] = found.flipped, found.is_valley
                columns[f"flat_{column}"] = found.flat_end
    columns["both"] = columns["flipped_pgd"].astype(bool) & columns["flipped_image"].astype(bool)
    return columns


def to_noise_image(x: Tensor, seed: int, bounds: tuple[float, float], steps: int = IMAGE_STEPS) -> Tensor:
    """The points of a straight line from each input to an image of noise of its own, ``[steps, n, …]``, x left out.

    The images are 0.25·N + 0.5 within [0, 1], with N standard normal, brought to the bounds.

    Args:
        x: inputs, ``[n, …]``.
        seed: of the noise.
        bounds: of valid inputs.
        steps: points.
    """
    import torch

    from flatlens.victims.noise import Noise

    noise = Noise(seed).normal(torch.arange(len(x)), x, "noise-image")
    image = bounds[0] + (bounds[1] - bounds[0]) * (0.25 * noise + 0.5).clamp(0, 1)
    return torch.stack([torch.lerp(x, image, t / steps) for t in range(1, steps + 1)])
