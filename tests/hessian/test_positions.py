"""The head's curvature over positions: against dense Hessians, mpmath, and the head at one position."""

from __future__ import annotations

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from flatlens.errors import LayerError
from flatlens.hessian.head import Head
from flatlens.hessian.positions import HeadAtPositions
from flatlens.hessian.softmax import others
from flatlens.hessian.vocabulary import Blocks
from tests import assets

V, D, T = 97, 24, 5
COLUMNS = ("trace", "relative_flatness", "confidence_term", "feature_norm_sq")


def linear(v: int = V, d: int = D, *, scale: float = 1.0, bias: bool = False, seed: int = 0) -> nn.Linear:
    """A head whose weight is drawn from ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    made = nn.Linear(d, v, bias=bias).double()
    for parameter in made.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return made


def draw(n: int = 2, t: int = T, v: int = V, d: int = D, *, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and targets."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, t, d, generator=generator, dtype=torch.float64), torch.randint(v, (n, t), generator=generator)


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Relative, without an absolute part."""
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=tolerance, atol=0)


def dense(weight: torch.Tensor, loss) -> tuple[float, float, float]:  # type: ignore[no-untyped-def]
    """Trace, κ and λ_max of the autograd Hessian of ``loss`` by ``weight``."""
    h = torch.autograd.functional.hessian(loss, weight, vectorize=True)
    v, d = weight.shape
    kappa = ((weight @ weight.T) * torch.einsum("sdtd->st", h)).sum()
    flat = h.reshape(v * d, v * d)
    first = torch.randn(v * d, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    top = torch.lobpcg(flat, X=first, niter=500, tol=1e-10)[0][0]
    return float(flat.trace()), float(kappa), float(top)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_language_model_has_the_dense_hessians_numbers(tied: bool) -> None:
    transformers = assets.package("transformers", "pip install 'flatlens[text]'")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=V, hidden_size=D, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=tied, attn_implementation="eager", initializer_range=0.5,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).double().eval()
    ids = torch.randint(V, (1, 9), generator=torch.Generator().manual_seed(1))
    y = torch.randint(V, (1, T), generator=torch.Generator().manual_seed(2))
    weight = model.lm_head.weight.detach().clone()
    with torch.no_grad():
        a = model.model(ids).last_hidden_state[:, -T:]
        logits = model(ids).logits[:, -T:]
    found = HeadAtPositions(model.lm_head)(a, y, logits=logits)

    trace, kappa, top = dense(weight, lambda w: nn.functional.cross_entropy((a[0] @ w.T), y[0]))
    close(found.mean.trace, [trace], 1e-12)
    close(found.mean.relative_flatness, [kappa], 1e-12)
    close(found.mean.top_eigenvalue, [top], 1e-12)
    assert abs(float(found.top_eigenvalue.mean()) / top - 1) > 1e-2  # λ_max does not average

    if tied:  # both uses of the weight at once are another function

        def both(w: torch.Tensor) -> torch.Tensor:
            out = functional_call(model, {"lm_head.weight": w, "model.embed_tokens.weight": w}, (ids,))
            return nn.functional.cross_entropy(out.logits[0, -T:], y[0])

        gradient = torch.func.grad(both)
        probes = torch.eye(V * D, dtype=torch.float64)[:: V * D // 40].view(-1, V, D)
        diagonal = [(torch.func.jvp(gradient, (weight,), (e,))[1] * e).sum() for e in probes]
        own = torch.func.grad(lambda w: nn.functional.cross_entropy(a[0] @ w.T, y[0]))
        alone = [(torch.func.jvp(own, (weight,), (e,))[1] * e).sum() for e in probes]
        assert abs(float((torch.stack(diagonal).sum() / torch.stack(alone).sum()).detach()) - 1) > 0.1


@pytest.mark.parametrize("gap", [1.0, 17.0, 100.0, 300.0, 600.0])
def test_mpmath_agrees_up_to_gaps_of_600(gap: float) -> None:
    layer = linear(6, 4)
    a = torch.randn(4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    first, second = (layer.weight @ a).topk(2).values.detach()
    a = a * gap / (first - second)
    found = HeadAtPositions(layer)(a.view(1, 1, -1), torch.tensor([[2]]))
    with mpmath.workdps(600):
        w = mpmath.matrix(layer.weight.tolist())
        z = w * mpmath.matrix(a.tolist())
        p = [mpmath.e ** (x - max(z)) for x in z]
        total = sum(p)
        p = [x / total for x in p]
        norm = sum(mpmath.mpf(x) ** 2 for x in a.tolist())
        mean = [sum(p[k] * w[k, j] for k in range(6)) for j in range(4)]
        variance = sum(p[k] * sum((w[k, j] - mean[j]) ** 2 for j in range(4)) for k in range(6))
        c = sum(x * (1 - x) for x in p)
        expected = {
            "confidence_term": c,
            "trace": norm * c,
            "relative_flatness": norm * variance,
            "nll": -mpmath.log(p[2]),
        }
        for name, value in expected.items():
            assert abs(mpmath.mpf(float(getattr(found, name))) / value - 1) < 1e-9, name


@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 30))
@settings(max_examples=40, deadline=None)
def test_the_confidence_term_is_bound_by_the_loss(seed: int, scale: float) -> None:
    a, y = draw(1, seed=seed)
    layer = linear(scale=scale)
    y[:, :3] = (a @ layer.weight.T).argmax(2)[:, :3]
    found = HeadAtPositions(layer)(a, y)
    c, r = found.confidence_term, -torch.expm1(-found.nll)
    assert bool((c <= 2 * found.nll * (1 + 1e-12)).all())
    # Where the target is all but certain, c is nearly a function of the loss.
    greedy = found.rank_of_target == 0
    assert bool((c <= (2 * r - r * r) * (1 + 1e-9))[greedy].all())
    assert bool((c >= (2 * r - 2 * r * r) * (1 - 1e-9))[greedy].all())


