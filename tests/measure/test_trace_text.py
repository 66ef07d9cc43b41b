"""Traces of language models: the tables hold together, a path goes on where it broke off, the model is as it was."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

import flatlens as fl
from flatlens.datasets import prompts
from flatlens.errors import AttackError, DataError, FlatlensError, ModelError, SpecError
from flatlens.export.prompts import export as exported
from flatlens.measure import load_language, prompt_walk
from flatlens.measure.plan import layer_table
from flatlens.measure.plan_language import plan
from flatlens.measure.run import run
from flatlens.measure.trace_text import traced
from flatlens.records import runs
from flatlens.specs.run import RunSpec
from flatlens.specs.trust import attack_runs_code
from flatlens.sweeps import grid
from flatlens.victims.encoding import text_of
from tests.language import tiny

PROMPTS = [fl.Prompt("Who wrote Hamlet?", "A goldfish."), fl.Prompt("Name a colour.", "No.", id="colour")]
GCG = fl.attacks.GCG(steps=5, candidates=12, topk=8)
SOFT = fl.attacks.Embedding(steps=6, step_size=0.2)
SIMPLEX = fl.attacks.Simplex(steps=5)
ATTACKS = {
    "gcg": GCG, "random-swap": fl.attacks.RandomSwap(steps=4, candidates=8), "embedding": SOFT, "simplex": SIMPLEX
}  # fmt: skip


def made(attack: Any, **how: Any) -> fl.Trace:
    model, tokenizer = tiny()
    return fl.trace_text(model, tokenizer, PROMPTS, attack=attack, **{"slot_len": 6, **how})


def same(one: pa.Table, other: pa.Table) -> bool:
    """Row by row, each number to the bit; NaN is NaN."""
    return bool(one.to_pandas().equals(other.to_pandas()))


@pytest.fixture(scope="module", params=ATTACKS)
def trace(request: pytest.FixtureRequest) -> fl.Trace:
    return made(ATTACKS[request.param], controls="all")


def test_every_key_is_there_once_and_counts_are_exact(trace: fl.Trace) -> None:
    steps = trace.steps.to_pandas()
    for path, rows in steps.groupby("path"):
        length = {"ask": 1, "planted": 1, "copies": 7}.get(str(path), trace.spec["steps"] + 1)
        beside = path == "attack" and trace.spec["attack"] == "simplex"
        assert (rows["kind"] == "iterate").sum() == len(PROMPTS) * length, path
        assert len(rows) == len(PROMPTS) * length * (1 + beside), path
    key = ["path", "restart", "sample", "step", "kind"]
    assert not steps.duplicated(key).any()
    assert trace.positions is not None and trace.tokens is not None and trace.prompts is not None
    positions, tokens = trace.positions.to_pandas(), trace.tokens.to_pandas()
    assert not positions.duplicated([*key, "position"]).any() and not tokens.duplicated([*key, "slot"]).any()
    targets = {one["sample"]: len(one["ids"]["target"]) for one in trace.prompts}
    counted = positions.groupby(key).size().reset_index(name="n")
    assert (counted["n"] == counted["sample"].map(targets)).all() and len(counted) == len(steps)
    own = tokens[tokens["path"] == "attack"]
    assert (own.groupby(key).size() == 6).all()
    assert steps["label"].isna().all() and steps["prediction"].isna().all()


def test_means_over_positions_are_the_rows_of_layers_and_steps(trace: fl.Trace) -> None:
    assert trace.positions is not None
    key = ["path", "sample", "step", "kind"]
    mean = trace.positions.to_pandas().groupby(key)[["trace", "relative_flatness", "nll"]].mean().reset_index()
    layers = trace.layers.to_pandas().merge(mean, on=key, suffixes=("", "_mean"))
    for name in ("trace", "relative_flatness"):
        np.testing.assert_allclose(layers[name], layers[f"{name}_mean"], rtol=1e-12)
    steps = trace.steps.to_pandas().merge(mean, on=key)
    np.testing.assert_allclose(steps["loss"], steps["nll"], rtol=1e-12)


def test_flipped_is_that_every_target_token_is_the_first_choice(trace: fl.Trace) -> None:
    assert trace.positions is not None
    key = ["path", "sample", "step", "kind"]
    first = trace.positions.to_pandas().assign(first=lambda rows: rows["rank_of_target"] == 0)
    both = first.groupby(key)["first"].agg(["all", "sum"]).reset_index().merge(trace.steps.to_pandas(), on=key)
    assert (both["all"] == both["flipped"]).all() and (both["sum"] == both["matched"]).all()


def test_every_text_gives_its_tokens_back_from_the_tables_alone(trace: fl.Trace) -> None:
    _, tokenizer = tiny()
    assert trace.tokens is not None and trace.prompts is not None
    known = {one["sample"]: one["ids"] for one in trace.prompts}
    rows = trace.steps.to_pandas()
    text = rows[rows["retokenises"].notna()]
    assert (len(text) > 0) and text["retokenises"].all()
    tokens = trace.tokens.to_pandas()
    assert set(rows["kind"]) - {"iterate"} <= set(text["kind"])
    for path, sample, step, kind in text[["path", "sample", "step", "kind"]].itertuples(index=False):
        one = tokens[(tokens["path"] == path) & (tokens["sample"] == sample) & (tokens["step"] == step)]
        one = one[one["kind"] == kind]
        ids = [*known[sample]["prefix"], *one.sort_values("slot")["token"], *known[sample]["tail"]]
        assert tokenizer(text_of(tokenizer, ids), add_special_tokens=False)["input_ids"] == ids


def test_the_same_twice(trace: fl.Trace) -> None:
    again = made(ATTACKS[trace.spec["attack"]], controls="all")
    for name in ("steps", "layers", "positions", "tokens"):
        assert same(getattr(again, name), getattr(trace, name)), name


def test_gcg_keeps_the_best_candidate_and_changes_as_many_tokens_as_it_says() -> None:
    found = made(fl.attacks.GCG(steps=4, candidates=16, topk=8, swaps=2))
    assert found.tokens is not None
    rows = found.tokens.to_pandas()
    changed = rows.groupby(["sample", "step"])["changed"].sum()
    assert (changed[changed.index.get_level_values("step") > 0] <= 2).all() and changed.max() == 2
    edits = found.matrix("edits").values
    assert (edits[:, 0] == 0).all() and (edits[:, -1] >= 1).all()


def test_the_embedding_attacks_steps_are_of_the_length_that_it_says() -> None:
    model, tokenizer = tiny(torch.float64)
    for ball in (None, 0.3):
        attack = fl.attacks.Embedding(steps=5, step_size=0.2, ball=ball)
        found = fl.trace_text(model, tokenizer, PROMPTS[:1], attack=attack, slot_len=6)
        assert found.embeddings is not None
        unit = float(model.get_input_embeddings().weight.detach().norm(dim=1).mean())
        away = found.matrix("l2").values[0] / unit / np.sqrt(6)
        assert away[1] == pytest.approx(0.2, rel=1e-6)
        assert away.max() <= (1.0 if ball is None else ball) + 1e-6
        assert found.embeddings.x.shape[1:] == (6, model.config.hidden_size)


def test_a_trace_is_saved_opened_and_asked_for_prompts(tmp_path: Path) -> None:
    first = made(GCG, controls=["copies"])
    first.save(tmp_path / "run")
    again = fl.open(tmp_path / "run")
    assert again.of_language and again.positions is not None and same(again.positions, first.positions)
    assert again.prompt(1, "end").ids == first.prompt(1, "end").ids
    assert again.prompt(0, 0).slot == "xxxxxx" and PROMPTS[0].prompt in again.prompt(0, 0).text
    assert again.prompt(0, "peak", path="copies").pieces["prefix"] == []
    for wrong, said in (
        ({"sample": 7}, "no sample 7"),
        ({"step": 99}, "no step 99"),
        ({"step": "top"}, "no step 'top'"),
    ):
        with pytest.raises(SpecError, match=said):
            again.prompt(**{"sample": 0, **wrong})


def test_what_was_found_is_exported_and_can_be_given_again(tmp_path: Path) -> None:
    found = made(GCG)
    found.save(tmp_path / "run")
    assert exported(tmp_path / "run", tmp_path / "suffixes.jsonl") == 2
    lines = [json.loads(line) for line in (tmp_path / "suffixes.jsonl").read_text().splitlines()]
    assert [line["slot"] for line in lines] == [found.prompt(i).slot for i in range(2)]
    assert lines[1]["id"] == "colour" and not lines[0]["soft"] and lines[0]["step"] == 5
    again = prompts.load(f"prompts:{tmp_path / 'suffixes.jsonl'}")
    assert [one.target for one in again.prompts] == [one.target for one in PROMPTS]
    fl.trace("flatlens:digits-cnn", "flatlens:digits", attack="fgsm", out=tmp_path / "images")
    with pytest.raises(FlatlensError, match="is of images and has no prompts"):
        exported(tmp_path / "images", tmp_path / "no.jsonl")


def test_a_plan_says_what_a_run_would_take() -> None:
    takes = plan(spec(attack="gcg", steps=5, candidates=12, topk=8, control=("copies", "random-swap")))
    assert (takes.prompts, takes.steps) == (2, 5)
    assert takes.forward_passes == 2 * (6 + 7 + 6) and takes.backward_passes == 2 * (5 + 5)
    assert takes.candidates == 2 * 2 * 5 * 12 and takes.seconds > 0 and takes.memory_bytes > 64 << 20


def test_a_sweep_over_attacks_on_prompts_runs_no_code() -> None:
    plain = {"model": "lm:flatlens-tiny", "data": "flatlens:short-targets", "samples": [0], "slot_len": 6, "steps": 2}
    swept = {"run": plain, "grid": {"attack": ["embedding", "random-swap"]}}
    cells = grid.cells_of(swept).cells
    assert len(cells) == 2 and not any(attack_runs_code(one.spec.attack) for one in cells)


def test_matched_is_the_first_point_at_or_below_a_loss() -> None:
    found = made(SOFT, controls=["copies", "planted"])
    loss, kappa = found.matrix("loss").values, found.matrix("relative_flatness").values
    at = found.matched(2.0)["attack"]
    for i, sample in enumerate(at.sample):
        step = int(np.argmax(loss[sample] <= 2.0))
        assert at.step[i] == step and at.kappa[i] == kappa[sample, step] and loss[sample, step] <= 2.0
    assert at.n == int((loss.min(1) <= 2.0).sum()) and set(found.matched(2.0)) == set(found.paths)
    assert found.matched(1e-9)["attack"].n == 0
    with pytest.raises(SpecError, match="needs a number of nats"):
        found.matched(0)


def spec(**how: Any) -> RunSpec:
    known = {"model": "lm:flatlens-tiny", "data": "flatlens:benign-targets", "samples": (0, 3), "slot_len": 6}
    return RunSpec(**{**known, **how})


class Killed(BaseException):
    pass


RESUMED = {
    "embedding": {"attack": "embedding", "steps": 6, "step_size": 0.2, "control": ("random-direction", "copies")},
    "gcg": {"attack": "gcg", "steps": 5, "candidates": 12, "topk": 8, "control": ("random-walk", "planted")},
    "simplex": {"attack": "simplex", "steps": 6, "control": ("line-to-end",)},
    "bfloat16": {"attack": "simplex", "steps": 6, "dtype": "bfloat16"},
    "layers": {"attack": "embedding", "steps": 6, "step_size": 0.2, "layer": ("head", "*.down_proj"), "probes": 8},
    "stopped": {"attack": "embedding", "steps": 6, "step_size": 0.2, "stop_after": 2},
}


@functools.cache
def undisturbed(which: str) -> fl.Trace:
    return traced(load_language.load(spec(**RESUMED[which])).job, None)


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore:bfloat16", "ignore:wide-error")
@pytest.mark.parametrize("which", RESUMED)
@pytest.mark.parametrize("after", [2, 10])
def test_a_run_that_is_killed_inside_a_prompt_goes_on_to_the_same_bits(
    which: str, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = spec(**RESUMED[which])
    whole = undisturbed(which)
    monkeypatch.setattr(prompt_walk, "EVERY", 0.0)
    left = [after]

    def killed(progress: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    with pytest.raises(Killed):
        run(asked, tmp_path / "run", progress=killed)
    assert list((tmp_path / "run" / "parts").glob("*.open"))
    done = run(asked, tmp_path / "run").trace()
    for name in ("steps", "layers", "positions", "tokens"):
        assert same(getattr(done, name), getattr(whole, name)), name
    assert not (tmp_path / "run" / "parts").exists()
    if whole.embeddings is not None:
        assert done.embeddings is not None and np.array_equal(done.embeddings.x, whole.embeddings.x)


def test_a_damaged_open_part_is_walked_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = spec(attack="embedding", steps=4, samples=(0,))
    monkeypatch.setattr(prompt_walk, "EVERY", 0.0)
    left = [3]

    def killed(progress: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    with pytest.raises(Killed):
        run(asked, tmp_path / "run", progress=killed)
    begun = runs.load(tmp_path / "run")
    begun.open_part(0).write_bytes(b"nonsense")
    assert same(run(asked, tmp_path / "run").trace().steps, traced(load_language.load(asked).job, None).steps)


def test_another_chunk_of_candidates_is_another_run() -> None:
    assert spec().resolved().hash() != spec(batch_size=8).resolved().hash()
    assert spec(name="x").resolved().hash() == spec().resolved().hash()


def test_a_path_may_end_when_it_stays_flipped() -> None:
    model, tokenizer = tiny()
    prompts = [fl.Prompt("Name three colours.", "My.")]
    attack = fl.attacks.Embedding(steps=60, step_size=0.2)
    found = fl.trace_text(model, tokenizer, prompts, attack=attack, slot_len=12, stop_after=3)
    flipped = found.matrix("flipped").values[0].astype(bool)
    last = int(found.last_steps()[0])
    assert last < 60 and flipped[last - 3 : last + 1].all() and not flipped[last - 4]


def test_the_papers_averaging_is_a_row_of_its_own() -> None:
    model, tokenizer = tiny(torch.float64)
    found = fl.trace_text(model, tokenizer, PROMPTS[:1], attack=SOFT, slot_len=6, positions="all")
    assert found.layer_names == ("head", "head, all positions")
    one = found.prompt(0, 0).ids
    ids = torch.tensor([[*one["prefix"], *one["slot"], *one["tail"], *one["target"]]])
    with torch.no_grad():
        out = model(input_ids=ids, output_hidden_states=True)
    p, a = out.logits[0].softmax(-1), out.hidden_states[-1][0]
    theirs = (a.square().sum(-1) * (p * (1 - p)).sum(-1)).mean()
    mine = found.matrix("relative_flatness", layer="head, all positions").values[0, 0]
    assert mine == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.filterwarnings("ignore:wide-error")
def test_layers_beside_the_head_have_rows_of_their_own_and_change_no_path() -> None:
    alone = made(SOFT, controls="all")
    trace = made(SOFT, controls="all", layers=["last:2", "*.1.mlp.*"], probes=8)
    for name in ("steps", "positions", "tokens"):
        assert same(getattr(trace, name), getattr(alone, name)), name
    rows = trace.layers.to_pandas()
    names = ["head", "model.layers.2.mlp.down_proj", *(f"model.layers.1.mlp.{n}_proj" for n in ("gate", "up", "down"))]
    assert trace.layer_names == tuple(names) and trace.spec["layer"] == names and trace.spec["probes"] == 8
    assert same(trace.layers.filter(pc.equal(trace.layers["layer"], "head")), alone.layers)
    inner = rows[rows["layer"] != "head"]
    assert len(inner) == 4 * len(alone.layers), "at every step of every path, controls at other prompts too"
    assert (inner["method"] == "fisher-sampled").all() and (inner["status"] == "ok").all() and not inner["exact"].any()
    assert inner[["trace", "relative_flatness", "top_eigenvalue"]].isna().all(axis=None)
    known = inner[["ggn_trace", "trace_se", "weight_grad_norm", "feature_norm_sq", "weight_norm"]]
    assert np.isfinite(known).all(axis=None) and (known > 0).all(axis=None)
    assert same(trace.layers, made(SOFT, controls="all", layers=["last:2", "*.1.mlp.*"], probes=8).layers)


def test_the_layers_of_a_language_model_can_be_asked_for() -> None:
    rows = layer_table("lm:flatlens-tiny")
    assert [row.name for row in rows if row.is_head] == ["lm_head"] and len(rows) == 22
    assert {(row.method, row.exact, row.passes) for row in rows} == {
        ("closed-form", True, 0), ("fisher-sampled", False, 17)
    }  # fmt: skip
    assert rows[0][:3] == ("model.layers.0.self_attn.q_proj", "Linear", (64, 64))


def test_given_texts_are_measured_without_an_attack() -> None:
    model, tokenizer = tiny()
    found = fl.curvature_text(model, tokenizer, PROMPTS)
    assert found.steps.num_rows == 2 and found.prompt(0).text.endswith("<bot>")
    start = made(GCG)
    assert not np.isclose(found.matrix("loss").values[0, 0], start.matrix("loss").values[0, 0])
    inner = fl.curvature_text(model, tokenizer, PROMPTS, layers="last:2", probes=64)
    assert inner.steps.equals(found.steps) and inner.layer_names == ("head", "model.layers.2.mlp.down_proj")
    assert (inner.matrix("ggn_trace", layer=inner.layer_names[1]).values > 0).all()
    with pytest.raises(SpecError, match="probes=4: needs at least 8"):
        fl.curvature_text(model, tokenizer, PROMPTS, layers="last:2", probes=4)


def test_the_users_model_is_as_it_was() -> None:
    model, tokenizer = tiny()
    model.requires_grad_(True)
    before = {name: (p.requires_grad, p._version) for name, p in model.named_parameters()}
    fl.trace_text(model, tokenizer, PROMPTS[:1], attack=SOFT, slot_len=6)
    with pytest.raises(Killed):
        fl.trace_text(model, tokenizer, PROMPTS, attack=SOFT, progress=lambda at: (_ for _ in ()).throw(Killed))
    assert {name: (p.requires_grad, p._version) for name, p in model.named_parameters()} == before
    assert all(p.grad is None for p in model.parameters()) and not model.training


def test_prompts_json_is_what_the_tables_are_of(tmp_path: Path) -> None:
    done = run(spec(attack="gcg", steps=1, candidates=4, topk=4), tmp_path / "run")
    held = json.loads((tmp_path / "run" / "prompts.json").read_text())["prompts"]
    assert [one["sample"] for one in held] == [0, 3]
    assert "prompts.json" in (done.files or {})
    assert pc.unique(done.trace().steps["sample"]).to_pylist() == [0, 3]


def tried(m: Any, t: Any, attack: Any, **how: Any) -> fl.Trace:
    return fl.trace_text(m, t, PROMPTS, attack=attack, **how)


BAD: dict[str, tuple[Any, type[FlatlensError], str]] = {
    "no model": (lambda m, t: fl.trace_text(3, t, PROMPTS), ModelError, "the model is a int"),
    "a classifier": (lambda m, t: fl.trace_text(torch.nn.Linear(2, 2), t, PROMPTS), ModelError, "get_input_embeddings"),
    "no tokenizer": (lambda m, t: fl.trace_text(m, None, PROMPTS), ModelError, "the tokenizer is missing"),
    "train mode": (lambda m, t: fl.trace_text(m.train(), t, PROMPTS), ModelError, "in train mode"),
    "no prompts": (lambda m, t: fl.trace_text(m, t, []), DataError, "holds no prompt"),
    "texts": (lambda m, t: fl.trace_text(m, t, ["a"]), DataError, "a str is no prompt"),
    "an attack on images": (lambda m, t: tried(m, t, fl.attacks.PGD()), AttackError, "is no attack on lang"),
    "its name": (lambda m, t: tried(m, t, "pgd"), SpecError, "is of image classifiers"),
    "too many swaps": (lambda m, t: tried(m, t, fl.attacks.GCG(swaps=9), slot_len=4), AttackError, "swaps = 9"),
    "too many candidates": (
        lambda m, t: tried(m, t, fl.attacks.GCG(topk=2), slot_len=4), AttackError, "candidates = 512"
    ),
    "topk beyond V": (lambda m, t: tried(m, t, fl.attacks.GCG(topk=500)), AttackError, "topk = 500"),
    "no slot": (lambda m, t: tried(m, t, GCG, slot_len=0), SpecError, "slot_len=0"),
    "a control of images": (lambda m, t: tried(m, t, GCG, controls="uniform-noise"), SpecError, "is of image"),
    "too long": (lambda m, t: tried(m, t, GCG, slot_len=1600), ModelError, "has places for"),
}  # fmt: skip


@pytest.mark.parametrize("which", BAD)
def test_one_line_says_what_is_wrong(which: str) -> None:
    call, kind, said = BAD[which]
    with pytest.raises(kind, match=said) as told:
        call(*tiny())
    assert "\n" not in str(told.value)


def test_prompts_are_no_images() -> None:
    with pytest.raises(AttackError, match="fl.trace_text"):
        fl.trace("flatlens:digits-cnn", "flatlens:digits", attack=GCG)
