"""What Python users hand over, in the forms that they have it in: models, data, attacks, names of layers."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flatlens import attacks, datasets, models
from flatlens.attacks import libraries
from flatlens.attacks.gradient import PGD
from flatlens.attacks.points import from_file
from flatlens.attacks.protocol import Attack, Recorder, stated
from flatlens.attacks.recording import recorded
from flatlens.errors import AttackError, DataError, FlatlensError, ModelError, SpecError, one_line
from flatlens.models import OBJECT, normalized
from flatlens.specs.catalogue import TEXT_ATTACKS
from flatlens.specs.run import RunSpec
from flatlens.specs.uris import parse
from flatlens.specs.values import shortened


class Samples(NamedTuple):
    """Inputs ``[n, …]`` and labels ``[n]``, how they are called in results, and the names of the classes."""

    x: Tensor
    y: Tensor
    name: str
    labels: tuple[str, ...] | None = None


def samples(x: Any, y: Any = None) -> Samples:
    """Inputs and labels as tensors.

    Args:
        x: a tensor, an array, or what converts to one; or, with no ``y``, a ``DataLoader``, a ``Dataset``, any
            iterable of batches ``(x, y)``, Hugging Face's ``datasets`` with columns ``image`` and ``label``, or the
            name of data such as ``flatlens:digits``.
        y: labels.

    Raises:
        DataError: neither.
    """
    if isinstance(x, str):
        if y is not None:
            raise DataError(f"'{x}' names data, which have labels of their own; leave y out")
        data = datasets.load(x)
        return Samples(torch.from_numpy(data.x), torch.from_numpy(data.y), x, data.labels)
    if y is None:
        if isinstance(x, (Tensor, np.ndarray)):
            raise DataError("y is missing: give the labels [n] of these inputs, or a DataLoader, which has them")
        xs, ys = _joined(x)
        return Samples(xs, ys, f"{OBJECT}:{len(xs)} samples")
    xs = _tensor(x, "inputs")
    return Samples(xs, _tensor(y, "labels"), f"{OBJECT}:{len(xs) if xs.dim() else 0} samples")


def _tensor(values: Any, what: str) -> Tensor:
    first = values[0] if isinstance(values, (list, tuple)) and values else values
    try:
        if isinstance(values, Tensor):
            found = values
        elif isinstance(first, Tensor):
            found = torch.stack(list(values))
        elif hasattr(first, "__array__"):  # of NumPy, pandas
            found = torch.from_numpy(_plain_array(values))
        else:
            found = torch.as_tensor(values)
    except Exception as error:
        raise DataError(
            f"{what} of type {type(values).__name__} cannot be read as numbers ({one_line(error)}); "
            "give a tensor or an array"
        ) from error
    if found.is_meta:
        raise DataError(f"{what} are on the meta device, where nothing has a value; give those that are attacked")
    if found.layout != torch.strided:
        raise DataError(f"{what} are sparse; give a dense tensor: .to_dense()")
    return found.clone() if found.is_inference() else found


def _plain_array(given: Any) -> NDArray[Any]:
    """The same numbers as torch takes them: in this machine's byte order, of a type of its own, and writeable."""
    values = np.asarray(given)
    if values.dtype.kind not in "biufc":
        raise TypeError(f"its values are {'text' if values.dtype.kind in 'SU' else values.dtype}")
    if np.ma.is_masked(given):
        raise TypeError("some of its values are masked")
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:
        values = values.astype(np.float64)
    if values.dtype.kind == "u" and values.dtype.itemsize > 1:  # torch hardly computes in these
        values = values.astype(np.int64)
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    forward = all(stride >= 0 for stride in values.strides)  # not so of x[::-1]
    return values if forward and values.flags.writeable else values.copy()


def _joined(batches: Any) -> tuple[Tensor, Tensor]:
    """All of what yields ``(x, y)``: batches of a loader, or single samples of a dataset."""
    single = isinstance(batches, torch.utils.data.Dataset) and not isinstance(batches, torch.utils.data.IterableDataset)
    if isinstance(batches, Mapping) or hasattr(batches, "iloc") or not (single or isinstance(batches, Iterable)):
        held = f" with {', '.join(map(str, list(batches)[:8]))}" if isinstance(batches, Mapping) and batches else ""
        raise DataError(
            f"a {type(batches).__name__}{held} is no data; give inputs x and labels y apart, or a DataLoader of "
            "batches (x, y)"
        )
    xs, ys = [], []
    for batch in _each(batches, single=single):
        if isinstance(batch, Mapping):  # a row of Hugging Face's datasets, or a batch of a loader over them
            batch = _of_columns(batch)
        if not isinstance(batch, (list, tuple)) or len(batch) < 2:
            raise DataError(
                f"the data yield a {type(batch).__name__}; pairs (x, y) of inputs and labels are needed, or both apart"
            )
        inputs, labels = _tensor(batch[0], "inputs"), _tensor(batch[1], "labels")
        one = single or not labels.dim()
        xs.append(inputs[None] if one else inputs)
        ys.append(labels.reshape(1) if one else labels)
    if not xs:
        raise DataError("the data yield nothing; give at least one batch (x, y)")
    try:
        return torch.cat([part.detach().cpu() for part in xs]), torch.cat([part.detach().cpu() for part in ys])
    except RuntimeError as error:
        raise DataError(f"the batches differ in shape ({tuple(xs[0].shape)}, …); all samples need the same") from error


