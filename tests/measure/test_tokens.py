"""A language model walks through the same loop into the same tables: the seam to models that are no image classifiers.

``x`` are the embeddings of a prompt's S free positions ``[n, S, d]``; the logits ``[n, T, K]`` predict the target.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from torch import Tensor, nn

from flatlens.hessian.head import Head
from flatlens.measure.loop import walk
from flatlens.models.guard import Where
from flatlens.probes import Columns, Path, StepProbe
from flatlens.probes.flatness import columns
from flatlens.probes.gradients import GradientFlow
from flatlens.probes.prediction import perturbation
from flatlens.records.schema import LAYERS, STEPS
from flatlens.records.trajectory import Trace
from flatlens.victims.layers import HEAD, Layer
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Forward, Needs, Pass, Victim
from flatlens.victims.taps import Tapped

VOCABULARY, WIDTH, SLOT, TARGET, PROMPTS, STEPS_TAKEN = 23, 8, 4, 3, 5, 6


class TinyLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.mix = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, embedded: Tensor) -> Tensor:
        length = embedded.shape[1]
        later = torch.full((length, length), -torch.inf, dtype=embedded.dtype).triu(1)
        mixed, _ = self.mix(embedded, embedded, embedded, attn_mask=later, need_weights=False)
        return self.lm_head((embedded + mixed)[:, SLOT - 1 : -1])


class TokenVictim:
    """What `flatlens.victims.protocol.Victim` asks for, of a language model."""

    device, dtype, bounds, classes, head = torch.device("cpu"), torch.float64, (-np.inf, np.inf), VOCABULARY, "lm_head"

    def __init__(self, model: TinyLM) -> None:
        self._model = copy.deepcopy(model).requires_grad_(False)
        linear = self._model.lm_head
        self.layers = {HEAD: Layer(HEAD, "lm_head", linear, linear.weight)}
        self._taps, self.where = Tapped(self._model, self.layers), Where()

    def place(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)

    def needing(self, needs: Needs) -> TokenVictim:
        return self  # whose passes keep a graph in any case

    def __call__(self, x: Tensor, y: Tensor, *, final: bool = False) -> Pass:
        x = x.detach().requires_grad_()
        self.where.passes += 1
        with self.where.watched(), self._taps.collected(()) as taps:
            logits = self._model(torch.cat([x, self._model.embed(y)], 1))
        return Forward(x, y, logits, taps, self.where)


@dataclasses.dataclass(frozen=True)
class EmbeddingAttack:
    steps: int = STEPS_TAKEN

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        here = victim(batch.x, batch.y)
        yield here
        for step in range(self.steps):
            slope = here.grad(lambda at: -at.loss)
            x = here.x.detach() + slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1)
            here = victim(x, batch.y, final=step == self.steps - 1)
            yield here


def said(here: Pass, path: Path) -> Columns:
    return {"loss": here.loss.detach(), "flipped": (here.logits.argmax(2) == here.y).all(1)}


@dataclasses.dataclass
class HeadAtPositions:
    """κ of the head for the mean loss: the mean of its positions' κ."""

    head: Head
    table: str = "layers"
    late: bool = False

    def __call__(self, here: Pass, path: Path) -> Mapping[str, Columns]:
        rows = columns(self.head(here.taps[HEAD].input.flatten(0, 1), logits=here.logits.flatten(0, 1)))
        mean = {k: v.view(here.y.shape).mean(1) for k, v in rows.items() if isinstance(v, Tensor)}
        kept = {key: mean[key] for key in ("trace", "relative_flatness")}
        return {HEAD: {"method": rows["method"], "exact": True, **kept}}


def case() -> tuple[TinyLM, Batch]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TinyLM().double().eval()
        tokens, y = torch.randint(VOCABULARY, (PROMPTS, SLOT)), torch.randint(VOCABULARY, (PROMPTS, TARGET))
    return model, Batch(model.embed(tokens).detach(), y, torch.arange(PROMPTS))


def test_a_language_model_walks_into_the_same_tables() -> None:
    model, batch = case()
    victim, points = TokenVictim(model), list[Tensor]()
    probes = [
        StepProbe(said), StepProbe(perturbation), HeadAtPositions(Head(model.lm_head)),
        StepProbe(GradientFlow(), late=True),
        StepProbe(lambda here, path: points.append(here.x.detach()) or {}),
    ]  # fmt: skip
    piece = walk(EmbeddingAttack(), victim, batch, Noise(0), probes, at_end=lambda found: found.flipped)
    assert isinstance(victim, Victim)
    assert (piece.steps.schema, piece.layers.schema) == (STEPS, LAYERS)
    assert piece.steps.num_rows == piece.layers.num_rows == PROMPTS * (STEPS_TAKEN + 1)
    assert piece.steps["label"].null_count == piece.steps.num_rows
    assert piece.found.answer.shape == (PROMPTS, TARGET)
    ends = piece.steps.filter(pc.is_valid(piece.steps["confirmed"]))
    assert ends["confirmed"].to_pylist() == ends["flipped"].to_pylist() == piece.found.flipped.tolist()
    trace = Trace(piece.steps, piece.layers, {"attack": "embedding"})
    loss, kappa = trace.matrix("loss").values, trace.matrix("relative_flatness").values
    assert (loss[:, -1] < loss[:, 0]).all()
    for i, step in itertools.product(range(PROMPTS), (0, STEPS_TAKEN)):
        assert kappa[i, step] == pytest.approx(dense(model, points[step][i], batch.y[i]), rel=1e-9)


def dense(model: TinyLM, x: Tensor, y: Tensor) -> float:
    """κ by the Hessian of one prompt's mean loss, ``[K, d, K, d]``."""

    def loss(weight: Tensor) -> Tensor:
        whole = torch.cat([x, model.embed(y)])[None]
        logits = torch.func.functional_call(model, {"lm_head.weight": weight}, (whole,))
        return nn.functional.cross_entropy(logits[0], y)

    weight = model.lm_head.weight.detach()
    hessian = torch.autograd.functional.hessian(loss, weight)
    return float(torch.einsum("siti,sj,tj->", hessian, weight, weight))