def test_means_are_means_of_the_positions() -> None:
    found = HeadAtPositions(linear())(*draw())
    for name in COLUMNS:
        close(getattr(found.mean, name), getattr(found, name).mean(1), 1e-12)
    assert not torch.allclose(found.mean.top_eigenvalue, found.top_eigenvalue.mean(1), rtol=1e-2)


@pytest.mark.parametrize("block", [1, 10, 96, 97])
def test_blocks_do_not_change_the_numbers(block: int) -> None:
    whole, cut = (HeadAtPositions(linear(bias=True), block=b)(*draw()) for b in (1000, block))
    for name in (*COLUMNS, "top_eigenvalue", "weight_grad_norm"):
        close(getattr(cut.mean, name), getattr(whole.mean, name), 1e-12)
    for one, other in zip(cut[1:], whole[1:], strict=True):
        close(one, other, 1e-11)


@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
def test_one_position_has_the_heads_numbers(scale: float) -> None:
    layer = linear(scale=scale, bias=True)
    a, y = draw(6, 1)
    found, head = HeadAtPositions(layer)(a, y).mean, Head(layer)(a[:, 0], y[:, 0])
    for name in (*COLUMNS, "top_eigenvalue", "weight_grad_norm", "relative_sharpness", "weight_norm"):
        close(getattr(found, name), getattr(head, name), 1e-10)


def test_a_head_of_many_classes_has_the_same_variance_in_either_form() -> None:
    layer = linear(4200, 8)
    a, y = draw(3, 1, 4200, 8)
    p = torch.softmax(a[:, 0] @ layer.weight.T, 1)
    variance = torch.stack([(q * (layer.weight - q @ layer.weight).square().sum(1)).sum() for q in p]).detach()
    close(Head(layer)(a[:, 0], y[:, 0]).relative_flatness, a[:, 0].square().sum(1) * variance, 1e-11)


