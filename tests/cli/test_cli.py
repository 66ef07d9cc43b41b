"""The command line, in this process: what is typed, and the spec that comes of it."""

from __future__ import annotations

import inspect
import json

import pytest
from flatlens_cli import options, tracing

from flatlens.errors import ModelError
from flatlens.measure import plan as planning
from flatlens.specs import run as spec

NEEDED = ["--model", "flatlens:digits-cnn", "--data", "flatlens:digits"]


@pytest.fixture
def planned(monkeypatch):
    """The specs that ``--dry-run`` was asked about."""
    seen = []

    def plan(of):
        seen.append(of)
        return planning.Plan("m", ["head"], 10, 5, 2, 82, 80, 3_000_000, 75.0)

    monkeypatch.setattr(planning, "plan", plan)
    return seen


# ---- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trase"], "no such command 'trase'. Did you mean 'trace'"),
        (["quux"], "no such command 'quux'; `flatlens --help` lists what there is"),
        (["trace", "--step-siz", "1"], "no option '--step-siz'. Did you mean '--step-size'?"),
        (["trace", "--steps"], "option '--steps' requires an argument"),
        (["trace", "--steps", "x", *NEEDED], "--steps 'x': needs a whole number"),
        (["trace", "--steps", "0", *NEEDED], "--steps 0: needs a whole number of at least 1"),
        (["trace", "--eps", "8/0", *NEEDED], "'8/0' is not a number; write 0.3 or 8/255"),
        (["trace", "--samples", "3,x", *NEEDED], "--samples 'x': needs a whole number"),
        (["trace", "--batch-size", "some", *NEEDED], "--batch-size 'some': needs a whole number"),
        (["trace", "--norm", "l3", *NEEDED], "no norm 'l3'; there are: linf, l2, l1. Did you mean"),
        (["trace", "--attack", "pdg", *NEEDED], "Did you mean 'pgd'?"),
        (["trace", "--control", "gausian-noise", *NEEDED], "Did you mean 'gaussian-noise'?"),
        (["trace", *NEEDED], "--out is missing; name a new folder"),
        (["trace"], "--model is missing; `flatlens models` lists what there is"),
        (["trace", "--model", "m"], "--data is missing; `flatlens datasets` lists what there is"),
        (["trace", "--set", "eps", *NEEDED], "--set 'eps' is not of the form key=value"),
        (["trace", "--set", "stpes=3", *NEEDED], "Did you mean 'steps'?"),
        (["trace", "--config", "nowhere.toml", *NEEDED], "cannot read 'nowhere.toml'"),
        (["layers"], "--model is missing; `flatlens models` lists what there is"),
        (["report"], "missing argument 'RUN…'; `flatlens report --help`"),
        (["report", "nowhere"], "'nowhere' is neither a run nor a sweep: it does not exist"),
        (["attacks", "pgd"], "unexpected extra argument"),
    ],
)
def test_misuse_is_one_line_that_names_what_would_work(flatlens, words, said):
    answer = flatlens(*words)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1
    assert said in answer.err


# ---- from flags to a spec -----------------------------------------------------------------------


def test_every_field_of_a_spec_but_bounds_and_recipes_has_a_flag_of_its_name():
    """Bounds are set with ``--set``, as the cautions say, and so are the keys of tables such as ``[train]``."""
    assert set(spec.KEYS) - {"bounds", *spec.SUBTABLES} <= set(inspect.signature(tracing.trace).parameters)


def test_without_flags_a_spec_has_its_own_defaults(planned, flatlens):
    assert flatlens("trace", *NEEDED, "--dry-run").code == 0
    assert planned == [spec.RunSpec("flatlens:digits-cnn", "flatlens:digits")]


