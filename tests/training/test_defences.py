"""Defended training of one's own models: no images, dropout and batch norm, two classes; and losses that explode."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flatlens as fl
from flatlens.errors import DataError, LayerError, ModelError, SpecError
from flatlens.specs.defences import RECIPES
from flatlens.specs.train import TrainSpec
from flatlens.training import defences
from flatlens.training.defences import FAM, MART, PGD, SAM, TRADES, Free, Gan, InputGradient, Mix, Spectral, fit
from flatlens.training.fit import accuracy
from flatlens.victims.layers import as_logits


class Sequences(nn.Module):
    """A GRU that reads a sequence ``[n, T]`` and answers by its last state."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.gru, self.fc = nn.GRU(1, 12, batch_first=True), nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        _, last = self.gru(x.unsqueeze(-1))
        return self.fc(last[0])


class Normed(nn.Module):
    """An MLP with batch norm and dropout that answers with an object."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.norm, self.body, self.drop = nn.BatchNorm1d(12), nn.Linear(12, 24), nn.Dropout(0.2)
        self.fc = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.fc(self.drop(torch.relu(self.body(self.norm(x))))))


def sequences(classes: int = 3, n: int = 240, length: int = 12) -> tuple[Tensor, Tensor]:
    """Sine waves of as many frequencies as classes, with noise, in [0, 1]."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n) % classes
    t, shift = torch.arange(length) / length, torch.rand(n, 1, generator=g)
    wave = torch.sin(2 * math.pi * ((y + 1).unsqueeze(1) * t + 0.2 * shift))
    return (0.5 + 0.3 * wave + 0.05 * torch.randn(n, length, generator=g)).clamp(0, 1), y


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def kappa(model: nn.Module, x: Tensor) -> float:
    seen: list[Tensor] = []
    hook = model.fc.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    logits = as_logits(model(x))
    hook.remove()
    return fl.head_flatness(logits, seen[0], model.fc.weight).mean().item()


def learnt(model: type[nn.Module], x: Tensor, y: Tensor, penalty: Any, **how: Any) -> nn.Module:
    torch.manual_seed(0)
    own = model()
    history = fit(own, x, y, rng=rng(), lr=0.02, batch_size=60, inner=PGD(2), penalty=penalty, **how)
    assert accuracy(own, x, y) > 0.9 and history.loss[-1] < 0.7 * history.loss[0]
    return own


def test_pgd_and_fam_of_a_network_that_reads_sequences() -> None:
    x, y = sequences()
    standard, flat = (learnt(Sequences, x, y, penalty, epochs=20, eps=0.03) for penalty in ((), FAM(0.3)))
    assert kappa(flat, x) < 0.5 * kappa(standard, x)


@pytest.mark.parametrize("penalty", [(), FAM(0.1)], ids=["pgd", "pgd and fam"])
def test_dropout_batch_norm_and_answers_in_an_object(penalty: Any) -> None:
    learnt(Normed, *sequences(), penalty, epochs=8, eps=0.15)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("model", [Sequences, Normed])
def test_every_recipe_takes_any_model_and_two_classes(name: str, model: type[nn.Module]) -> None:
    (x, y), own = sequences(classes=2, n=40), model(2)
    before = {key: value.clone() for key, value in own.state_dict().items()}
    drawn = torch.get_rng_state()
    axes = defences.of(TrainSpec(defence=name, steps=2))
    history = fit(own, x, y, rng=rng(), epochs=2, batch_size=20, eps=0.1, **axes)
    assert len(history.loss) == 2 and all(map(math.isfinite, history.loss)) and not own.training
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.isfinite(value).all() for value in own.state_dict().values())
    still = [key for key, value in own.named_parameters() if torch.equal(value, before[key])]
    assert still == []


@pytest.mark.parametrize("name", RECIPES)
def test_one_class_alone_in_the_data(name: str) -> None:
    """Labels of one class, as the first batches of sorted data are: the model has two all the same."""
    x, _ = sequences(n=20)
    axes = defences.of(TrainSpec(defence=name, steps=1))
    assert math.isfinite(fit(Normed(2), x, torch.zeros(20).long(), rng=rng(), epochs=1, eps=0.1, **axes).loss[0])


