"""`Settings`: how a run is measured, whatever it is of. Command line, files and Python meet here, checked once."""

from __future__ import annotations

import contextlib
import math
import operator
from dataclasses import dataclass
from typing import Any

from flatlens.errors import SpecError, unknown
from flatlens.specs.catalogue import ALL_CONTROLS, CONTROLS
from flatlens.specs.values import number, typed

IMAGES = ("none", "key", "all")


DTYPES = ("float32", "float64")


LEAST_PROBES = 8


def demand_probes(count: int) -> None:
    """Raise SpecError for fewer random probes than give an interval."""
    if count < LEAST_PROBES:
        raise SpecError(f"--probes {count}: needs at least {LEAST_PROBES}; fewer give no usable standard error")


def all_controls(names: tuple[str, ...]) -> tuple[str, ...]:
    """The controls that are meant: all of them for ``all``.

    Raises:
        SpecError: there is none of a name.
    """
    for name in names:
        if name not in CONTROLS and name != ALL_CONTROLS:
            raise SpecError(unknown("control", name, [*CONTROLS, ALL_CONTROLS], where="there are"))
    return tuple(CONTROLS) if ALL_CONTROLS in names else tuple(names)


def read_bounds(value: Any) -> tuple[float, float]:
    """The range of valid inputs: ``(0, 255)``, or as a text ``0,255``.

    Raises:
        SpecError: not two numbers, the smaller first.
    """
    items = value.strip().strip("[]()").split(",") if isinstance(value, str) else value
    read: list[float] = []
    with contextlib.suppress(TypeError, SpecError):
        read += [number(i.strip()) if isinstance(i, str) else typed("bounds", i, (int, float), float) for i in items]
    low, high = read if len(read) == 2 else (1.0, 0.0)
    if not (low < high and math.isfinite(high - low)):
        shown = value if isinstance(value, str) else read or repr(value)
        raise SpecError(f"--bounds {shown}: needs two numbers, the smaller first, for example 0,1")
    return low, high


@dataclass(frozen=True)
class Settings:
    """What is measured, and how, whatever the model, the data and the attack.

    Attributes:
        layer: names as in ``model.named_modules()``, ``head``, ``all``, ``last:N`` or globs.
        control: names of the paths that are walked beside the attack.
        probes: random probes for what is not exact, at least 8.
        batch_size: samples at a time; what fits into memory when None.
        seed: of all noise.
        device: where to compute; ``auto`` is the best that there is, None where the model is.
        dtype: ``float32`` or ``float64``; the model's own when None.
        images: which inputs to keep: ``none``, ``key`` or ``all``.
        bounds: the range of valid inputs.
        only_correct: leave out samples that are wrong before the attack.
        dead_units: count the ReLU units that pass no gradient.
        surface: also κ and the loss of a few samples on planes of inputs and of weights.
        worst_case: also how many samples the worst of several attacks leaves, and whether gradients are masked.
        condition: also the condition number of a linear probe on the head's features at each step, of all samples
            together, with this ridge; 0 for none, None to leave it out.

    Raises:
        SpecError: a value cannot be; the message names it as the command line does (`flatlens.wording.python_words`).
    """

    layer: tuple[str, ...] = ("head",)
    control: tuple[str, ...] = ()
    probes: int = 16
    batch_size: int | None = None
    seed: int = 0
    device: str | None = None
    dtype: str | None = None
    images: str = "key"
    bounds: tuple[float, float] = (0.0, 1.0)
    only_correct: bool = False
    dead_units: bool = False
    surface: bool = False
    worst_case: bool = False
    condition: float | None = None

    def __post_init__(self) -> None:
        for key in ("probes", "batch_size", "seed"):
            value = getattr(self, key)
            if value is not None or key != "batch_size":
                # A whole number of NumPy's is one.
                index = value if isinstance(value, bool) or not hasattr(value, "__index__") else operator.index(value)
                self._put(key, typed(key, index, int, int))
        if self.batch_size is not None and self.batch_size < 1:
            raise SpecError(f"--batch-size {self.batch_size}: needs a whole number of at least 1")
        demand_probes(self.probes)
        if self.seed < 0:
            raise SpecError(f"--seed {self.seed}: needs a whole number of at least 0")
        if not self.layer:
            raise SpecError("--layer []: needs at least one name, for example head")
        self._put("control", all_controls(tuple(self.control)))
        self._put("bounds", read_bounds(self.bounds))
        for key, known in (("images", IMAGES), ("dtype", DTYPES)):
            value = getattr(self, key)
            if value not in known and not (value is None and key == "dtype"):
                raise SpecError(unknown(key, str(value), known, where="there are"))
        for key in ("only_correct", "dead_units", "surface", "worst_case"):
            typed(key, getattr(self, key), bool, bool)

        if self.condition is not None and not 0 <= typed("condition", self.condition, (int, float), float) < math.inf:
            raise SpecError(f"--condition {self.condition:g}: needs a ridge of at least 0, for example 0.01")

    def _put(self, key: str, value: Any) -> None:
        object.__setattr__(self, key, value)