def test_all_flags_reach_the_spec(planned, flatlens):
    words = (
        "--attack pgd --eps 8/255 --norm l2 --step-size 0.01 --steps 7 --random-start --targeted 3 --control all "
        "--objective dlr --momentum 0.5 --restarts 3 --dead-units --surface --worst-case "
        "--control gaussian-noise --layer head --layer last:2 --probes 9 --limit 5 --samples 3,17 --only-correct "
        "--batch-size 4 --seed 2 --device cpu --dtype float64 --images none --set bounds=[-1,1]"
    )
    assert flatlens("trace", *NEEDED, *words.split(), "--dry-run").code == 0
    assert planned == [
        spec.RunSpec(
            model="flatlens:digits-cnn", data="flatlens:digits", attack="pgd", eps=8 / 255, norm="l2",
            step_size=0.01, steps=7, random_start=True, targeted="3", objective="dlr", momentum=0.5, restarts=3,
            dead_units=True, surface=True, worst_case=True, control=("all", "gaussian-noise"),
            layer=("head", "last:2"), probes=9, limit=5, samples=(3, 17), only_correct=True, batch_size=4, seed=2,
            device="cpu", dtype="float64", images="none", bounds=(-1.0, 1.0),
        )
    ]  # fmt: skip


def test_a_flag_wins_over_a_file_and_a_file_over_the_default(planned, flatlens, tmp_path):
    file = tmp_path / "spec.toml"
    file.write_text('steps = 5\nseed = 3\nrandom_start = true\n[attack]\nname = "bim"\neps = 0.1\n')
    flatlens("trace", *NEEDED, "--config", file, "--steps", "6", "--eps", "0.2", "--no-random-start", "--dry-run")
    (made,) = planned
    assert (made.steps, made.eps, made.seed, made.attack, made.probes) == (6, 0.2, 3, "bim", 16)
    assert made.random_start is False


def test_set_wins_over_a_flag(planned, flatlens):
    flatlens("trace", *NEEDED, "--steps", "6", "--set", "steps=8", "--set", "attack.eps=0.4", "--dry-run")
    assert (planned[0].steps, planned[0].eps) == (8, 0.4)


def test_batch_size_auto_undoes_a_files(planned, flatlens, tmp_path):
    file = tmp_path / "spec.toml"
    file.write_text("batch_size = 3\n")
    flatlens("trace", *NEEDED, "--config", file, "--batch-size", "auto", "--dry-run")
    assert planned[0].batch_size is None


def test_a_spec_of_a_run_is_a_config(planned, flatlens, tmp_path):
    wanted = options.run_spec(tracing.DEMO).resolved()
    (tmp_path / "spec.toml").write_text(wanted.to_toml())
    flatlens("trace", "--config", tmp_path / "spec.toml", "--dry-run")
    assert planned == [wanted]


def test_the_demo_walks_all_controls_and_keeps_all_images():
    demo = options.run_spec(tracing.DEMO | {"layer": ["conv2"]}).resolved()
    assert (demo.eps, demo.steps, demo.step_size, demo.images) == (0.3, 25, 0.03, "all")
    assert len(demo.control) > 1
    assert demo.layer == ("conv2",)


def test_a_dry_run_of_a_sweep_counts_what_can_be_run(planned, flatlens, tmp_path, monkeypatch):
    file = tmp_path / "s.toml"
    file.write_text('[run]\nmodel = "flatlens:cnn"\ndata = "flatlens:digits"\n')
    answer = flatlens("sweep", file, "--dry-run", "--workers", "1")
    assert answer.code == 0
    assert answer.out.endswith("\n1 cell, 162 passes of a batch, about 75 s of measuring: about 75 s on 1 worker\n")
    for workers in ("0", "-1"):
        answer = flatlens("sweep", file, "--dry-run", "--workers", workers)
        assert answer == (2, "", f"error: --workers {workers}: needs a whole number of at least 1\n")

    def plan(of):
        raise ModelError("no model")

    monkeypatch.setattr(planning, "plan", plan)
    answer = flatlens("sweep", file, "--dry-run")
    assert answer == (2, "", "the one cell: no model\nerror: 1 of 1 cells cannot be run; mend or exclude them\n")


def test_a_dry_run_says_what_it_would_take(planned, flatlens):
    answer = flatlens("trace", *NEEDED, "--dry-run")
    assert answer.err == ""
    for said in ("10, 5 at a time", "82, each of a batch", "3.0 MB", "75 s"):
        assert said in answer.out
    assert json.loads(flatlens("trace", *NEEDED, "--dry-run", "--json").out)["forward_passes"] == 82
