"""Exact curvature of any layer at every step: against the bare attack, PyHessian, dense Hessians, and how it grows."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from pyhessian import hessian
from torch import Tensor, nn

import flatlens as fl
from flatlens.measure.job import Job
from flatlens.measure.prepare import prepare
from flatlens.specs.settings import Settings
from flatlens.victims.layers import HEAD
from tests.benchmarks.networks import resnet18
from tests.benchmarks.timing import Row, interleaved, medians, ratio

STEPS, BATCH, EPS = 5, 32, 8 / 255
LATE = "10.conv2"  # the last block's second convolution


def rows() -> Iterator[Row]:
    """All rows about layers other than the head."""
    model, x, y = case()
    yield from against_the_attack(model, x, y)
    yield against_pyhessian(model, x, y)
    yield from against_loops(x, y)
    yield from growth(model)


def case(width: int = 32, n: int = BATCH, classes: int = 10) -> tuple[nn.Module, Tensor, Tensor]:
    """A ResNet-18 and random images."""
    g = torch.Generator().manual_seed(1)
    return resnet18(width, classes), torch.rand(n, 3, 32, 32, generator=g), torch.randint(classes, (n,), generator=g)


def attack(job: Job, *, measured: bool, steps: int = STEPS) -> None:
    """A few steps of the attack, with the layers measured or bare; the same graph serves both."""
    batch = job.batch(0)
    for here in fl.attacks.PGD(eps=EPS, steps=steps)(job.victim, batch, None):  # type: ignore[arg-type]
        if measured:
            job.measure(here)


def job(model: nn.Module, x: Tensor, y: Tensor, layers: list[str]) -> Job:
    """Prepared outside the clock."""
    settings = Settings(tuple(layers), batch_size=len(x))
    return prepare(model, x, y, attack=fl.attacks.PGD(eps=EPS, steps=STEPS), settings=settings)


def against_the_attack(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Row]:
    """What a late convolution and all layers cost, in the folded bare attack's time."""
    late, every, bare = (job(model, x, y, layers) for layers in ([LATE], ["all"], [HEAD]))
    seconds = interleaved(
        {
            "late convolution": lambda: attack(late, measured=True),
            "all layers": lambda: attack(every, measured=True),
            "bare": lambda: attack(bare, measured=False),
        }
    )
    detail = medians(seconds)
    yield Row(
        "a late convolution, exact, every step, K = 10, against the bare attack",
        ratio(seconds, "late convolution", "bare"),
        "×",
        "≤ 1.5",
        detail,
    )
    yield Row(
        "all 21 layers, exact, every step, K = 10, against the folded bare attack",
        ratio(seconds, "all layers", "bare"),
        "×",
        "≤ 10",
        detail,
    )


def against_pyhessian(model: nn.Module, x: Tensor, y: Tensor, samples: int = 3, probes: int = 12) -> Row:
    """The per-sample trace of the late convolution at 1 % error, PyHessian's time extrapolated from its variance.

    One probe of PyHessian estimates Tr H of one sample with a relative variance v; a standard error of 1 % takes
    v / 0.01² probes.
    """
    measure = job(model, x, y, [LATE])
    batch = measure.batch(0)

    def exact() -> Tensor:
        return measure.measure(measure.victim(batch.x, batch.y))[LATE].trace

    ours = statistics.median(timed(exact) for _ in range(7)) / len(x)
    truth = exact()
    criterion = nn.CrossEntropyLoss()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name == f"{LATE}.weight")
    needed = []
    for i in range(samples):
        peer = hessian(model, criterion, data=(x[i : i + 1], y[i : i + 1]), cuda=False)
        began = time.perf_counter()
        found = torch.tensor(peer.trace(maxIter=probes, tol=0.0), dtype=torch.float64)
        each = (time.perf_counter() - began) / len(found)
        spread = float(found.var()) / float(truth[i]) ** 2
        needed.append(each * spread / 0.01**2)
        del peer
        model.zero_grad(set_to_none=True)
        gc.collect()  # it leaves a cycle behind that holds the graph
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    theirs = statistics.median(needed)
    detail = f"PyHessian {theirs:.3g} s a sample (from its variance over {probes} probes), flatlens {ours:.3g} s"
    return Row(
        "per-sample trace at 1 % error, against PyHessian (extrapolated)", theirs / ours, "× faster", "≥ 1000", detail
    )


def against_loops(x: Tensor, y: Tensor) -> Iterator[Row]:
    """The head against a loop over single samples with the closed form, and a small layer against its dense Hessian."""
    model, x, y = case()

    def loop() -> None:
        for i in range(len(x)):
            fl.curvature(model, x[i : i + 1], y[i : i + 1])

    seconds = interleaved({"batched": lambda: fl.curvature(model, x, y), "one at a time": loop}, runs=3)
    yield Row(
        "the head of 32 samples: one at a time, against batched",
        ratio(seconds, "one at a time", "batched"),
        "×",
        "> 1",
        medians(seconds),
    )

    small = nn.Sequential(
        nn.Flatten(), nn.Linear(192, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 10)
    ).eval()
    inputs = nn.functional.avg_pool2d(x, 4)

    def dense() -> None:
        weight = small[3].weight.detach()
        hidden = small[:3](inputs).detach()

        def loss(w: Tensor, a: Tensor, label: Tensor) -> Tensor:
            return nn.functional.cross_entropy(small[4:](a @ w.T + small[3].bias), label)

        torch.func.vmap(torch.func.hessian(loss), in_dims=(None, 0, 0))(weight, hidden, y)

    seconds = interleaved({"flatlens": lambda: fl.curvature(small, inputs, y, layer="3"), "dense": dense})
    yield Row(
        "a 16 × 24 layer: its dense Hessian, against flatlens",
        ratio(seconds, "dense", "flatlens"),
        "×",
        "> 1",
        medians(seconds),
    )


def growth(model: nn.Module) -> Iterator[Row]:
    """How the time grows when one thing doubles (classes: from 10 to 20)."""
    base, x, y = case(16, 16)
    wide, _, _ = case(16, 16, 20)
    reference = job(base, x, y, [LATE])
    twice = job(base, torch.cat([x, x]), torch.cat([y, y]), [LATE])
    pair = job(base, x, y, [LATE, "10.conv1"])
    classes = job(wide, x, y, [LATE])
    work: dict[str, Callable[[], None]] = {
        "reference": lambda: attack(reference, measured=True),
        "samples": lambda: attack(twice, measured=True),
        "steps": lambda: attack(reference, measured=True, steps=2 * STEPS),
        "layers": lambda: attack(pair, measured=True),
        "classes": lambda: attack(classes, measured=True),
    }
    seconds = interleaved(work, runs=5)
    for name, goal in (("samples", "≤ 2.2"), ("steps", "≤ 2.2"), ("layers", "≤ 2"), ("classes", "≤ 2.2")):
        yield Row(
            f"twice the {name}, late convolution at width 16",
            ratio(seconds, name, "reference"),
            "×",
            goal,
            medians(seconds),
        )


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
