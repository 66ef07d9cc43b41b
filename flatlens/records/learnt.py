"""What an attack has learnt of data before its first path: its record in a manifest, and what a reader must know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from flatlens.records.intervals import wilson
from flatlens.records.schema import Caution
from flatlens.records.trajectory import Trace

KEY = "generator"
"""Where it stands in a manifest."""
_SHARES = ("training", "fgsm", "attacked")


def record(told: Mapping[str, Any], trace: Trace) -> dict[str, Any]:
    """What a generator says of itself, with its success on the attacked samples: plain data, {} where nothing is told.

    Args:
        told: ``training`` and ``fgsm`` are pairs: how many inputs are fooled of how many that could be.
        trace: of the attack.
    """
    if not told:
        return {}
    able = ~trace.matrix("flipped").values[:, 0].astype(bool)
    fooled = able & np.asarray(trace.result("flipped"), dtype=bool)
    found = {**told, "attacked": (int(fooled.sum()), int(able.sum())), "of_attacked": len(able)}
    return found | {key: _plain(*found[key]) for key in _SHARES}


def cautions(found: Mapping[str, Any]) -> Iterator[Caution]:
    """What a reader must know of a `record`.

    Yields:
        for every generator, that it is one for all samples; and what else there is.
    """
    if not found:
        return
    yield Caution(
        "one-generator",
        "every step of the path is one generator for all samples, after a share of its training: steps are shares of "
        "that training, samples are not independent of each other, and intervals are of this generator; another seed "
        "trains another",
    )
    if found["collapsed"]:
        training, fgsm = found["training"], found["fgsm"]
        yield Caution(
            "collapsed",
            f"the generator has collapsed, begun {found['starts']} times: it fools {training['count']} of "
            f"{training['n']} inputs that it learnt from, FGSM {fgsm['count']} of {fgsm['n']}, and its perturbations "
            f"of two inputs have a mean cosine of {found['cosine']:.2f}; it says nothing of the model's robustness: "
            "give more epochs, a lower lr or another seed",
        )
    if found["attacked_among_them"]:
        yield Caution(
            "fitted-on-attacked",
            f"{found['attacked_among_them']} of {found['of_attacked']} attacked samples are among the "
            f"{found['samples']} inputs that the generator learnt from: it may fool others less; attack the "
            "test part of data that come in two, or in Python give the attack's fit() other inputs",
        )
    if found["anew"]:
        yield Caution(
            "fitted-anew",
            "the generator that was kept in the cache was damaged, and has been fitted anew; batches of this run that "
            "were finished before are of the earlier one",
        )


def _plain(count: int, n: int) -> dict[str, float | int | None]:
    share = wilson(count, n)._asdict()
    return {key: None if value != value else value for key, value in share.items()}
