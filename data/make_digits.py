"""Make flatlens/shipped/digits.npz from scikit-learn's copy of the UCI digits: python data/make_digits.py

Needs scikit-learn; nothing else in flatlens does. The split is stratified and fixed by its seed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

SEED = 0
TEST = 450
FILE = Path(__file__).resolve().parents[1] / "flatlens" / "shipped" / "digits.npz"
SOURCE = (
    "E. Alpaydin and C. Kaynak (1998): Optical Recognition of Handwritten Digits, test part, "
    "UCI Machine Learning Repository, doi:10.24432/C50P49; taken from scikit-learn's load_digits()"
)
LICENCE = "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/"


def stratified(y: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Sorted indices of ``count`` samples, each class in proportion (largest remainders first)."""
    rng = np.random.default_rng(seed)
    wanted = np.bincount(y) * (count / len(y))
    take = np.floor(wanted).astype(int)
    short = count - int(take.sum())
    take[np.argsort(take - wanted, kind="stable")[:short]] += 1
    chosen = [rng.permutation(np.flatnonzero(y == label))[:some] for label, some in enumerate(take)]
    return np.sort(np.concatenate(chosen))


def main() -> None:
    digits = load_digits()
    x, y = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    assert np.array_equal(x, digits.images) and x.max() == 16
    test = stratified(y, TEST, SEED)
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, x=x, y=y, test=test.astype(np.uint16), source=SOURCE, licence=LICENCE)
    print(f"{FILE.name}: {len(y) - len(test)} + {len(test)} digits, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
