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


def noted(told: Mapping[str, Any], n: int) -> dict[str, int]:
    """What a batch of n samples notes of the generator that it is of: counts of samples, by generator."""
    return {f"{KEY} {told['sha256']}": n} if told else {}


def record(told: Mapping[str, Any], trace: Trace, notes: Mapping[str, int]) -> dict[str, Any]:
    """What a generator says of itself, with its success on the attacked samples: plain data, {} where nothing is told.

    Args:
        told: ``training`` and ``fgsm`` are pairs: how many inputs are fooled of how many that could be.
        trace: of the attack.
        notes: of all its batches, see `noted`.
    """
    if not told:
        return {}
    able = ~trace.matrix("flipped").values[:, 0].astype(bool)
    fooled = able & np.asarray(trace.result("flipped"), dtype=bool)
    found = {**told, "attacked": (int(fooled.sum()), int(able.sum())), "of_attacked": len(able)}
    others = {key for key in notes if key.startswith(f"{KEY} ")} - set(noted(told, 0))
    found["of_other_generators"] = sum(notes[key] for key in others)
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
    if found["of_other_generators"]:
        yield Caution(
            "several-generators",
            f"the paths of {found['of_other_generators']} of {found['of_attacked']} samples, which were measured "
            "earlier, are of another generator than those of the others: the one kept then is gone, and fitting it "
            "again gave other bits; run again with --force",
        )
    if found["anew"]:
        yield Caution("fitted-anew", "the generator that was kept in the cache was damaged, and has been fitted anew")


def _plain(count: int, n: int) -> dict[str, float | int | None]:
    share = wilson(count, n)._asdict()
    return {key: None if value != value else value for key, value in share.items()}
