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
    # The middle of each of so many equal parts: the first and the last of all are the least typical.
    return positions[((np.arange(count) + 0.5) * len(positions) / max(count, 1)).astype(np.int64)]