def _each(batches: Any, *, single: bool) -> Iterator[Any]:
    """What a loader or a dataset yields; an error of its own as one line that says where."""
    done = 0
    try:
        for batch in (batches[i] for i in range(len(batches))) if single else batches:
            yield batch
            done += 1
    except (FlatlensError, MemoryError):
        raise
    except Exception as error:
        raise DataError(
            f"the {type(batches).__name__} fails after {done} {'samples' if single else 'batches'}: "
            f"{one_line(error, kind=True)}"
        ) from error


_IMAGES, _LABELS = ("image", "img", "pixel_values", "x"), ("label", "labels", "y")
"""What columns of images and labels are called, the usual name first."""


def _of_columns(row: Mapping[str, Any]) -> tuple[Any, Any]:
    """The image and the label of a row; an image of Pillow as ``[C, H, W]`` in [0, 1]."""
    names = [next((name for name in known if name in row), None) for known in (_IMAGES, _LABELS)]
    if None in names:
        raise DataError(
            f"the data have the columns {', '.join(map(str, row))}; an image ({', '.join(_IMAGES)}) and a label "
            f"({', '.join(_LABELS)}) are needed: rename_column gives them these names"
        )
    image, label = (row[str(name)] for name in names)
    if hasattr(image, "getbands"):
        pixels = np.array(image)
        if pixels.dtype != np.uint8 or image.mode in ("P", "PA"):  # places in a palette are no colours
            raise DataError(f"an image has the mode {image.mode}; convert it to RGB or L, of 8 bits a channel")
        image = torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).movedim(-1, 0).float() / 255
    return image, label


def model(value: Any, data: Samples, normalize: Any = None) -> tuple[nn.Module, str]:
    """A model, or the one that a name stands for, with the normalisation asked for; and how it is called in results.

    Raises:
        ModelError: no model, or a normalisation that cannot be.
    """
    if isinstance(value, str):
        classes = len(data.labels) if data.labels else max(2, int(data.y.max()) + 1)
        name, made = value, models.load(value, shape=tuple(data.x.shape[1:]), classes=classes).model
    elif isinstance(value, nn.Module):
        name, made = f"{OBJECT}:{type(value).__name__}", value
    else:
        what = "a class" if isinstance(value, type) else f"a {type(value).__name__}"
        raise ModelError(f"the model is {what}; give a torch.nn.Module, made and in eval mode, or the name of one")
    if normalize is None:
        return made, name
    made = normalized.normalized(made, *normalized.pair(normalize), tuple(data.x.shape[1:]))
    return made, name


def attack(value: Any, model: nn.Module, seed: int) -> Attack:
    """An attack of flatlens as it is; the one of a name; anybody else's, recorded.

    Raises:
        AttackError: no attack.
        SpecError: a name of none.
    """
    if value is None:
        return stated(PGD())
    if isinstance(value, str):
        return stated(_named(value, model, seed))
    if _is_own(value):
        made = stated(value)
        if made.name in TEXT_ATTACKS:
            raise AttackError(f"the attack {made.name} is of language models; give it to fl.trace_text")
        return made
    if isinstance(value, type):
        raise AttackError(f"'{value.__name__}' is a class; make an attack of it: {value.__name__}(…)")
    return stated(recorded(value))


def _named(name: str, model: nn.Module, seed: int) -> Any:
    spec = RunSpec(model=OBJECT, data=OBJECT, attack=name)  # which says what is wrong with a name
    if not spec.foreign:
        return attacks.find(spec.attack)()
    uri = parse(name, AttackError)
    if uri.scheme == "path":
        uri.only(())
        return from_file(uri.file)
    built, eps = libraries.build(uri, model, seed=seed)
    return recorded(built, eps=eps, seed=seed)


def _is_own(value: Any) -> bool:
    """Whether it walks by itself: ``attack(victim, batch, rng)`` that yields, or one that records."""
    if isinstance(value, Recorder) or type(value).__module__.startswith("flatlens."):
        return True
    if isinstance(value, type) or not callable(value):
        return False
    call = value if inspect.isfunction(value) or inspect.ismethod(value) else type(value).__call__
    if inspect.isgeneratorfunction(call):
        return True
    try:
        names = list(inspect.signature(value).parameters)
    except (TypeError, ValueError):
        return False
    return names[:2] == ["victim", "batch"]


def names(key: str, value: Any, other: Any, default: Sequence[str]) -> tuple[str, ...]:
    """``layers`` or ``controls`` of a call, by either of two spellings; a text stands for a list of one.

    Raises:
        SpecError: both are given, and differ; or one holds something else than names.
    """
    given = [_listed(key, one) for one in (value, other) if one is not None]
    if len(given) == 2 and given[0] != given[1]:
        raise SpecError(f"{key}={list(given[1])} and {key}s={list(given[0])} are the same setting and differ; give one")
    return given[0] if given else tuple(default)


def _listed(key: str, value: Any) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (value,)
    for one in found:
        if not isinstance(one, str):
            shown, name = shortened(" ".join(repr(value).split())), "head" if key == "layer" else "line-to-end"
            raise SpecError(f"{key}s={shown}: needs names, for example {key}s=['{name}']")
    return found


def device(value: Any) -> str | None:
    """A device by its name, whichever way it is given."""
    return None if value is None else str(value)


def dtype(value: Any) -> str | None:
    """A dtype by its name: ``torch.float64`` is ``float64``."""
    return None if value is None else str(value).removeprefix("torch.")


def labels(value: Sequence[str] | None, classes: int) -> tuple[str, ...] | None:
    """Names of the classes.

    Raises:
        DataError: not one for each class.
    """
    if value is None:
        return None
    names = tuple(map(str, value))
    if len(names) != classes:
        raise DataError(f"labels has {len(names)} names for {classes} classes; give one for each class, in order")
    return names
