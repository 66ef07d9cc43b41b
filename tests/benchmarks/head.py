"""The head traced at every step, against bare attacks; memory against steps; start-up."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import foolbox
import torch
import torchattacks
from foolbox.attacks import LinfProjectedGradientDescentAttack
from torch import Tensor

import flatlens as fl
from flatlens.measure.prepare import prepare
from flatlens.specs.settings import Settings
from tests.benchmarks.networks import resnet18
from tests.benchmarks.timing import Row, apart, medians, ratio, subprocess_json

STEPS, BATCH, EPS = 40, 32, 8 / 255


def rows() -> Iterator[Row]:
    """All rows about the head."""
    yield from against_others()
    yield from memory()
    yield start_up()


def variant(name: str) -> Callable[[], object]:
    """PGD-40 on a ResNet-18 of width 32, batch 32: traced, bare, or by another library, final evaluation included.

    The labels are what the model predicts, as an attack begins where a model is right.
    """
    model = resnet18(32)
    x = torch.rand(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = model(x).argmax(1)
    step = 2.5 * EPS / STEPS
    attack = fl.attacks.PGD(eps=EPS, steps=STEPS, step_size=step)

    def evaluate(advs: Tensor) -> None:
        with torch.no_grad():
            model(advs).argmax(1)

    def traced() -> None:
        fl.trace(model, x, y, attack=attack, batch_size=BATCH)

    def bare() -> None:
        job = prepare(model, x, y, attack=attack, settings=Settings(batch_size=BATCH))
        for here in job.attack.own(job.victim, job.batch(0), None):
            last = here
        evaluate(last.x.detach())

    theirs = torchattacks.PGD(model, eps=EPS, alpha=step, steps=STEPS, random_start=False)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    boxed = LinfProjectedGradientDescentAttack(abs_stepsize=step, steps=STEPS, random_start=False)
    return {
        "traced": traced,
        "bare": bare,
        "torchattacks": lambda: evaluate(theirs(x, y)),
        "foolbox": lambda: evaluate(boxed.run(wrapped, x, foolbox.criteria.Misclassification(y), epsilon=EPS)),
    }[name]


def against_others() -> Iterator[Row]:
    """What tracing costs, and what the libraries' bare attacks cost."""
    seconds = apart(__name__, ("traced", "bare", "torchattacks", "foolbox"))
    best = min(("torchattacks", "foolbox"), key=lambda name: statistics.median(seconds[name]))
    detail = medians(seconds)
    yield Row(
        f"PGD-{STEPS} with the head traced, against {best}'s bare PGD (the faster)",
        ratio(seconds, "traced", best),
        "×",
        "≤ 0.72",
        detail,
    )
    yield Row(
        f"PGD-{STEPS} with the head traced, against our own bare attack",
        ratio(seconds, "traced", "bare"),
        "×",
        "≤ 1.02",
        detail,
    )


MEMORY = """
import json, resource, sys, torch, flatlens as fl
from tests.benchmarks.networks import resnet18
torch.set_num_threads(2)
x, y = torch.rand(64, 3, 32, 32), torch.randint(10, (64,))
fl.trace(resnet18(32), x, y, attack=fl.attacks.PGD(steps={steps}), batch_size={batch})
print(json.dumps({{"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}}))
"""


def memory() -> Iterator[Row]:
    """Peak resident memory of whole processes."""
    few, many = (subprocess_json(MEMORY.format(steps=n, batch=32))["peak"] for n in (10, 100))
    yield Row("peak memory at 100 steps, against 10", many / few, "×", "≤ 1.1", f"{many:.0f} MiB, {few:.0f} MiB")
    small = subprocess_json(MEMORY.format(steps=10, batch=8))["peak"]
    yield Row("peak memory at batch 8, against batch 32", small / few, "×", "< 1", f"{small:.0f} MiB, {few:.0f} MiB")


def start_up() -> Row:
    """`flatlens --help` as a whole process."""
    seconds = []
    for _ in range(7):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "flatlens", "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - began)
    return Row(
        "flatlens --help", statistics.median(seconds), "s", "< 0.5", f"{min(seconds):.2f} … {max(seconds):.2f} s"
    )
