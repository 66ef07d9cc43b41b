"""Two tasks on the same features, whose columns are of different sizes for each."""

from __future__ import annotations

import numpy as np


def pair(d=6, n=120, seed=0):
    """((x, y), (x, y)): a useful task whose features shrink to 1 %, and a harmful one that is otherwise rotated."""
    rng = np.random.default_rng(seed)
    tasks = []
    for spread in (2.0, 1.0):
        q = np.linalg.qr(rng.normal(size=(d, d)))[0]
        x = rng.normal(size=(n, d)) * np.logspace(0, -spread, d) @ q
        tasks.append((x, x @ rng.normal(size=d) + 0.1 * rng.normal(size=n)))
    return tasks[0], tasks[1]
