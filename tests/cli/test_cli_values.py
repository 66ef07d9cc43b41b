"""Whatever is typed where a value belongs ends in one line and exit code 2, or works; never in `internal:`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from flatlens_cli import app

from flatlens import datasets, models
from flatlens.errors import SpecError
from flatlens.measure import load as loading
from flatlens.measure import plan as planning
from flatlens.measure import prepare as preparing
from flatlens.measure import run as execute
from flatlens.peers import verify as verification
from flatlens.specs.run import RunSpec, from_dict
from flatlens.specs.toml import assign
from flatlens.specs.train import TrainSpec
from flatlens.specs.values import number, whole
from flatlens.training import recipes as trained

NO_NUMBERS = (
    *("", " ", "٣", "१२", "１", "²", "½", "Ⅳ", "1_0", "1_000.5", "0x10", "0b1", "1e", "e1", ".", "1/", "/2", "1/0"),
    *("1/2/3",),
    *("1,5", "1 0", "٣/255", "--", "one", "1\x00", "1\n", "\t1", "1\u00a0", "1\u200b", "１e３", "∞", "nan(3)"),
    *("9" * 10_000, "1" * 500, "\ud800", "+-1", "1+1", "None", "true", "[1]"),
)  # fmt: skip
NUMBERS = {
    "3": 3.0,
    " 3 ": 3.0,
    "+3": 3.0,
    "-0.5": -0.5,
    ".5": 0.5,
    "5.": 5.0,
    "3e-1": 0.3,
    "8/255": 8 / 255,
    "1E2": 100.0,
}


@pytest.mark.parametrize("text", NO_NUMBERS, ids=ascii)
def test_what_is_no_number(text: str) -> None:
    assert whole(text) is None or text == "1" * 500
    with pytest.raises(SpecError, match=r"is not a number; write 0.3 or 8/255$") as caught:
        number(text)
    assert len(str(caught.value)) < 300


def test_what_is_a_number() -> None:
    assert {text: number(text) for text in NUMBERS} == NUMBERS
    assert [whole(text) for text in ("3", "-3", "+3", " 3 ", "007")] == [3, -3, 3, 3, 7]
    assert [whole(text) for text in ("3.0", "8/2", "1e3", "inf")] == [None] * 4


ODD = (
    *NO_NUMBERS,
    *("inf", "-inf", "nan", "1e999", "-1", "0", str(2**63), str(2**64), str(-(2**70)), "9" * 300, "1e-400", "0.5"),
    *("a\x1b[2J", "a\u202eb", "../..", "~", "~nobody/x", "/", "/dev/null", "x" * 5000, "/" + "x/" * 3000),
    *("a:b", ":", "?"),
    *("a?b", "a?b=", "a?=b", "a:b?c=%00", "a:b?c=%ff", "a:b?c=%", "npz:\x00", "file.py:f", "a=b"),
    *("%s%n",),
    *("{}", "{0}", "*"),
    *("[", "[red]", "head,", ",", "3,", "3,,4", "3-5", "3,3", "-1,2", "٣,٤", "all", "last:", "last:x", "last:٣"),
    *("last:0", "**", "[!", "auto", "cuda:99", "cpu:x", "xpu", "meta", "é", "模型", "😀"),
)  # fmt: skip


COMMAND = typer.main.get_command(app.application())


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """All that is quick is done: data and models are loaded, and nothing is measured."""

    def load(spec: RunSpec, *_: Any, **__: Any) -> None:
        spec = spec.resolved()
        data = datasets.load(spec.data)
        loading.samples_of(spec, data.y)
        preparing.device_of(spec.device)
        models.load(spec.model, shape=(1, 8, 8), classes=10)
        raise SpecError("reached")

    def train(model: str, recipe: TrainSpec, file: Path, **_: Any) -> None:
        models.load(model, shape=(1, 8, 8), classes=10)
        datasets.load(datasets.with_split(str(recipe.data), "train"))
        raise SpecError("reached")

    monkeypatch.setattr(app, "application", lambda typed=None: COMMAND)  # made once, and not for each value
    for module in (execute, planning, verification):
        monkeypatch.setattr(module, "load", load)
    monkeypatch.setattr(trained, "train", train)
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.rglob("*.tmp"))


BASE = {"--model": "flatlens:mlp?width=4", "--data": "flatlens:digits"}
TRACE = (
    *("--model", "--data", "--config", "--set", "--attack", "--eps", "--norm", "--step-size", "--steps", "--targeted"),
    *(
        "--objective",
        "--momentum",
        "--restarts",
        "--control",
        "--layer",
        "--probes",
        "--limit",
        "--samples",
        "--images",
    ),
    *("--batch-size", "--seed", "--device", "--dtype", "--out"),
)
TRAIN = (
    *("--model", "--data", "--out", "--epochs", "--lr", "--batch-size", "--weight-decay", "--adversarial", "--eps"),
    *("--steps", "--limit", "--seed"),
)
SWEEP = ("--out", "--workers", "--engine", "--address", "--gpus", "--shard", "--timeout")


def refused(words: list[str], capsys: pytest.CaptureFixture[str], also: tuple[int, ...] = ()) -> None:
    code = app.run(words)
    said = capsys.readouterr()
    where = [ascii(word)[:80] for word in words]
    assert "internal:" not in said.err and "Traceback" not in said.err, (where, said.err)
    assert code == 2 or code in also, (where, code, said.err[:300])
    if code == 2:
        assert said.err.count("\n") == 1 and said.err.startswith("error: ") and said.out == "", (where, said.err)
        assert len(said.err) < 6000 or max(map(len, words)) > 4000, where


@pytest.mark.parametrize("flag", TRACE)
def test_trace(stubs: None, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    for value in ODD:
        words = ["trace"]
        for name, given in (BASE | {"--out": "out"} | {flag: value}).items():
            words.append(f"{name}={given}")
        # Who is not root cannot write everywhere: then it is the disk that refuses.
        refused(words, capsys, also=(1,) if flag == "--out" else ())


@pytest.mark.parametrize("flag", TRAIN)
def test_train(stubs: None, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    for value in ODD:
        given = BASE | {"--out": "m.safetensors"} | {flag: value}
        refused(["train", *(f"{name}={value}" for name, value in given.items())], capsys)


@pytest.mark.parametrize("flag", SWEEP)
def test_sweep(stubs: None, flag: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from flatlens.sweeps.engines import starting

    def nothing(*_: object, **__: object) -> None:
        raise SpecError("reached")

    monkeypatch.setattr(starting, "start", nothing)
    Path("s.toml").write_text(
        '[run]\nmodel = "flatlens:mlp?width=4"\ndata = "flatlens:digits"\n[grid]\nseed = [0, 1]\n'
    )
    for value in ODD:
        refused(["sweep", "s.toml", f"{'--out=out' if flag != '--out' else '--seed=1'}", f"{flag}={value}"], capsys)


@pytest.mark.parametrize("command", ["status", "report", "export", "sweep", "layers", "verify"])
def test_what_is_named(stubs: None, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for value in ODD:
        words = [command, f"--model={value}"] if command in ("layers", "verify") else [command, "--", value]
        refused(words, capsys)


SETTINGS = (
    *("train=3", "train='x'", "train=[]", "train.x=1", "train.epochs=٣", "train.epochs=nan", "train.lr=1e999"),
    *("train.trust_pickle=true", "bounds=[0]", "bounds=[1,0]", "bounds=[0,nan]", "bounds=[-inf,inf]", "bounds=0"),
    *(f"bounds=[0,{10**400}]", f"eps={10**400}", "eps=1" + "0" * 5000, f"steps={10**400}", f"seed={-(10**400)}"),
    *("eps=1979-05-27", "eps=07:32:00", "eps={a=1}", "eps=[0.1]", "eps=true", "model=3", "model=['a']", "layer=3"),
    *("layer=[]", "layer=[[]]", "layer=[3]", "samples=[]", "samples=[-1]", "samples=[true]", "samples=[1,1]"),
    *("samples='3,17'", f"samples=[{2**64}]", "control=[3]", "attack=3", "attack={}", "attack={name={name='pgd'}}"),
    *("attack={name='pgd',trust_pickle=true}", "attack='torchattacks:'", "attack='torchattacks:PGD?eps=٣'"),
    *("attack='torchattacks:PGD?steps=99999999999999999999'", "attack='path:'", "attack='path:x\\u0000.npz'"),
    *("attack=':'", "attack='a:b?c'", "attack.attack.eps=1"),
    *(".=1", "=1", " =1", "a", "a.b.c=1", "..=..", "eps"),
    *("é=1",),
    *("eps=[" + "[" * 5000, "eps='" + "x" * 100_001 + "'", "targeted='²'", "targeted='٣'", "targeted=-1"),
    *("targeted=true",),
    *("targeted=99999999999999999999", "images=1", "dtype='float16'", "trust_code=true", "device='\\u0000'"),
    *("model='npz:\\u0000'", "data='npz:\\u0000'", "data='idx:\\u0000?split=%00'", "data='npz:x?split=%00'"),
    *("model='\\u0000.py:f'", "model='ckpt:\\u0000?arch=flatlens:mlp'", "model='hf:\\u0000'", "model='a\\u0000b:f'"),
    *("data='imagefolder:\\u0000'", "data='hf:\\u0000'", "data='torchvision:\\u0000'", "model='export:\\u0000'"),
)  # fmt: skip


@pytest.mark.parametrize("text", SETTINGS, ids=lambda text: ascii(text)[:60])
def test_settings(stubs: None, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"{name}={value}" for name, value in BASE.items()]
    refused(["trace", *words, "--dry-run", "--set", text], capsys)
    refused(["trace", *words, "--dry-run", "--set", text, "--set", "train.epochs=3"], capsys)
    key, _, value = text.partition("=")
    Path("c.toml").write_text(f"model = 'flatlens:mlp'\ndata = 'flatlens:digits'\n{key} = {value}\n", errors="replace")
    refused(["trace", "--config", "c.toml", "--dry-run"], capsys)


def test_a_recipe_that_is_no_table() -> None:
    with pytest.raises(SpecError, match="train is 5, and no table"):
        assign({}, ["train=5", "train.epochs=3"])
    with pytest.raises(SpecError, match="--eps: has more digits than a number can have"):
        from_dict({"model": "m", "data": "d", "eps": 10**400})


def test_names_that_are_no_utf8(stubs: None, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Python hands over the bytes of an argument that are no UTF-8 as halves of characters."""
    name = os.fsdecode(b"caf\xe9")
    for words in (
        ["trace", "--model", f"{name}.py:f", "--data", "flatlens:digits", "--out", "o"],
        ["trace", "--model", "flatlens:mlp", "--data", f"npz:{name}", "--out", "o"],
        ["trace", "--config", name], ["status", name], ["report", name], ["export", name], ["sweep", name], [name],
        ["trace", f"--{name}"], ["trace", "--layer", name, *(f"{k}={v}" for k, v in BASE.items()), "--out", "o"],
    ):  # fmt: skip
        refused(words, capsys)
