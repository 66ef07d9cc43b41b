"""What is at hand: forms that inputs come in, names nearly right, help, completion, verdicts, names of cells."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foolbox
import numpy as np
import pytest
import torch
import torchattacks
from flatlens_cli import app, doctor, examples
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import flatlens as fl
from flatlens import datasets
from flatlens.errors import AttackError, DataError, FlatlensError, ModelError
from flatlens.peers import verify as verification
from flatlens.specs import wording as settings
from flatlens.sweeps import grid
from tests.expected import cautioned

pytestmark = cautioned("low-accuracy", "out-of-bounds", "probabilities", "too-large", "zero-gradient")

N, SHAPE = 6, (1, 8, 8)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10)).eval()


def data() -> tuple[Tensor, Tensor]:
    return torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(1)), torch.arange(N)


SHORT = fl.attacks.PGD(eps=0.1, steps=2)

# ---- what fl.trace takes ------------------------------------------------------------------------

FORMS: dict[str, Callable[[Tensor, Tensor], tuple[Any, ...]]] = {
    "arrays": lambda x, y: (x.numpy(), y.numpy()),
    "lists": lambda x, y: (x.tolist(), y.tolist()),
    "a list of tensors": lambda x, y: (list(x), list(y)),
    "a loader": lambda x, y: (DataLoader(TensorDataset(x, y), batch_size=4),),
    "a loader of single samples": lambda x, y: (DataLoader(TensorDataset(x, y), batch_size=1),),
    "a dataset": lambda x, y: (TensorDataset(x, y),),
    "a list of batches": lambda x, y: ([(x[:4], y[:4]), (x[4:], y[4:])],),
    "a generator": lambda x, y: (((x[i : i + 2], y[i : i + 2]) for i in range(0, N, 2)),),
    "batches with more in them": lambda x, y: ([(x, y, torch.zeros(N))],),
    "labels of another type": lambda x, y: (x, y.to(torch.int32)),
    "that require a gradient": lambda x, y: (x.clone().requires_grad_(), y),
}


@pytest.mark.parametrize("form", FORMS)
def test_data_in_any_form(form: str) -> None:
    x, y = data()
    plain = fl.trace(net(), x, y, attack=SHORT)
    assert fl.trace(net(), *FORMS[form](x, y), attack=SHORT).steps.equals(plain.steps)
    point = fl.curvature(net(), *FORMS[form](x, y))
    assert torch.equal(point.trace, fl.curvature(net(), x, y).trace)  # type: ignore[union-attr]


WRONG: dict[str, tuple[Callable[[Tensor, Tensor], tuple[Any, ...]], str]] = {
    "no labels": (lambda x, y: (x,), "y is missing"),
    "no labels of arrays": (lambda x, y: (x.numpy(),), "y is missing"),
    "nothing": (lambda x, y: (iter([]),), "the data yield nothing"),
    "inputs alone": (lambda x, y: ([x],), "pairs (x, y) of inputs and labels are needed"),
    "batches of several shapes": (lambda x, y: ([(x, y), (x[:, :, :4], y)],), "the batches differ in shape"),
    "text": (lambda x, y: (["cat", "dog"], [0, 1]), "cannot be read as numbers"),
    "an object": (lambda x, y: (object(),), "a object is no data"),
    "a name and labels": (lambda x, y: ("flatlens:digits", y), "names data, which have labels of their own"),
    "a name of none": (lambda x, y: ("Npz:x.npz",), "Did you mean 'npz"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_data_in_no_form(kind: str) -> None:
    give, message = WRONG[kind]
    with pytest.raises(DataError) as caught:
        fl.trace(net(), *give(*data()), attack=SHORT)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def walk(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    for _ in range(2):
        x = x.detach().requires_grad_()
        torch.nn.functional.cross_entropy(model(x), y, reduction="sum").backward()
        assert x.grad is not None
        x = (x + 0.01 * x.grad.sign()).clamp(0, 1)
    return x.detach()


class Caller:
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return walk(model, x, y)


def own(victim: Any, batch: Any, rng: Any) -> Any:
    yield victim(batch.x, batch.y)


ATTACKS: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "nothing": (lambda model: None, "pgd"),
    "a name": (lambda model: "pgd", "pgd"),
    "another name": (lambda model: "apgd-ce", "apgd-ce"),
    "one of ours": (lambda model: fl.attacks.APGDCE(eps=0.1, steps=2), "apgd-ce"),
    "a name of torchattacks": (lambda model: "torchattacks:PGD?eps=0.1&steps=2", "torchattacks:PGD?eps=0.1&steps=2"),
    "a name of foolbox": (lambda model: "foolbox:LinfPGD?eps=0.1&steps=2", "foolbox:LinfPGD?eps=0.1&steps=2"),
    "of torchattacks": (lambda model: torchattacks.PGD(model, eps=0.1, steps=2), "torchattacks PGD"),
    "of foolbox": (lambda model: foolbox.attacks.L2DeepFoolAttack(steps=2), "foolbox L2DeepFoolAttack"),
    "recorded": (lambda model: fl.attacks.recorded(foolbox.attacks.LinfPGD(steps=2), eps=0.1), "foolbox"),
    "a function": (lambda model: walk, "walk"),
    "a lambda": (lambda model: lambda m, x, y: walk(m, x, y), "<lambda>"),
    "a callable": (lambda model: Caller(), "Caller"),
    "a method": (lambda model: Caller().__call__, "__call__"),
    "that walks by itself": (lambda model: own, "own"),
}


@pytest.mark.parametrize("kind", ATTACKS)
def test_attacks_in_any_form(kind: str, tmp_path: Path) -> None:
    make, name = ATTACKS[kind]
    model, (x, y) = net(), data()
    trace = fl.trace(model, x, y, attack=make(model), out=tmp_path / "run")
    assert str(trace.spec["attack"]).startswith(name) and trace.steps.num_rows >= N
    opened = fl.open(tmp_path / "run")
    assert opened.steps.equals(trace.steps) and name in opened.spec["attack"]


@pytest.mark.parametrize(
    ("attack", "message"),
    [("PGD", "Did you mean 'pgd'?"), ("Apgd-CE", "Did you mean 'apgd-ce'?"),
     ("tochattacks:PGD", "Did you mean 'torchatt"),
     ("FoolBox:LinfPGD?eps=1", "Did you mean 'foolbox'?"), ("torchattacks:pgd", "Did you mean 'PGD'?"),
     ("foolbox:linfpgd?eps=1", "Did you mean"), (torchattacks.PGD, "'PGD' is a class; make an attack of it"),
     (3, "is no attack"), (foolbox.attacks.LinfPGD(), "needs a radius"), ("path:none.npz", "cannot read 'none.npz'")],
)  # fmt: skip
def test_attacks_that_are_none(attack: Any, message: str) -> None:
    with pytest.raises(FlatlensError) as caught:
        fl.trace(net(), *data(), attack=attack)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_models_and_data_by_name() -> None:
    trace = fl.trace("flatlens:cnn?width=2", "flatlens:digits", attack=fl.attacks.FGSM(eps=0.1), batch_size=256)
    assert (trace.spec["model"], trace.spec["data"]) == ("flatlens:cnn?width=2", "flatlens:digits")
    assert trace.labels == tuple("0123456789")
    with pytest.raises(ModelError, match="the model is a class; give a torch.nn.Module"):
        fl.trace(nn.Linear, *data())
    assert fl.trace(net(), *data(), attack=SHORT, layers="all").layer_names == ("0", "head")


# ---- names that are nearly right ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "message"),
    [("Timm:resnet18", "Did you mean 'timm'?"), ("tmim:resnet18", "Did you mean 'timm'?"), ("TIMM:x", "mean 'timm'?"),
     ("torchvison:resnet18", "Did you mean 'torchvision'?"), ("Flatlens:cnn", "Did you mean 'flatlens'?"),
     ("flatlens:CNN", "Did you mean 'flatlens:cnn'?"), ("flatlens:Digits-CNN", "Did you mean 'flatlens:digits-cnn'?"),
     ("HF:folder", "Did you mean 'hf'?"), ("CKPT:w.pt?arch=flatlens:cnn", "Did you mean 'ckpt'?"),
     ("flatlens:cnn?Width=3", "Did you mean 'width'?"), ("flatlens:cnn?act=ReLU", "Did you mean 'relu'?"),
     ("best.pth", "ckpt:best.pth?arch=my_model.py:make"), ("my_model.py", "my_model.py:make")],
)  # fmt: skip
def test_models_that_are_nearly_right(uri: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["trace", "--model", uri, "--data", "flatlens:digits", "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("uri", "message"),
    [("Idx:folder", "Did you mean 'idx:folder'?"), ("NPZ:a.npz", "Did you mean 'npz:"),
     ("flatlens:Digits", "flatlens:digits"),
     ("imagefoldr:x", "Did you mean 'imagefolder:x'?"), ("mine.npz", "Did you mean 'npz:mine.npz'?")],
)  # fmt: skip
def test_data_that_are_nearly_right(uri: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        datasets.load(uri)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [({"images": np.zeros((3, 1, 8, 8), np.float32), "labels": np.zeros(3, np.int64)},
      "it has: images float32 [3, 1, 8, 8], labels int64 [3]"),
     ({"X": np.zeros((3, 4)), "Y": np.zeros(3, np.uint8)}, "it has: X float64 [3, 4], Y uint8 [3]; "),
     ({"x": np.zeros((3, 4)), "y": np.zeros((3, 1), int), "extra": np.zeros(2)},
      "holds: x float64 [3, 4], y int64 [3, 1], extra float64 [2]"),
     ({"x": np.zeros((3, 4)), "y": np.zeros(3)}, "holds: x float64 [3, 4], y float64 [3]"),
     ({"x": np.zeros((3, 4), int), "y": np.zeros(3, int)}, "holds: x int64 [3, 4], y int64 [3]")],
)  # fmt: skip
def test_errors_list_all_arrays(arrays: dict[str, Any], says: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=re.escape(says)):
        datasets.load(f"npz:{tmp_path}/a.npz")
    with pytest.raises(AttackError, match=re.escape(next(iter(arrays)) + " ")):
        fl.trace(net(), *data(), attack=f"path:{tmp_path}/a.npz")


# ---- cautions -----------------------------------------------------------------------------------


class Soft(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.soft = net(), nn.Softmax(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.soft(self.body(x))


class InForward(Soft):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.body(x), 1)


class Spread(Soft):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.soft(self.body(x))}


SOFT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "the last of a row": (lambda: nn.Sequential(*net(), nn.Softmax(1)), "model[4] = torch.nn.Identity()"),
    "nested": (lambda: nn.Sequential(net(), nn.Sequential(nn.Identity(), nn.Softmax(-1))), "model[1][1] = torch.nn"),
    "an attribute": (
        Soft,
        "the Softmax 'soft' at the end makes them so; take it away: model.soft = torch.nn.Identity()",
    ),
    "a dictionary": (Spread, "model.soft = torch.nn.Identity()"),
    "in the forward": (InForward, "the forward of InForward makes them so"),
}


@pytest.mark.parametrize("kind", SOFT)
@pytest.mark.parametrize("normalize", [None, (0.3, 0.5)])
def test_a_softmax_at_the_end_is_named(kind: str, normalize: Any) -> None:
    make, says = SOFT[kind]
    trace = fl.trace(make().eval(), *data(), attack=SHORT, layers=["last:1"], normalize=normalize)
    said = {caution.code: caution.message for caution in trace.cautions}
    assert says in said["probabilities"] and "outputs are non-negative and sum to 1" in said["probabilities"]


ROUNDED: dict[str, tuple[Callable[[Tensor], Tensor], tuple[float, float], bool]] = {
    "inside": (lambda x: x, (0, 1), False),
    "float16": (lambda x: (x + 1.0005 - float(x.max())).half().float(), (0, 1), False),
    "bfloat16": (lambda x: (x + 1.004 - float(x.max())).bfloat16().float(), (0, 1), False),
    "bytes, normalised and back": (lambda x: ((x * 255).round() / 255 - 0.485) / 0.229 * 0.229 + 0.485, (0, 1), False),
    "bytes from -1 to 1": (lambda x: (x * 255).round() / 127.5 - 1, (-1, 1), False),
    "a hair above": (lambda x: x / x.max() * (1 + 2e-7), (0, 1), False),
    "outside": (lambda x: x / x.max() * 1.001, (0, 1), True),
    "float16, outside": (lambda x: (x / x.max() * 1.01).half().float(), (0, 1), True),
    "of other bounds": (lambda x: x * 2 - 1, (0, 1), True),
    "bytes": (lambda x: (x * 255).round(), (0, 1), True),
}


@pytest.mark.parametrize("kind", ROUNDED)
def test_rounding_is_no_caution(kind: str) -> None:
    make, bounds, wanted = ROUNDED[kind]
    x, y = data()
    trace = fl.trace(net(), make(x), y, attack=SHORT, bounds=bounds)
    assert ("out-of-bounds" in {caution.code for caution in trace.cautions}) == wanted


# ---- the command line ---------------------------------------------------------------------------


def test_every_command_has_examples_that_it_would_take(capsys: pytest.CaptureFixture[str]) -> None:
    for command in app.application().registered_commands:
        name = str(command.name)
        lines = examples.EXAMPLES[name]
        assert app.run([name, "--help"]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        known = set(re.findall(r"--[a-z-]+", shown))
        for line in lines:
            words = shlex.split(line)
            assert words[:2] == ["flatlens", name] and {w for w in words if w.startswith("--")} <= known
            assert words[2] in shown if len(words) > 2 else True


def complete(line: str, shell: str = "zsh") -> str:
    """What a shell is offered for the last word of a line; that no torch is imported is seen by its absence."""
    code = "import sys; sys.modules['torch'] = None; from flatlens_cli.app import main; main()"
    where = {"_FLATLENS_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": line, "COMP_WORDS": line,
             "COMP_CWORD": str(len(line.split(" ")) - 1)}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, "flatlens"], env=os.environ | where, capture_output=True, text=True
    )
    assert not done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("line", "offered"),
    [("flatlens trace --attack p", "pgd"), ("flatlens trace --attack t", "torchattacks"),
     ("flatlens trace --control g", "gaussian-noise"), ("flatlens trace --norm l", "linf"),
     ("flatlens trace --model flatlens:d", "digits-cnn-robust"), ("flatlens trace --data f", "digits"),
     ("flatlens trace --images k", "key"), ("flatlens trace --layer h", "head"),
     ("flatlens train --model flatlens:v", "vgg"),
     ("flatlens export x --format p", "parquet"), ("flatlens sweep x --engine r", "ray"), ("flatlens tr", "trace")],
)  # fmt: skip
def test_completion_needs_no_torch(line: str, offered: str) -> None:
    assert offered in complete(line)


def test_completion_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flatlens", "--show-completion", "bash"],
        # The shell is named, and not the one that the tests happen to run under.
        env=os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert app.run(["--help"]) == 0 and "--install-completion" in capsys.readouterr().out
    assert "complete" in done.stdout + done.stderr


def check(**known: Any) -> verification.Check:
    plain: dict[str, Any] = {
        "layer": "fc", "measure": "trace", "method": "exact", "exact": True, "flatlens": 1.0, "dense": 1.0,
        "error": 0.0,        "pyhessian": 1.0, "stderr": 0.1, "deviation": 0.0, "seconds": 0.1, "seconds_dense": 0.1,
        "seconds_pyhessian": 0.1,
    }  # fmt: skip
    return verification.Check(**(plain | known))


VERDICTS: dict[str, tuple[list[verification.Check], bool]] = {
    "right": ([check()], True),
    "one wrong": ([check(), check(layer="conv", error=1e-3)], False),
    "not a number": ([check(error=float("nan"))], False),
    "an estimate that differs": ([check(), check(exact=False, error=0.3)], True),
    "far from PyHessian's": ([check(), check(dense=None, error=None, deviation=9.0)], False),
    "near PyHessian's": ([check(), check(dense=None, error=None, deviation=-2.0)], True),
    "no way to judge": ([check(exact=False)], False),
    "nothing": ([], False),
}


@pytest.mark.parametrize("kind", VERDICTS)
def test_verify_ends_in_a_verdict(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checks, fine = VERDICTS[kind]
    monkeypatch.setattr(verification, "verify", lambda model, data: checks)
    assert app.run(["verify"]) == (0 if fine else 1)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("verdict  fine: " if fine else "verdict  ")
    assert app.run(["verify", "--json"]) == (0 if fine else 1)
    assert json.loads(capsys.readouterr().out)["fine"] is fine


def test_doctor_knows_all_optional_parts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = {k: v for k, v in project["optional-dependencies"].items() if k not in ("test", "dev")}
    needs = [f"{line}; extra == '{extra}'" for extra, lines in extras.items() for line in lines]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: [*project["dependencies"], *needs])

    def gone(name: str) -> str:
        raise doctor.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", gone)
    assert app.run(["doctor", "--json"]) == 0
    missing = json.loads(capsys.readouterr().out)["missing"]
    for name in ("pandas", "pillow", "timm", "torchvision", "transformers", "ray", "foolbox"):
        assert missing[name].startswith("pip install 'flatlens[")
    for name in ("torchattacks", "pyautoattack"):
        assert missing[name].startswith("pip install --no-deps ")
    assert "pip install --no-deps robustbench==1.1.1 " in missing["robustbench"]
    assert app.run(["doctor"]) == 0
    assert capsys.readouterr().out.count("  huggingface-hub ") == 2  # among the versions, and among what is missing


def test_a_run_has_a_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--model",
        "flatlens:cnn?width=2",
        "--data",
        "flatlens:digits",
        "--limit",
        "4",
        "--steps",
        "1",
        "--name",
        "mine",
    ]
    assert app.run(["trace", *words, "--quiet", "--out", str(tmp_path / "run")]) == 0
    assert app.run(["status", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "1 of 1 batches" in said and "mine" in said and "flatlens:cnn?width=2" in said
    assert app.run(["status", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["spec"]["name"] == "mine"
    (tmp_path / "run" / "manifest.json").unlink()
    assert app.run(["status", str(tmp_path / "run")]) == 2


@pytest.mark.parametrize("format", ["jsonl", "ndjson", "json"])
def test_lines_of_json(format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fl.trace(net(), *data(), attack=SHORT, out=tmp_path / "run")
    assert app.run(["export", str(tmp_path / "run"), "--format", format]) == 0
    lines = (tmp_path / "run" / f"export.{format}").read_text().splitlines()
    assert len(lines) == 3 * N and json.loads(lines[0])["layer"] == "head"
    capsys.readouterr()
    assert app.run(["export", str(tmp_path / "run"), "--format", format, "--out", "-"]) == 0
    assert capsys.readouterr().out.splitlines() == lines


# ---- names of cells -----------------------------------------------------------------------------

BASE = {"model": "flatlens:cnn", "data": "flatlens:digits"}


def labels(**tables: Any) -> list[str]:
    cells = grid.cells_of(tables).cells
    return list(settings.labels({cell.key: cell.spec.to_dict() for cell in cells}).values())


def test_cells_are_called_by_their_names() -> None:
    moves = [{"name": ["plain", "wide"], "model": ["flatlens:cnn", "flatlens:cnn?width=32"]}]
    data_ = {"data": "flatlens:digits"}
    assert labels(run=data_, zip=moves) == ["plain", "wide"]
    assert labels(run=data_, zip=moves, grid={"seed": [0, 1]}) == ["plain, seed 0", "wide, seed 0", "plain, seed 1",
                                                                   "wide, seed 1"]  # fmt: skip
    assert labels(run=BASE | {"name": "all"}, grid={"seed": [0, 1]}) == ["all, seed 0", "all, seed 1"]
    assert labels(run=BASE | {"name": "one"}) == ["one"]
    assert labels(run=BASE, grid={"seed": [0, 1]}) == ["seed 0", "seed 1"]


def test_a_name_changes_nothing_else(tmp_path: Path) -> None:
    plain, named = fl.RunSpec(**BASE), fl.RunSpec(**BASE, name="mine")
    assert plain.hash() == named.hash() and grid.key_of(plain.resolved()) == grid.key_of(named.resolved())
    assert "name" not in plain.to_dict() and named.to_dict()["name"] == "mine"
    for bad in ("", "  ", "two\nlines", "\x1b[31m"):
        with pytest.raises(FlatlensError, match="--name .* needs a line of text"):
            fl.RunSpec(**BASE, name=bad)


def test_names_are_shown_in_tables_and_on_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "s.toml"
    text = ('[run]\ndata = "flatlens:digits"\nlimit = 4\nsteps = 1\n[[zip]]\nname = ["thin", "broad"]\n'
            'model = ["flatlens:cnn?width=2", "flatlens:cnn?width=3"]\n')  # fmt: skip
    file.write_text(text)
    words = ["sweep", str(file), "--workers", "1", "--out", str(tmp_path / "out"), "--quiet"]
    assert app.run(words) == 0
    table = fl.open(tmp_path / "out").cells
    assert set(table["name"].to_pylist()) == {"thin", "broad"}
    assert app.run(["export", str(tmp_path / "out"), "--out", "-"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith('"cell","name","model"')
    page = (tmp_path / "out" / "report.html").read_text()
    assert '"thin"' in page and '"broad"' in page
    file.write_text(text.replace("broad", "wide"))
    assert app.run(words) == 0  # nothing is done again, and it is called otherwise
    assert set(fl.open(tmp_path / "out").cells["name"].to_pylist()) == {"thin", "wide"}


def test_the_table_of_names_needs_no_torch() -> None:
    code = ("import sys; sys.modules['torch'] = None\nfrom flatlens_cli import completing\n"
            "for name, complete in completing.FOR.items(): assert complete(''), name")  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_attack_of_the_bare_model_is_told_of_its_normalisation() -> None:
    model, (x, y) = net(), data()
    with pytest.raises(AttackError, match=r"build the attack around fl.normalized\(model, mean, std\), and trace that"):
        fl.trace(model, x, y, attack=torchattacks.PGD(model, steps=2), normalize=(0.3, 0.5))
    whole = fl.normalized(model, 0.3, 0.5)
    trace = fl.trace(whole, x, y, attack=torchattacks.PGD(whole, steps=2), layers=["0", "head"])
    assert trace.layer_names == ("0", "head")
    assert fl.curvature(whole, x, y).trace.equal(fl.curvature(model, x, y, normalize=(0.3, 0.5)).trace)  # type: ignore[union-attr]


def test_layers_are_listed_by_their_own_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    assert app.run(["layers", "--model", f"{tmp_path}/own.py:make?mean=0.3&std=0.5", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["layers"]] == ["1"]
    assert app.run(["models"]) == 0 and "?mean=M&std=S" in capsys.readouterr().out