class Counted(nn.Module):
    """Counts the forward passes of single samples."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.seen, self.graphs = nn.Linear(12, 3), 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        self.graphs += len(x) * torch.is_grad_enabled()
        return self.fc(x)


PASSES: dict[str, dict[str, Any]] = {
    **{name: {"defence": name} for name in RECIPES},
    "standard": {},
    "clean inputs for fam alone": {"adversarial": "pgd", "penalty": "fam?at=clean"},
    "clean inputs for both": {"defence": "trades", "penalty": "fam?at=clean"},
}


@pytest.mark.parametrize("name", PASSES)
def test_passes_are_those_that_are_made(name: str) -> None:
    """With their graph; a second derivative by the input is a pass more that no forward pass shows."""
    recipe, (x, y), model = TrainSpec(**PASSES[name], steps=3), sequences(n=20), Counted()
    fit(model, x, y, rng=rng(), epochs=1, batch_size=10, eps=0.1, **defences.of(recipe))
    answers = model.seen - model.graphs
    made = (model.graphs + answers / 3) / 20
    if "fam" in str(recipe.penalty):
        made -= 2 / 20  # the two samples that the head is found by
    second = "gradient" in str(recipe.penalty)
    gan = 1 if recipe.adversarial == "gan" else 0  # the generator's own
    assert defences.passes(recipe) == pytest.approx(made * (1 + second) + gan)


@pytest.mark.parametrize(
    ("warmup", "shares"), [(0, [1, 1, 1, 1]), (1, [1 / 2, 1, 1, 1]), (3, [1 / 4, 1 / 2, 3 / 4, 1])]
)
def test_eps_rises_in_equal_steps(warmup: int, shares: list[float]) -> None:
    seen: list[float] = []

    class Noted(PGD):
        def __call__(self, *args: Any, eps: float, **how: Any) -> Tensor:
            seen.append(eps)
            return super().__call__(*args, eps=eps, **how)

    fit(Normed(), *sequences(n=8), rng=rng(), epochs=4, inner=Noted(1), eps=0.4, eps_warmup=warmup)
    assert seen == pytest.approx([0.4 * share for share in shares])


# --- models that an axis does not fit --------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.fc = nn.Linear(12, 12), nn.Linear(12, 12)
        self.fc.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.first(x)))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.fc(x)))


NO_HEAD = {
    "no Linear": (
        nn.Sequential(nn.Unflatten(1, (1, 12)), nn.Conv1d(1, 3, 12), nn.Flatten()),
        "no Linear layer's output",
    ),
    "scaled after it": (
        nn.Sequential(nn.Linear(12, 3), nn.LogSoftmax(1)),
        "no Linear layer's output equals the logits",
    ),
    "tied": (Tied(), "the head 'fc' shares its weight with 'first.weight'"),
    "twice": (Twice(), "the head 'fc' is called 2 times in a pass"),
    "one class": (nn.Linear(12, 1), "its flatness as a loss needs 2 to 4,096"),
}


@pytest.mark.parametrize("name", NO_HEAD)
def test_fam_names_what_is_no_head(name: str) -> None:
    model, said = NO_HEAD[name]
    x, _ = sequences(n=8)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(LayerError, match=re.escape(said)) as caught:
        fit(model, x, torch.zeros(8).long(), rng=rng(), epochs=1, penalty=FAM(0.1))
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"weights": SAM()}, "Free with SAM: free makes one pass"),
        ({"loss": TRADES()}, "Free with TRADES: free makes one pass, on attacked inputs alone"),
        ({"loss": Mix()}, "Free with Mix: free makes one pass"),
    ],
)
def test_free_makes_one_pass(how: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        fit(Normed(), *sequences(n=8), rng=rng(), epochs=1, inner=Free(2), **how)


def test_inputs_outside_of_the_bounds() -> None:
    """An attack would bring them back by force, and the model would never see its own data."""
    x, y = sequences(n=20)
    x[3, 2] = -2
    said = r"^1 of 20 inputs lie outside the bounds \[0, 1\], .*they run from -2 to 0\.\d+; scale them, or give bounds"
    with pytest.raises(DataError, match=said):
        fit(Normed(), x, y, rng=rng(), epochs=1, inner=PGD(1))
    fit(Normed(), x, y, rng=rng(), epochs=1, inner=PGD(1), bounds=(-2.0, 1.0))
    fit(Normed(), x, y, rng=rng(), epochs=1)  # without an attack there are no bounds


# --- a loss that explodes --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Burst:
    """A loss of NaN, or of infinity, from two finite answers."""

    value: float = math.nan
    passes = 2
    answers = False

    def ascends(self, clean: Tensor | None, y: Tensor) -> Any:
        return lambda logits: nn.functional.cross_entropy(logits, y, reduction="none")

    def __call__(self, clean: Tensor | None, attacked: Tensor, y: Tensor) -> Tensor:
        return attacked.sum(1) * 0 + self.value


@dataclass(frozen=True)
class Huge(SAM):
    """A perturbation that no weight survives."""

    def deltas(self, parameters: Any, gradients: Any) -> list[Tensor]:
        return [torch.full_like(p, 3e38) for p in parameters]


LARGEST = 1e308
HOW = {
    "loss": ({"inner": PGD(1), "loss": Burst()}, r"is nan in epoch 1, by --loss burst; lower lr"),
    "infinite loss": ({"inner": PGD(1), "loss": Burst(math.inf)}, r"is inf in epoch 1, by --loss burst; lower lr"),
    "fam": ({"penalty": FAM(LARGEST)}, r"is (inf|nan) in epoch 1, by --penalty fam; lower lr"),
    "gradient": (
        {"penalty": (FAM(), InputGradient(LARGEST))},
        r"is (inf|nan) in epoch 1, by --penalty gradient; lower",
    ),
    "spectral": ({"penalty": Spectral(LARGEST)}, r"is (inf|nan) in epoch 1, by --penalty spectral; lower lr"),
    "step": (
        {"weights": Huge()},
        r"is (inf|nan) in epoch 1, at weights made worse by --perturb-weights huge; lower",
    ),
}


@pytest.mark.parametrize("name", HOW)
def test_what_is_not_finite_names_the_axis(name: str) -> None:
    """And the weights are those before the step."""
    how, said = HOW[name]
    (x, y), model = sequences(n=20), Normed()
    before = {key: value.clone() for key, value in model.named_parameters()}
    with pytest.raises(ModelError, match=f"^the loss {said}"):
        fit(model, x, y, rng=rng(), epochs=1, eps=0.1, **how)
    assert all(torch.equal(value, before[key]) for key, value in model.named_parameters())


@pytest.mark.parametrize(
    "how",
    [{}, {"inner": PGD(1)}, {"inner": PGD(1), "loss": TRADES()}, {"inner": PGD(1), "loss": Mix()},
     {"inner": PGD(1), "loss": MART()}, {"penalty": Spectral()}, {"penalty": (FAM(), InputGradient())},
     {"inner": Free(2)}],
)  # fmt: skip
def test_weights_that_exploded_are_not_blamed_on_an_axis(how: dict[str, Any]) -> None:
    x, y = sequences(n=40)
    with pytest.raises(ModelError, match=r"^the loss is (nan|inf) in epoch \d; lower lr 1e\+30$"):
        fit(Normed(), x, y, rng=rng(), epochs=4, lr=1e30, batch_size=20, eps=0.1, **how)


def test_all_pairs_of_axes_go_together() -> None:
    """One step of each: no combination needs code of its own."""
    x, y = sequences(n=12)
    inners, losses = (PGD(1), Gan(2)), (None, Mix(), TRADES(), MART())
    penalties = ((), FAM(at="clean"), (InputGradient(norm="l2"), Spectral()))
    for inner, loss, step, penalty in itertools.product(inners, losses, (None, SAM()), penalties):
        history = fit(
            Normed(), x, y, rng=rng(), epochs=1, eps=0.1, inner=inner, loss=loss, weights=step, penalty=penalty
        )
        assert math.isfinite(history.loss[0])