def test_lanczos_on_the_likely_classes_finds_the_dense_eigenvalue() -> None:
    layer = linear(300, 8, scale=1.5)
    a, y = draw(1, 4, 300, 8)
    p = torch.softmax(a[0] @ layer.weight.T, 1).detach()
    h = sum(torch.kron(torch.diag(q) - torch.outer(q, q), torch.outer(f, f)) for q, f in zip(p, a[0], strict=True)) / 4
    close(HeadAtPositions(layer)(a, y).mean.top_eigenvalue, torch.linalg.eigvalsh(h)[-1:], 1e-12)


def test_float32_weights_agree_with_float64() -> None:
    layer = linear(scale=0.5)
    a, y = draw()
    narrow = nn.Linear(D, V, bias=False)
    narrow.weight.data = layer.weight.data.float()
    logits = a.float() @ narrow.weight.T
    found, expected = HeadAtPositions(narrow)(a.float(), y, logits=logits), HeadAtPositions(layer)(a, y)
    for name in (*COLUMNS, "top_eigenvalue", "weight_grad_norm"):
        close(getattr(found.mean, name), getattr(expected.mean, name), 1e-5)


def test_soft_capped_logits_are_refused() -> None:
    layer, (a, y) = linear(), draw()
    capped = 30 * torch.tanh(a @ layer.weight.T / 30)
    with pytest.raises(LayerError, match=r"the head's logits W·a \+ b differ from the model's own"):
        HeadAtPositions(layer)(a, y, logits=capped)


def test_the_gradients_norm_is_autograds() -> None:
    layer, (a, y) = linear(), draw()
    norms = [
        torch.autograd.grad(nn.functional.cross_entropy(layer(f), t), layer.weight)[0].norm()
        for f, t in zip(a, y, strict=True)
    ]
    close(HeadAtPositions(layer)(a, y).mean.weight_grad_norm, torch.stack(norms), 1e-12)


def test_a_position_that_is_not_finite_is_nan_and_harms_no_other() -> None:
    layer, (a, y) = linear(), draw()
    right = HeadAtPositions(layer)(a, y)
    a[0, 2, 3] = torch.nan
    found = HeadAtPositions(layer)(a, y)
    for name, column in found._asdict().items():
        if name in ("mean", "greedy"):  # a token has no NaN
            continue
        whole = getattr(right, name)
        assert bool(torch.isnan(column[0, 2])), name
        keep = torch.ones_like(column, dtype=torch.bool)
        keep[0, 2] = False
        close(column[keep], whole[keep], 1e-12)
    for name in ("trace", "top_eigenvalue", "weight_grad_norm", "relative_flatness"):
        assert bool(torch.isnan(getattr(found.mean, name)[0]))
        assert bool(torch.isfinite(getattr(found.mean, name)[1]))


def test_rank_and_margin_say_what_greedy_decoding_takes() -> None:
    layer, (a, _) = linear(), draw()
    order = (a @ layer.weight.T).argsort(2, descending=True)
    for rank in (0, 1, 7):
        found = HeadAtPositions(layer)(a, order[:, :, rank])
        assert bool((found.rank_of_target == rank).all())
        assert bool(((found.margin > 0) == (rank == 0)).all())


def test_greedy_and_ranks_go_by_the_models_own_logits() -> None:
    layer, (a, y) = linear(), draw()
    first, other = (a[0, 0] @ layer.weight.T).topk(2).indices.tolist()
    low, high = sorted((first, other))
    with torch.no_grad():
        layer.weight[other] = layer.weight[first]
        layer.weight[high] += 1e-15 * a[0, 0]
    logits = (a @ layer.weight.T).detach()
    # The model's rounding makes the two tokens equal: decoding takes the one of lower index.
    logits[0, 0, high] = logits[0, 0, low]
    for token, rank in ((low, 0), (high, 1)):
        y[0, 0] = token
        found = HeadAtPositions(layer)(a, y, logits=logits)
        assert found.rank_of_target[0, 0] == rank
        assert found.greedy[0, 0] == low
        assert (found.margin[0, 0] < 0) == (token == low)


