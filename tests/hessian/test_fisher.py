"""The sampled Gauss–Newton trace of a language model's inner layers, against exact sums and dense matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath as mp
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacfwd

import flatlens as fl
from flatlens.errors import LayerError, ModelError
from flatlens.hessian.fisher import Answers, FisherSampled
from flatlens.hessian.positions import HeadAtPositions
from flatlens.victims.encoding import encode
from flatlens.victims.layers import describe
from flatlens.victims.tokens import TokenVictim
from flatlens.victims.whole_prompt import inner_layers, whole_pass
from tests.language import random_llama, tiny

PROMPT = fl.Prompt("Who wrote Hamlet?", "A fish.")


def victim_of(model: Any) -> TokenVictim:
    return TokenVictim(model, encode(tiny()[1], PROMPT, slot_len=4))


def logits_of(kind: str) -> Tensor:
    z = torch.randn(1, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return {
        "spread": z,
        "equal": 0 * z,
        "two tie": z.index_fill(1, torch.tensor([2, 5]), 3.0),
        "sure": z + 20 * (torch.arange(9) == 4),
        "saturated": z + 60 * (torch.arange(9) == 0),
        "all but certain": z + 600 * (torch.arange(9) == 8),
        "a token banned": z.index_fill(1, torch.tensor([6]), -torch.inf),
    }[kind]


@pytest.mark.parametrize(
    "kind", ["spread", "equal", "two tie", "sure", "saturated", "all but certain", "a token banned"]
)
def test_the_mean_of_what_is_drawn_is_the_matrix(kind: str) -> None:
    logits = logits_of(kind)
    answers = Answers(logits)
    with mp.workdps(600):
        e = [mp.exp(mp.mpf(x)) if x > -1e300 else mp.mpf(0) for x in logits[0].tolist()]
        p = [x / mp.fsum(e) for x in e]
        square = mp.fsum(x * x for x in p)
        chances = [x * ((1 - x) ** 2 + square - x * x) for x in p]
        trace = mp.fsum(chances)
        mean = mp.zeros(9)
        below = mp.mpf(0)
        for chance in chances:
            if chance / trace > 1e-12:
                middle = torch.tensor([float((below + chance / 2) / trace)], dtype=torch.float64)
                v, scale = answers.drawn(middle, torch.ones(1, dtype=torch.float64))
                assert float(v.norm()) == pytest.approx(1, rel=1e-12), "each draw is as long as the mean"
                column = mp.matrix([mp.mpf(x) * mp.mpf(float(scale)) for x in v[0].tolist()])
                mean += chance / trace * column * column.T
            below += chance
        for i in range(9):
            for j in range(9):
                exact = p[i] * (1 - p[i]) if i == j else -p[i] * p[j]
                assert abs(mean[i, j] - exact) <= 1e-9 * trace


@pytest.mark.parametrize("kind", ["spread", "sure", "all but certain"])
@pytest.mark.parametrize("label", [0, 4, 8])
def test_the_gradient_by_the_logits(kind: str, label: int) -> None:
    logits = logits_of(kind)
    found, scale = Answers(logits).slope(torch.tensor([label]))
    with mp.workdps(600):
        e = [mp.exp(mp.mpf(x)) for x in logits[0].tolist()]
        exact = [x / mp.fsum(e) - (i == label) for i, x in enumerate(e)]
        largest = max(abs(x) for x in exact)
        for value, expected in zip(found[0].tolist(), exact, strict=True):
            assert abs(mp.mpf(value) * mp.mpf(float(scale)) - expected) <= 1e-12 * largest


def dense(victim: TokenVictim, name: str) -> tuple[float, float]:
    """The trace of the Gauss–Newton matrix of the mean loss by a weight, whole, and the norm of its gradient."""
    model = victim.model
    embeddings = victim.whole(victim.embed(victim.start()))
    positions, weight = victim.target.shape[1], model.get_parameter(f"{name}.weight").detach().clone()

    def logits(w: Tensor) -> Tensor:
        given = {"inputs_embeds": embeddings, "use_cache": False}
        return functional_call(model, {f"{name}.weight": w}, (), given, tie_weights=False).logits[0, -positions:]

    jacobian = jacfwd(logits)(weight).flatten(2).detach()
    p = torch.softmax(logits(weight).detach(), 1)
    mean = torch.einsum("tk,tkw->tw", p, jacobian)
    trace = torch.einsum("tk,tkw->", p, jacobian.square()) - mean.square().sum()
    weight.requires_grad_()
    (slope,) = torch.autograd.grad(nn.functional.cross_entropy(logits(weight), victim.target[0]), weight)
    return float(trace) / positions, float(slope.norm())


def random_gemma() -> Any:
    """Scaled embeddings, another nonlinearity, heads of their own width."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(1)
    config = Gemma2Config(
        vocab_size=len(tiny()[1]), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=6, max_position_embeddings=256, final_logit_softcapping=None,
        attn_implementation="eager", initializer_range=0.3, eos_token_id=0, bos_token_id=0,
    )  # fmt: skip
    return Gemma2ForCausalLM(config).double().eval()


