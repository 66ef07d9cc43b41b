"""The head traced at every step, against bare attacks; memory against steps; start-up."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import foolbox
import torch
import torchattacks
from foolbox.attacks import LinfProjectedGradientDescentAttack

import flatlens as fl
from flatlens.job import prepare
from tests.benchmarks.networks import resnet18
from tests.benchmarks.timing import Row, interleaved, medians, ratio, subprocess_json

STEPS, BATCH, EPS = 40, 32, 8 / 255


def rows() -> Iterator[Row]:
    """All rows about the head."""
    yield from against_others()
    yield from memory()
    yield start_up()


def against_others() -> Iterator[Row]:
    """ResNet-18 of width 32, batch 32: what tracing costs, and what the libraries' bare attacks cost."""
    model = resnet18(32)
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(BATCH, 3, 32, 32, generator=generator), torch.randint(10, (BATCH,), generator=generator)
    step = 2.5 * EPS / STEPS
    attack = fl.attacks.PGD(eps=EPS, steps=STEPS, step_size=step)
    theirs = torchattacks.PGD(model, eps=EPS, alpha=step, steps=STEPS, random_start=False)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    boxed = LinfProjectedGradientDescentAttack(abs_stepsize=step, steps=STEPS, random_start=False)

    def run_torchattacks() -> None:
        advs = theirs(x, y)
        with torch.no_grad():
            model(advs).argmax(1)

    def run_foolbox() -> None:
        advs = boxed.run(wrapped, x, foolbox.criteria.Misclassification(y), epsilon=EPS)
        with torch.no_grad():
            model(advs).argmax(1)

    def bare() -> None:
        job = prepare(model, x, y, attack=attack, batch_size=BATCH)
        for here in job.attack(job.victim, job.batch(0), None):  # type: ignore[arg-type]
            last = here
        job._predict(last.x.detach())

    def traced() -> None:
        fl.trace(model, x, y, attack=attack, batch_size=BATCH)

    seconds = interleaved({"traced": traced, "bare": bare, "torchattacks": run_torchattacks, "foolbox": run_foolbox})
    best = min(("torchattacks", "foolbox"), key=lambda name: statistics.median(seconds[name]))
    detail = medians(seconds)
    yield Row(
        f"PGD-{STEPS} with the head traced, against {best}'s bare PGD (the faster)",
        ratio(seconds, "traced", best),
        "×",
        "≤ 0.75",
        detail,
    )
    yield Row(
        f"PGD-{STEPS} with the head traced, against our own bare attack",
        ratio(seconds, "traced", "bare"),
        "×",
        "≤ 1.03",
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