@pytest.mark.parametrize("gap", [3.0, 600.0])
def test_the_largest_eigenvalue_of_the_mean_stays_right_in_saturation(gap: float) -> None:
    v, d, t = 4, 3, 2
    layer = linear(v, d, seed=4)
    a = draw(1, t, v, d, seed=6)[0]
    # The same gap at both positions, so that neither one has all of the curvature.
    values = (a @ layer.weight.T).topk(2).values.detach()
    a = a * (gap / (values[..., :1] - values[..., 1:]))
    found = HeadAtPositions(layer)(a, torch.zeros(1, t, dtype=torch.int64))
    with mpmath.workdps(560):
        w = mpmath.matrix(layer.weight.tolist())
        total = mpmath.zeros(v * d)
        for row in a[0].tolist():
            z = w * mpmath.matrix(row)
            e = [mpmath.exp(x - max(z)) for x in z]
            p = [x / mpmath.fsum(e) for x in e]
            for k in range(v):
                for m in range(v):
                    entry = (p[k] if k == m else 0) - p[k] * p[m]
                    for i in range(d):
                        for j in range(d):
                            total[k * d + i, m * d + j] += entry * mpmath.mpf(row[i]) * row[j] / t
        # H to the power of 512, by squaring: what it makes of a vector is the eigenvector.
        scale = mpmath.fsum(total[i, i] for i in range(v * d))
        power, exponent = total / scale, 1
        for _ in range(9):
            power, exponent = power * power, 2 * exponent
        vector = power * mpmath.matrix([1 + mpmath.mpf(i) / 7 for i in range(v * d)])
        image = total * vector
        expected = mpmath.fdot(vector, image) / mpmath.fdot(vector, vector)
        assert abs(mpmath.mpf(found.mean.top_eigenvalue.item()) / expected - 1) < 1e-9


@pytest.mark.parametrize("near", [0.0, 1e-9, 1e-5, 1e-2])
def test_variance_of_tokens_whose_weights_are_alike(near: float) -> None:
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(8, generator=g, dtype=torch.float64) + near * torch.randn(40, 8, generator=g).double()
    logits = torch.randn(3, 40, generator=g, dtype=torch.float64)
    seen = others(logits)
    found = seen.rest * Blocks(weight, block=7).variance_over_rest(seen)
    with mpmath.workdps(40):
        for row, value in zip(logits.tolist(), found.tolist(), strict=True):
            e = [mpmath.exp(x) for x in row]
            p = [x / mpmath.fsum(e) for x in e]
            columns = [[mpmath.mpf(x) for x in column] for column in weight.T.tolist()]
            centred = [[x - mpmath.fdot(p, column) for x in column] for column in columns]
            expected = mpmath.fsum(mpmath.fdot(p, [x * x for x in column]) for column in centred)
            assert value == 0 if near == 0 else abs(mpmath.mpf(value) / expected - 1) < 1e-9


def test_samples_in_groups_are_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    a, y = draw(5)
    whole = HeadAtPositions(linear())(a, y)
    monkeypatch.setattr("flatlens.hessian.positions.ENTRIES", 2 * T * V)
    parts = HeadAtPositions(linear())(a, y)
    for one, other in zip(parts[1:], whole[1:], strict=True):
        close(one, other, 1e-12)
    for name in (*COLUMNS, "top_eigenvalue", "weight_grad_norm"):
        close(getattr(parts.mean, name), getattr(whole.mean, name), 1e-12)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0], ids=["flat", "usual", "saturated"])
def test_what_is_said_at_a_position_is_that_of_the_softmax(scale: float) -> None:
    layer = linear()
    layer.weight.data *= scale
    a, y = draw()
    found, logits = HeadAtPositions(layer)(a, y), a @ layer.weight.detach().T
    p = torch.distributions.Categorical(logits=logits)
    two = logits.topk(2, dim=-1).values
    # Where one class has everything the oracle's entropy is the rounding of its logits.
    rounding = torch.finfo(logits.dtype).eps * float(logits.abs().max())
    torch.testing.assert_close(found.entropy, p.entropy(), rtol=1e-9, atol=rounding)
    close(found.confidence, p.probs.amax(-1), 1e-12)
    close(found.gap, two[..., 0] - two[..., 1], 1e-9)
