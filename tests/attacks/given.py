"""Settings of attacks as people give them, of any type: tried in a process of its own, where no annotation is checked.

``python -m tests.attacks.given FOLDER`` prints, for each case, what became of it.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import flatlens as fl
from flatlens.errors import FlatlensError

A = fl.attacks


def signs(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """An attack of somebody's own."""
    x = x.clone().requires_grad_()
    nn.functional.cross_entropy(model(x), y).backward()
    assert x.grad is not None
    return (x + 0.1 * x.grad.sign()).detach().clamp(0, 1)


class Walk:
    """One step, whose settings are numbers of NumPy's."""

    eps, steps, norm = np.float32(0.1), np.int64(1), "linf"

    def __call__(self, victim: Any, batch: Any, rng: Any) -> Iterator[Any]:
        """Yield two passes."""
        yield victim(batch.x, batch.y)
        yield victim(batch.x + float(self.eps), batch.y, final=True)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "norm=2": (lambda: A.PGD(norm=2), "no norm '2'; there are: linf, l2, l1. Did you mean 'l2'?"),
    "norm=None": (lambda: A.PGD(norm=None), "no norm 'None'; there are: linf, l2, l1."),
    "objective=3": (lambda: A.PGD(objective=3), "no objective '3'; there are: ce, dlr, margin."),
    "eps as text": (lambda: A.PGD(eps="8/255"), "eps = '8/255': needs a number above 0, for example 8/255"),
    "eps=None": (lambda: A.PGD(eps=None), "eps = None: needs a number above 0, for example 8/255"),
    "eps as a table": (lambda: A.PGD(eps={"a": 1}), "eps = {'a': 1}: needs a number above 0, for example 8/255"),
    "steps=2.0": (lambda: A.PGD(steps=2.0), "steps = 2.0: needs a whole number of at least 1"),
    "restarts as text": (lambda: A.PGD(restarts="2"), "restarts = 2: needs a whole number of at least 1"),
    "step_size as text": (lambda: A.PGD(step_size="1"), "step_size = 1: needs a number above 0, for example 2/255"),
    "momentum=None": (lambda: A.PGD(momentum=None), "momentum = None: needs a number of at least 0, for example 1"),
    "bim, eps as text": (lambda: A.BIM(eps="0.1"), "eps = '0.1': needs a number above 0, for example 8/255"),
    "bim, eps of two": (
        lambda: A.BIM(eps=[0.1, 0.2]),
        "eps has 2 values, and one step of eps / steps is taken for all; use PGD",
    ),
    "mi-fgsm, no step": (lambda: A.MIFGSM(steps=0), "steps = 0: needs a whole number of at least 1"),
    "apgd, half a target": (lambda: A.APGD(targets=1.5), "targets = 1.5: needs a whole number of at least 0, for"),
    "ddn, step_size": (lambda: A.DDN(step_size="1"), "step_size = 1: needs a number above 0, for example 1"),
    "ddn, gamma": (lambda: A.DDN(gamma=None), "gamma = None: needs a number between 0 and 1, for example 0.05"),
    "square, steps=9.0": (lambda: A.Square(steps=9.0), "steps = 9.0: needs a whole number of at least 1"),
    "advgan, eps=None": (lambda: A.AdvGAN(eps=None), "eps = None: needs a number above 0, for example 8/255"),
    "advgan, eps of two": (lambda: A.AdvGAN(eps=[0.1, 0.1]), "eps has 2 values: advgan's generator learns one radius"),
    "recorded, norm=2": (lambda: A.recorded(signs, norm=2), "no norm '2'; there are: linf, l2, l1. Did you mean 'l2'?"),
    "recorded, eps as text": (lambda: A.recorded(signs, eps="8/255"), "eps = '8/255': needs a number above 0, for"),
    "recorded, seed as text": (lambda: A.recorded(signs, seed="a"), "seed = 'a': needs a whole number of at least 0"),
    "recorded, calls_per_step": (
        lambda: A.recorded(signs, calls_per_step=1.5),
        "calls_per_step = 1.5: needs a whole number, 0 = all at one point",
    ),
}
TAKEN: dict[str, Callable[[], Any]] = {
    "numpy": lambda: A.PGD(np.float32(0.1), steps=np.int64(2), step_size=np.float32(0.05)),
    "torch": lambda: A.PGD(torch.tensor(0.1), steps=2, step_size=torch.tensor(0.05)),
    "momentum": lambda: A.MIFGSM(np.float32(0.1), steps=np.int32(2), momentum=np.float32(1)),
    "restarts": lambda: A.PGD(0.1, steps=2, restarts=np.int64(2), random_start=True, target=np.int64(1)),
    "apgd": lambda: A.APGD(np.float64(0.1), steps=np.int64(2)),
    "ddn": lambda: A.DDN(steps=np.int64(2), step_size=np.float32(1)),
    "square": lambda: A.Square(np.array(0.1), steps=np.int64(3)),
    "advgan": lambda: A.AdvGAN(np.float32(0.1), steps=2, epochs=2),
    "recorded": lambda: A.recorded(signs, eps=np.float32(0.1), seed=np.int64(3)),
    "a generator of one's own": Walk,
}


def said(make: Callable[[], Any]) -> str:
    """The error's line, or what was made."""
    try:
        return repr(make())
    except FlatlensError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def written(make: Callable[[], Any], folder: Path) -> str:
    """``fine``, where a trace of it, saved at its end, has plain numbers and opens again; else what is wrong."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    x, y = torch.rand(6, 1, 4, 4), torch.arange(6) % 3
    try:
        made = fl.trace(model, x, y, attack=make(), controls=["gaussian-noise"], out=folder)
        strange = [key for key in ("eps", "steps") if type(made.spec.get(key)) not in (int, float, type(None))]
        again = fl.open(folder)
        assert (folder / "report.html").is_file() and again.steps.equals(made.steps)
        return f"not plain: {strange}" if strange else "fine"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    found = {name: said(make) for name, (make, _) in REFUSED.items()}
    found |= {name: written(make, Path(sys.argv[1]) / name) for name, make in TAKEN.items()}
    print(json.dumps(found))
