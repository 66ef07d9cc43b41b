"""C11: units of ReLU that are closed block an attack's gradient, and those of SwiGLU do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flatlens.claims import planted
from flatlens.claims.claim import Claim, Part, Region
from flatlens.claims.nets import Case
from flatlens.claims.planted import RELU, SWIGLU
from flatlens.claims.statistics import Table, difference, mean, ratio_of_medians, share

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from flatlens.attacks.protocol import Walks

EPS, STEPS, QUERIES = 0.1, 20, 300
LIGHTLY, WELL = 0.5, 3.0
"""How far a planted gate is closed: before, and behind, the minimum of SiLU at −1.28."""
WIDTH = {RELU: 64, SWIGLU: 40}
"""Of trained networks: 8,970 weights and biases, and 8,890."""
WORDS = {RELU: "ReLU", SWIGLU: "SwiGLU"}

_TRAINING = {"epochs": 15, "lr": 0.003, "batch_size": 32, "weight_decay": 0.05}


def _gates(name: str, said: str, column: str, regions: tuple[Region, ...] = ()) -> list[Part]:
    """A part for each activation, of the samples at which the gate is closed at the start."""
    start = column.partition("_")[0]
    return [
        Part(
            f"{act}_{name}",
            f"{said}, {said_of}",
            share(f"{act}_{column}", f"{act}_{start}_closed"),
            regions[index] if regions else None,
        )
        for index, (act, said_of) in enumerate(WORDS.items())
    ]


CLAIMED = (Region(high=0.05), Region(low=0.5))
"""ReLU blocks, SwiGLU does not."""

CLAIM = Claim(
    name="C11",
    title="Closed ReLU units block attacks, SwiGLU's do not",
    source="tutorials on attacks and activations",
    reported="a closed unit of ReLU passes no gradient, so that attacks find no way; smooth gates leave one open",
    question="Where the only way to another class leads through a closed unit, does PGD find it with ReLU, and with "
    "SwiGLU? And are trained networks of ReLU, of as many weights and as large a logit gap, harder to attack?",
    protocol={
        "planted": "two-layer networks from the seed, 64 inputs: the label can change only by way of one hidden unit, "
        f"closed at the start, by about {LIGHTLY:g} (lightly) or by about {WELL:g} (well); a twin has another "
        "way of open units. 1,074 and 1,058 weights",
        "nets": "flatlens:mlp, ReLU of width 64 and SwiGLU of width 40 (8,970 and 8,890 weights), 15 epochs; SwiGLU's "
        "head scaled so that the median top-2 gap is the same; ten seeds, quick: one other",
        "data": "flatlens:digits, test split, samples that both have right; planted networks as many drawn inputs",
        "attack": f"PGD, linf, {STEPS} steps: eps {planted.EPS:g} on planted networks, eps {EPS:g} on trained ones",
        "statistic": "share of the samples whose label changes; of planted ones those whose gate is closed at first",
    },
    parts=(
        Part(
            "ordinary", "more samples flip on trained networks of SwiGLU than of ReLU",
            difference("swiglu_flipped", "relu_flipped"), Region(low=0.1),
        ),
        *_gates("well", "flip through a gate that is well closed", "well_flipped", CLAIMED),
        *_gates("lightly", "flip through one lightly closed", "lightly_flipped", CLAIMED),
        *_gates("well_reopened", "gates well closed that open along the attack", "well_reopened"),
        *_gates("lightly_reopened", "gates lightly closed that open along the attack", "lightly_reopened"),
        *_gates("around", "flip where open units lead around the closed one", "around_flipped"),
        *_gates("aligned", "flip through a well closed gate that open units point to in part", "aligned_flipped"),
        *_gates("square", f"flip through a well closed gate by Square, {QUERIES} queries", "well_square"),
        Part(
            "smooth", "flip through a well closed ReLU gate where softplus lends its gradient",
            share("relu_well_smooth", "relu_well_closed"),
        ),
        *(
            Part(f"{act}_possible", f"a flip through the well closed gate is within reach, {WORDS[act]}",
                 share(f"{act}_well_possible"))
            for act in WORDS
        ),
        *(
            Part(f"{act}_flipped", f"flip on trained networks, {WORDS[act]}", share(f"{act}_flipped")) for act in WORDS
        ),
        Part(
            "unmatched", "the difference without the scaled head", difference("swiglu_plain_flipped", "relu_flipped")
        ),
        *(
            Part(f"{act}_zero", f"samples of a trained network whose input gradient is all zero, {WORDS[act]}",
                 share(f"{act}_zero"))
            for act in WORDS
        ),
        *(
            Part(f"{act}_closed", f"share of a trained network's units that are closed, {WORDS[act]}",
                 mean(f"{act}_closed"))
            for act in WORDS
        ),
        *(
            Part(f"{act}_units_reopened", f"share of these that open along the attack, {WORDS[act]}",
                 mean(f"{act}_reopened"))
            for act in WORDS
        ),
        Part(
            "gap", "median top-2 gap of ReLU over SwiGLU's", ratio_of_medians("relu_gap", "swiglu_gap"),
            forced="the head is scaled so",
        ),
    ),
    caveats=(
        "A planted gate shows what can be, not what is: the only way of a trained network seldom leads through one "
        "unit. That is what the first part is for.",
        "A ReLU gate that blocks PGD is a masked gradient and no robustness: softplus in its place, for the gradient "
        "alone, finds the way.",
        "SiLU falls until −1.28 and rises behind it: of a SwiGLU gate that is closed farther, the gradient is not zero "
        "and points the wrong way.",
        "Whether a closed ReLU gate opens by chance depends on what the open units have to do with it: two cases of "
        "many are shown, none and half.",
    ),
    kinds=(RELU, SWIGLU),
    least=10,
    seeds=tuple(range(30, 40)),
    trainings={
        act: {**_TRAINING, "model": f"flatlens:mlp?act={act}&width={width}&seed={{seed}}"}
        for act, width in WIDTH.items()
    },
    own_models="its networks are planted, and pairs matched in weights and in logit gap; flatlens sweep with act=relu "
    "and act=swiglu compares one's own",
)  # fmt: skip


def measure(case: Case) -> Table:
    """Who flips: on planted networks of both activations, and on trained ones."""
    x, y, ids = case.right(RELU, SWIGLU)
    columns = {"sample": ids} | _trained(case, x, y)
    at = planted.inputs(len(x), case.seed)
    for act in WORDS:
        columns |= _planted(act, at, case.seed)
    return {name: values.numpy() for name, values in columns.items()}


def _planted(act: str, x: Tensor, seed: int) -> dict[str, Tensor]:
    import torch

    from flatlens import attacks

    made = {
        "lightly": planted.planted(act, seed, LIGHTLY),
        "well": planted.planted(act, seed, WELL),
        "around": planted.planted(act, seed, WELL, around=True),
        "aligned": planted.planted(act, seed, WELL, aligned=0.5),
    }
    pgd = attacks.PGD(planted.EPS, steps=STEPS)
    y = torch.zeros(len(x), dtype=torch.long)
    found = {}
    for name, net in made.items():
        closed = net.gate(x) < 0
        end, seen = _walked(pgd, net.model, x, y, seed, lambda at, net=net: net.gate(at)[:, None] >= 0)
        found[f"{act}_{name}_closed"] = closed
        found[f"{act}_{name}_flipped"] = net.model(end).argmax(1) != y
        found[f"{act}_{name}_reopened"] = closed & seen[:, 0]
    net = made["well"]
    square, _ = _walked(attacks.Square(planted.EPS, steps=QUERIES), net.model, x, y, seed)
    found[f"{act}_well_square"] = net.model(square).argmax(1) != y
    farthest = x + planted.EPS * net.w.sign().reshape(planted.SHAPE)
    found[f"{act}_well_possible"] = net.model(farthest).argmax(1) != y
    if act == RELU:
        end, _ = _walked(pgd, planted.smooth(net), x, y, seed)
        found[f"{act}_well_smooth"] = net.model(end).argmax(1) != y
    return found


def _trained(case: Case, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Who flips on the pair of trained networks, and how their units stand."""
    import torch

    from flatlens import attacks
    from flatlens.models.scaled import scaled

    pgd, found = attacks.PGD(EPS, steps=STEPS), {}
    nets = {act: case.model(act) for act in WORDS}
    gaps = {act: _gap(net, x) for act, net in nets.items()}
    scale = float(gaps[RELU].median() / gaps[SWIGLU].median())
    matched = {RELU: nets[RELU], SWIGLU: scaled(nets[SWIGLU], scale, x[:8])}
    end, _ = _walked(pgd, nets[SWIGLU], x, y, case.seed)
    found["swiglu_plain_flipped"] = _classes(nets[SWIGLU], end) != y
    for act, net in matched.items():
        closed = ~_open(nets[act], x)
        end, seen = _walked(pgd, net, x, y, case.seed, lambda at, act=act: _open(nets[act], at))
        found[f"{act}_gap"] = _gap(net, x)
        found[f"{act}_flipped"] = _classes(net, end) != y
        found[f"{act}_closed"] = closed.double().mean(1)
        # NaN where none is closed.
        found[f"{act}_reopened"] = (closed & seen).sum(1).double() / closed.sum(1)
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(net(leaf), y, reduction="sum"), leaf)
        found[f"{act}_zero"] = (gradient == 0).flatten(1).all(1)
    return found