def random_made() -> Any:
    return random_llama(attn_implementation="eager", initializer_range=0.3)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (random_made, "model.layers.0.self_attn.k_proj"),
        (random_made, "model.layers.1.self_attn.v_proj"),
        (random_gemma, "model.layers.0.self_attn.v_proj"),
        (random_gemma, "model.layers.1.mlp.gate_proj"),
    ],
)
def test_is_the_dense_matrixs_trace_over_the_whole_prompt(make: Callable[[], Any], name: str) -> None:
    victim = victim_of(make())
    assert victim.cached, "an attack's own passes do not see the prefix"
    layers = inner_layers(victim, [name])
    here = whole_pass(victim, victim.embed(victim.start()), layers)
    found = FisherSampled(layers, probes=400, key=(0,))(here)[name]
    trace, slope = dense(victim, name)
    assert float(found.trace_se) < 0.05 * trace
    assert abs(float(found.ggn_trace) - trace) < 4 * float(found.trace_se)
    assert float(found.weight_grad_norm) == pytest.approx(slope, rel=1e-7), "transformers norms in float32"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.1, 10.0, 300.0, 1e3])
def test_of_the_head_it_is_the_closed_form(scale: float, dtype: torch.dtype) -> None:
    model = random_llama(dtype=dtype)
    with torch.no_grad():
        model.lm_head.weight.mul_(scale)  # from no idea to certainty
    victim = victim_of(model)
    layers = {"lm_head": describe("lm_head", "lm_head", model.lm_head, model.lm_head.weight.detach(), None)}
    here = whole_pass(victim, victim.embed(victim.start()), layers)
    found = FisherSampled(layers, probes=200, key=(1,))(here)["lm_head"]
    exact = HeadAtPositions(model.lm_head)(here.taps["lm_head"].value[:, -victim.target.shape[1] :], here.y).mean
    rounding = 1e-3 if dtype == torch.float32 else 1e-6  # of logits as large as scale
    assert float(found.trace_se) <= 0.2 * float(exact.trace)
    assert abs(float(found.ggn_trace) - float(exact.trace)) <= 4 * float(found.trace_se) + rounding * float(exact.trace)
    assert float(found.weight_grad_norm) == pytest.approx(float(exact.weight_grad_norm), rel=rounding)


def test_its_standard_error_is_what_repetition_shows() -> None:
    victim = victim_of(random_llama(initializer_range=0.3))
    layers = inner_layers(victim, ["last:2"])
    here = whole_pass(victim, victim.embed(victim.start()), layers)
    drawn = [FisherSampled(layers, probes=8, key=(seed,))(here) for seed in range(60)]
    for name in layers:
        values = torch.cat([found[name].ggn_trace for found in drawn])
        said = torch.cat([found[name].trace_se for found in drawn]).square().mean().sqrt()
        assert 0.7 < float(values.std() / said) < 1.4


def test_what_is_not_finite_stays_so() -> None:
    victim = victim_of(random_llama())
    layers = inner_layers(victim, ["last:2"])
    here = whole_pass(victim, victim.embed(victim.start()) * torch.nan, layers)
    (found,) = FisherSampled(layers, probes=8, key=(0,))(here).values()
    assert torch.isnan(found.ggn_trace).all()


class Added(nn.Module):
    """A Linear layer with something beside it, as adapters have."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner
        self.gate = nn.Parameter(torch.zeros((), dtype=inner.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.gate * (x @ self.inner.weight.T).relu()


def twice(model: Any) -> None:
    model.model.layers[1].mlp = model.model.layers[0].mlp


def tied(model: Any) -> None:
    model.model.layers[1].mlp.down_proj.weight = model.model.layers[0].mlp.down_proj.weight


def reused(model: Any) -> None:
    mlp = model.model.layers[0].mlp
    mlp.down_proj = Added(mlp.down_proj)


REFUSED = {
    "used twice": (twice, "model.layers.0.mlp.down_proj", "is called 2 times"),
    "tied": (tied, "model.layers.0.mlp.down_proj", "shares its weight with 'model.layers.1.mlp.down_proj.weight'"),
    "read again behind a closed gate": (reused, "model.layers.0.mlp.down_proj.inner", "can be probed"),
    "no such layer": (lambda model: None, "model.layers.0.mlp.down", "Did you mean 'model.layers.0.mlp.down_proj'?"),
    "no Linear": (lambda model: None, "model.norm", "is a LlamaRMSNorm; only Linear"),
    "no number": (lambda model: None, "last:0", "needs a whole number"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_a_layer_that_cannot_be_probed(which: str) -> None:
    change, name, said = REFUSED[which]
    model = random_llama()
    change(model)
    with pytest.raises(LayerError) as caught:
        inner_layers(victim_of(model), ["head", name])
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_without_linear_layers_but_its_head() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=len(tiny()[1]), n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    victim = victim_of(GPT2LMHeadModel(config).eval())
    assert inner_layers(victim, ["last:1"]) == {}
    for pattern in ("all", "last:2"):
        with pytest.raises(LayerError, match=f"layer '{pattern}': this model has no Linear.*made of Conv1D, Linear"):
            inner_layers(victim, [pattern])


def test_half_precision_is_refused() -> None:
    victim = victim_of(random_llama(dtype=torch.bfloat16))
    with pytest.raises(ModelError, match="bfloat16, whose gradients are too coarse; give --dtype float32"):
        inner_layers(victim, ["last:2"])


@pytest.mark.parametrize(
    ("patterns", "count"), [(["head"], 0), (["lm_head"], 0), (["last:1"], 0), (["last:3"], 2), (["all"], 14)]
)
def test_the_head_is_measured_otherwise(patterns: list[str], count: int) -> None:
    model = random_llama()
    assert len(inner_layers(victim_of(model), patterns)) == count


def test_the_model_is_left_as_it_was() -> None:
    model = random_llama()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    victim = victim_of(model)
    layers = inner_layers(victim, ["all"])
    FisherSampled(layers, probes=8, key=(0,))(whole_pass(victim, victim.embed(victim.start()), layers))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
