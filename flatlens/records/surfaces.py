"""`Surfaces`: κ and the loss of a few samples on planes of inputs and of weights (docs/run-folder.md). No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flatlens.errors import RunError
from flatlens.files.borders import DamageError

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

MOMENTS = ("clean", "flip", "end")
"""The points around which the weight is varied."""
WAYS = ("attack", "line-to-other-class")
"""The paths whose iterates are projected, by their code in the file."""
OF_CLASS, OF_ANOTHER, NOISE = 0, 1, 2
"""What an input plane's third point is: a clean input of the class that the end is predicted as, a clean input of some
other class than the sample's, or no input."""
TO_CLEAN, TO_END, SECOND_EIGENVECTOR = 0, 2, -1
"""Where a weight plane's second direction leads."""
MOST_SAMPLES, MOST_POINTS = 1_000, 1_001
"""Of a file, and along an axis."""


class Corners(NamedTuple):
    """The clean input, the attack's end and the third point, in this order: ``at`` ``[3, 2]``, the others ``[3]``."""

    at: Floats
    kappa: Floats
    loss: Floats
    prediction: Ints


class Third(NamedTuple):
    """The third point: its kind, its index in the data and its label (−1 for no input), and itself ``[…]``."""

    kind: int
    sample: int
    label: int
    x: NDArray[np.float32]


class Way(NamedTuple):
    """A path's iterates beside a plane.

    ``step`` ``[r]``; ``at``, ``(u, v)`` of the nearest point of the plane, ``[r, 2]``; ``off``, the l2 distance from
    the plane, ``[r]``.
    """

    step: Ints
    at: Floats
    off: Floats


class InputPlane(NamedTuple):
    """Κ, loss and prediction ``[v, u]`` at clean + u·e₁ + v·e₂; the axes are lengths in units of the input."""

    u: Floats
    v: Floats
    kappa: Floats
    loss: Floats
    prediction: Ints
    corners: Corners
    third: Third
    ways: Mapping[str, Way]


class WeightPlane(NamedTuple):
    """Κ and loss ``[t, s]`` at W + s·U + t·D: U the first eigenvector, D towards ``toward``, ‖D‖ = ``length``."""

    moment: str
    step: int
    toward: int
    s: Floats
    t: Floats
    kappa: Floats
    loss: Floats
    length: float


class SampleSurfaces(NamedTuple):
    """One sample's planes.

    ``weights`` has one for each of clean, flip and end that there is, and is empty where the layer is not the head.
    """

    sample: int
    input: InputPlane
    weights: tuple[WeightPlane, ...]


@dataclass(frozen=True)
class Surfaces:
    """The surfaces of a few samples of a trace, of its first layer.

    Attributes:
        tensors: as in ``surfaces.safetensors``.
    """

    tensors: Mapping[str, NDArray[Any]]

    @property
    def sample(self) -> NDArray[np.int64]:
        """The samples' ids, ``[m]``, ascending."""
        return self.tensors["sample"]

    def __len__(self) -> int:
        return len(self.sample)

    def __iter__(self) -> Iterator[SampleSurfaces]:
        return (self._at(i) for i in range(len(self)))

    def of(self, sample: int) -> SampleSurfaces:
        """The surfaces of one sample.

        Raises:
            RunError: it has none; the message names those that have.
        """
        found = np.flatnonzero(self.sample == sample)
        if not len(found):
            raise RunError(f"there is no surface of sample {sample}; those that have one: {self.sample.tolist()}")
        return self._at(int(found[0]))

    def _at(self, i: int) -> SampleSurfaces:
        held = self.tensors
        corners = Corners(*(held[f"corner_{name}"][i] for name in Corners._fields))
        third = Third(
            int(held["third_kind"][i]), int(held["third_sample"][i]), int(held["third_label"][i]), held["third_x"][i]
        )
        first, last = np.searchsorted(held["way_row"], [i, i + 1])
        part = slice(first, last)
        ways = {}
        for code, name in enumerate(WAYS):
            among = held["way_path"][part] == code
            if among.any():
                ways[name] = Way(*(held[f"way_{field}"][part][among] for field in Way._fields))
        plane = InputPlane(
            **{name: held[name][i] for name in ("u", "v", "kappa", "loss", "prediction")},
            corners=corners, third=third, ways=ways,
        )  # fmt: skip
        return SampleSurfaces(int(self.sample[i]), plane, tuple(self._weights(i)))

    def _weights(self, i: int) -> Iterator[WeightPlane]:
        if "weight_step" not in self.tensors:
            return
        held = {name: self.tensors[f"weight_{name}"][i] for name in WeightPlane._fields[1:]}
        for k, moment in enumerate(MOMENTS):
            if held["step"][k] >= 0:
                yield WeightPlane(
                    moment=moment,
                    step=int(held["step"][k]),
                    toward=int(held["toward"][k]),
                    length=float(held["length"][k]),
                    **{name: held[name][k] for name in ("s", "t", "kappa", "loss")},
                )