def _walked(
    attack: Walks, model: nn.Module, x: Tensor, y: Tensor, seed: int, looked: Any = None
) -> tuple[Tensor, Tensor]:
    """An attack's last point, and which of what is ``looked`` at was so at any point on the way."""
    import torch

    from flatlens.victims.images import ImageVictim
    from flatlens.victims.noise import Noise
    from flatlens.victims.precision import exact_arithmetic
    from flatlens.victims.protocol import Batch

    victim = ImageVictim(model, x[:8], layers=())
    seen: Tensor = torch.zeros(len(x), 1, dtype=torch.bool)
    with exact_arithmetic(victim.device):
        for here in attack(victim, Batch(x, y, torch.arange(len(x))), Noise(seed)):
            end = here.x.detach()
            if looked is not None:
                seen = seen | looked(end)
    return end, seen


def _open(model: nn.Module, x: Tensor) -> torch.Tensor:
    """Which hidden units of an MLP of the zoo are open, ``[n, units]``: whose input, or gate, is above 0."""
    import torch

    from flatlens.models.zoo.blocks import ACTIVATIONS

    found: list[Tensor] = []
    with torch.no_grad():
        for part in model.children():
            if isinstance(part, ACTIVATIONS[SWIGLU]):
                found.append(x.chunk(2, dim=1)[1] > 0)
            elif isinstance(part, ACTIVATIONS[RELU]):
                found.append(x > 0)
            x = part(x)
    return torch.cat(found, 1)


def _gap(model: nn.Module, x: Tensor) -> torch.Tensor:
    """The largest logit minus the second, ``[n]``."""
    import torch

    with torch.no_grad():
        first, second = model(x).topk(2, dim=1).values.unbind(1)
    return first - second


def _classes(model: nn.Module, x: Tensor) -> torch.Tensor:
    from flatlens.claims.nets import predicted

    return predicted(model, x)
