"""On a GPU: what is measured is what the CPU measures, the same numbers each time; `make test-gpu`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import flatlens as fl
from flatlens import datasets, models
from flatlens.measure.run import run
from flatlens.progress import Progress
from flatlens.specs.run import RunSpec
from flatlens.training import fit, inner
from tests.language import tiny
from tests.oracles import truth

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore::flatlens.CautionWarning"),  # what is told of a trace is not the subject
]

N = 24
DOUBLE = torch.float64
ATTACKS = {
    "fgsm": fl.attacks.FGSM(eps=0.2),
    "bim": fl.attacks.BIM(eps=0.2, steps=5),
    "mi-fgsm": fl.attacks.MIFGSM(eps=0.2, steps=5),
    "pgd": fl.attacks.PGD(eps=0.2, steps=6),
    "pgd-random-start": fl.attacks.PGD(eps=0.2, steps=6, random_start=True),
    "pgd-l2": fl.attacks.PGD(eps=1.0, steps=6, norm="l2"),
    "pgd-l1": fl.attacks.PGD(eps=4.0, steps=6, norm="l1"),
    "apgd-ce": fl.attacks.APGDCE(eps=0.2, steps=8),
    "apgd-dlr": fl.attacks.APGDDLR(eps=0.2, steps=8),
    "apgd-t": fl.attacks.APGDT(eps=0.2, steps=4),
    "square": fl.attacks.Square(eps=0.2, steps=20),
    "ddn": fl.attacks.DDN(steps=8),
}
NETWORKS = (
    "flatlens:mlp?width=12",
    "flatlens:digits-cnn",
    "flatlens:vit-tiny?width=12&depth=1",
    "flatlens:resnet18?width=2",
)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    found = datasets.load("flatlens:digits")
    return torch.from_numpy(found.x)[:N], torch.from_numpy(found.y)[:N]


def network(name: str = "flatlens:digits-cnn") -> nn.Module:
    torch.manual_seed(0)
    return models.load(name, shape=(1, 8, 8), classes=10).model.eval()


def same(one: pd.DataFrame, other: pd.DataFrame, rtol: float = 1e-6, atol: float = 1e-10) -> None:
    """Row by row, each number to a relative ``rtol``."""
    assert list(one.columns) == list(other.columns) and len(one) == len(other)
    for name in one.columns:
        a, b = one[name], other[name]
        if pd.api.types.is_float_dtype(a):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=name)
        else:
            assert a.equals(b), name


def tables(trace: fl.Trace) -> list[pd.DataFrame]:
    return [getattr(trace, name).to_pandas() for name in ("steps", "layers")]


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_walk_the_same_path(digits: tuple[Tensor, Tensor], name: str) -> None:
    found = [
        tables(fl.trace(network(), *digits, attack=ATTACKS[name], dtype=DOUBLE, device=where))
        for where in ("cpu", "cuda")
    ]
    for one, other in zip(*found, strict=True):
        same(one, other)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_and_every_table(digits: tuple[Tensor, Tensor], name: str) -> None:
    how: dict[str, Any] = {"layers": "all", "controls": "all", "surface": True, "condition": 0.01, "dead_units": True}
    attack = fl.attacks.PGD(eps=0.2, steps=3)
    found = [
        tables(fl.trace(network(name), *digits, attack=attack, dtype=DOUBLE, device=where, **how))
        for where in ("cpu", "cuda")
    ]
    for one, other in zip(*found, strict=True):
        same(one, other, rtol=1e-5)


def test_the_head_of_a_float32_model_is_exact_in_float64(digits: tuple[Tensor, Tensor]) -> None:
    x, y = digits
    model = network().cuda()
    found = fl.curvature(model, x, y)
    head = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    kept: list[Tensor] = []
    with torch.no_grad(), head.register_forward_hook(lambda _m, given, _o: kept.append(given[0])):
        model(x.cuda())
    alone = nn.Linear(head.in_features, head.out_features).double()
    alone.load_state_dict({k: v.double().cpu() for k, v in head.state_dict().items()})
    exact = truth(nn.Sequential(alone), "0", kept[0].double().cpu(), y)
    torch.testing.assert_close(found.relative_flatness.cpu(), exact.relative_flatness, rtol=1e-4, atol=1e-12)
    double = fl.curvature(model, x, y, dtype=DOUBLE)
    torch.testing.assert_close(found.relative_flatness.cpu(), double.relative_flatness.cpu(), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("name", NETWORKS)
def test_again_to_the_same_bits(digits: tuple[Tensor, Tensor], name: str, dtype: torch.dtype) -> None:
    how: dict[str, Any] = {"layers": "all", "dtype": dtype, "device": "cuda"}
    one, other = (
        fl.trace(network(name), *digits, attack=fl.attacks.PGD(eps=0.2, steps=5, random_start=True), **how)
        for _ in range(2)
    )
    for a, b in zip(tables(one), tables(other), strict=True):
        pd.testing.assert_frame_equal(a, b, check_exact=True)


def by_hand(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    adv = (x + 0.1 * torch.empty_like(x).uniform_(-1, 1)).clamp(0, 1)
    for _ in range(5):
        adv = adv.detach().requires_grad_()
        slope = torch.autograd.grad(F.cross_entropy(model(adv), y), adv)[0]
        adv = (x + (adv + 0.05 * slope.sign() - x).clamp(-0.2, 0.2)).clamp(0, 1)
    return adv.detach()


def of_foolbox(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    import foolbox

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
    found: Tensor = foolbox.attacks.L2PGD(steps=5)(wrapped, x, y, epsilons=1.0)[1]
    return found


def of_torchattacks(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    import torchattacks

    found: Tensor = torchattacks.PGD(model, eps=0.2, alpha=0.05, steps=5)(x, y)
    return found


@pytest.mark.parametrize("attack", [by_hand, of_foolbox, of_torchattacks])
def test_a_watched_attack_is_the_attack(digits: tuple[Tensor, Tensor], attack: Callable[..., Tensor]) -> None:
    model = network().cuda()
    x, y = (t.cuda() for t in digits)
    torch.manual_seed(3)
    alone = attack(model, x, y)
    torch.manual_seed(3)
    with fl.watch(model, x, y, eps=1.0, norm="l2") as seen:
        watched = attack(model, x, y)
    assert torch.equal(alone, watched) and watched.is_cuda
    assert seen.trace.steps.num_rows >= N * 5


@pytest.mark.parametrize(
    "attack",
    [fl.attacks.GCG(steps=3, candidates=12, topk=8), fl.attacks.Embedding(steps=4, step_size=0.2)],
    ids=["gcg", "embedding"],
)
def test_language(attack: Any) -> None:
    prompts = [fl.Prompt("Who wrote Hamlet?", "A goldfish."), fl.Prompt("Name a colour.", "No.", id="colour")]
    found = []
    for where in ("cpu", "cuda"):
        model, tokenizer = tiny(DOUBLE)
        trace = fl.trace_text(model.to(where), tokenizer, prompts, attack=attack, slot_len=6, controls="all")
        found.append(tables(trace))
    for one, other in zip(*found, strict=True):
        # transformers computes the angles of positions in float32, whatever the model's dtype.
        same(one, other, rtol=1e-3, atol=1e-5)


def trained(where: str, dropout: float = 0.0) -> Tensor:
    """All weights after two epochs against PGD."""
    data = datasets.load("flatlens:digits")
    x, y = torch.from_numpy(data.x)[:200].double(), torch.from_numpy(data.y)[:200]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Flatten(), nn.Linear(64, 16), nn.Dropout(dropout), nn.ReLU(), nn.Linear(16, 10))
        model = nn.Sequential(*layers).double().to(where)
    how: dict[str, Any] = {"epochs": 2, "inner": inner.PGD(steps=3), "eps": 0.1, "batch_size": 50}
    fit.train(model, x, y, rng=torch.Generator().manual_seed(1), **how)
    return torch.cat([p.detach().flatten().cpu() for p in model.parameters()])


def test_adversarial_training_learns_the_same() -> None:
    torch.testing.assert_close(trained("cuda"), trained("cpu"), rtol=1e-6, atol=1e-8)


def test_training_draws_the_same_and_leaves_the_users_random_numbers() -> None:
    torch.cuda.manual_seed_all(5)
    before = torch.cuda.get_rng_state()
    one = trained("cuda", dropout=0.5)
    assert torch.equal(before, torch.cuda.get_rng_state())
    torch.cuda.manual_seed_all(6)
    assert torch.equal(one, trained("cuda", dropout=0.5))


def test_a_trace_leaves_the_users_random_numbers(digits: tuple[Tensor, Tensor]) -> None:
    model = network().cuda()
    torch.cuda.manual_seed_all(5)
    before = torch.cuda.get_rng_state()
    attack = fl.attacks.PGD(eps=0.1, steps=2, random_start=True)
    fl.trace(model, *digits, attack=attack, controls="all", layers="all")
    assert torch.equal(before, torch.cuda.get_rng_state())


def test_robustness(digits: tuple[Tensor, Tensor]) -> None:
    one, other = (fl.robustness(network().double(), *digits, eps=0.1, queries=20, device=w) for w in ("cpu", "cuda"))
    assert one.worst == other.worst and one.clean == other.clean


def test_a_run_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    spec = RunSpec(model="flatlens:digits-cnn", data="flatlens:digits", steps=4, limit=12, batch_size=4, device="auto")
    run(spec, tmp_path / "whole")

    def stop(here: Progress) -> None:
        if "batch 2 of" in here.what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, tmp_path / "cut", progress=stop)
    run(spec, tmp_path / "cut")
    one, other = (fl.open(tmp_path / name) for name in ("whole", "cut"))
    for a, b in zip(tables(one), tables(other), strict=True):
        pd.testing.assert_frame_equal(a, b, check_exact=True)