# ---- the file ---------------------------------------------------------------------------------------

_F, _I, _L = "F64", "I32", "I64"
LAYOUT: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "sample": (_L, ("m",)),
    "u": (_F, ("m", "G")),
    "v": (_F, ("m", "G")),
    "kappa": (_F, ("m", "G", "G")),
    "loss": (_F, ("m", "G", "G")),
    "prediction": (_I, ("m", "G", "G")),
    "corner_at": (_F, ("m", 3, 2)),
    "corner_kappa": (_F, ("m", 3)),
    "corner_loss": (_F, ("m", 3)),
    "corner_prediction": (_I, ("m", 3)),
    "third_kind": (_I, ("m",)),
    "third_sample": (_L, ("m",)),
    "third_label": (_I, ("m",)),
    "third_x": ("F32", ("m", "…")),
    "way_row": (_I, ("r",)),
    "way_path": (_I, ("r",)),
    "way_step": (_I, ("r",)),
    "way_at": (_F, ("r", 2)),
    "way_off": (_F, ("r",)),
}
WEIGHT_LAYOUT: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "weight_step": (_I, ("m", 3)),
    "weight_toward": (_I, ("m", 3)),
    "weight_s": (_F, ("m", 3, "P")),
    "weight_t": (_F, ("m", 3, "P")),
    "weight_kappa": (_F, ("m", 3, "P", "P")),
    "weight_loss": (_F, ("m", 3, "P", "P")),
    "weight_length": (_F, ("m", 3)),
}
"""The tensors of the file: their types, and their shapes, in which a letter is the same number everywhere."""


def check_shapes(slices: Mapping[str, Any]) -> None:
    """The tensors of a file of surfaces, before they are read: which there are, their types and shapes.

    Raises:
        DamageError: they are not those that flatlens writes.
    """
    wanted = LAYOUT | (WEIGHT_LAYOUT if any(name.startswith("weight_") for name in slices) else {})
    sizes: dict[str, int] = {}
    for name, (kind, shape) in wanted.items():
        if name not in slices:
            raise DamageError(f"surfaces.safetensors has no '{name}'")
        if slices[name].get_dtype() != kind:
            raise DamageError(f"'{name}' of surfaces.safetensors is of type {slices[name].get_dtype()}")
        found = tuple(slices[name].get_shape())
        fixed = shape[:-1] if shape[-1] == "…" else shape
        open_ended = len(fixed) < len(shape)
        fits = len(found) >= len(fixed) if open_ended else len(found) == len(fixed)
        fits = fits and all(
            there == (want if isinstance(want, int) else sizes.setdefault(want, there))
            for want, there in zip(fixed, found, strict=False)
        )
        if not fits:
            raise DamageError(f"'{name}' of surfaces.safetensors has the shape {found}")
    if sizes["m"] > MOST_SAMPLES or max(sizes["G"], sizes.get("P", 0)) > MOST_POINTS:
        raise DamageError(f"surfaces.safetensors is of {sizes['m']:,} samples and {sizes['G']:,} points along an axis")


def check_values(tensors: Mapping[str, NDArray[Any]]) -> None:
    """What indexes and axes of the file must be; κ and losses may be anything.

    Raises:
        DamageError: they are something else.
    """
    m = len(tensors["sample"])

    def within(name: str, low: int, high: int) -> bool:
        values = tensors[name]
        return bool(((values >= low) & (values <= high)).all())

    wrong = [
        name
        for name, low, high in (
            ("third_kind", 0, 2),
            ("third_sample", -1, 2**62),
            ("third_label", -1, 2**31 - 1),
            ("prediction", 0, 2**31 - 1),
            ("corner_prediction", 0, 2**31 - 1),
            ("way_row", 0, m - 1),
            ("way_path", 0, len(WAYS) - 1),
            ("way_step", 0, 2**31 - 1),
        )
        if not within(name, low, high)
    ]
    wrong += [name for name in ("sample",) if not (np.diff(tensors[name]) > 0).all()]
    wrong += [name for name in ("way_row",) if not (np.diff(tensors[name]) >= 0).all()]
    wrong += [name for name in ("u", "v") if not _is_axis(tensors[name])]
    wrong += [name for name in ("corner_at", "way_at", "way_off", "third_x") if not np.isfinite(tensors[name]).all()]
    if "weight_step" in tensors:
        wrong += [name for name in ("weight_step", "weight_toward") if not within(name, -1, 2**31 - 1)]
        there = tensors["weight_step"] >= 0
        wrong += [name for name in ("weight_s", "weight_t") if not _is_axis(tensors[name][there])]
        wrong += [] if np.isfinite(tensors["weight_length"][there]).all() else ["weight_length"]
    if wrong:
        raise DamageError(f"'{wrong[0]}' of surfaces.safetensors holds numbers that cannot be")


def _is_axis(values: Floats) -> bool:
    return bool(np.isfinite(values).all() and (np.diff(values, axis=-1) > 0).all())
