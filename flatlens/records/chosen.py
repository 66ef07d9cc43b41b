"""Which samples stand for a trace where not all can be looked at. No torch."""

from __future__ import annotations

import numpy as np

from flatlens.records.valley import Ints, Valley


def spread(found: Valley, count: int) -> Ints:
    """Positions in ``found.sample`` of at most ``count`` samples, ascending.

    Those that flip, spread evenly over the steps at which they do; where they are too few, others, spread over their
    ids.
    """
    flipped = np.flatnonzero(found.flipped)
    flipped = flipped[np.lexsort((flipped, found.flip_step[flipped]))]
    others = np.flatnonzero(~found.flipped)
    first = _evenly(flipped, count)
    return np.sort(np.concatenate([first, _evenly(others, count - len(first))]))


def _evenly(positions: Ints, count: int) -> Ints:
    if len(positions) <= count:
        return positions
    return positions[np.linspace(0, len(positions) - 1, count).round().astype(np.int64)] if count else positions[:0]
