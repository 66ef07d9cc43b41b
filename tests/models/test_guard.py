"""Models that misbehave, at whatever pass: one line that names it, and nothing finished is lost."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flatlens_cli import app
from torch import Tensor, nn

import flatlens as fl
from flatlens.errors import FlatlensError, ModelError, ResourceError
from flatlens.records import runs
from flatlens.victims.images import ImageVictim
from tests.expected import cautioned

STEPS, BATCH, N = 8, 4, 8
"""Of the attack, and samples at a time, of so many."""


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError("no message")


class UnprintableBaseError(BaseException):
    def __str__(self) -> str:
        raise SystemExit(9)


class Stray(torch.autograd.Function):
    """Raises in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise ValueError("backward is not there")


def throwing(error: Callable[[], BaseException]) -> Callable[[nn.Module, Tensor, Tensor], Any]:
    def body(net: nn.Module, x: Tensor, z: Tensor) -> Any:
        raise error()

    return body


def warned(net: nn.Module, x: Tensor, z: Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.warn("deprecated", UserWarning, stacklevel=1)


def endless(net: nn.Module, x: Tensor, z: Tensor) -> Any:
    return endless(net, x, z)


def under_no_grad(net: nn.Module, x: Tensor, z: Tensor) -> Any:
    with torch.no_grad():
        return z * 1


WAYS: dict[str, Callable[[nn.Module, Tensor, Tensor], Any]] = {
    "runtime": throwing(lambda: RuntimeError("two\nlines")),
    "value": throwing(lambda: ValueError("")),
    "key": throwing(lambda: KeyError("weights")),
    "os": throwing(lambda: OSError(5, "no such disk")),
    "exit": throwing(lambda: SystemExit(3)),
    "exit without a code": throwing(SystemExit),
    "stop iteration": throwing(lambda: StopIteration(1)),
    "generator exit": throwing(GeneratorExit),
    "unprintable": throwing(UnprintableError),
    "unprintable base": throwing(UnprintableBaseError),
    "base": throwing(lambda: BaseException("base")),
    "control characters": throwing(lambda: RuntimeError("\x1b[31mred\x07")),
    "long": throwing(lambda: RuntimeError("x" * 10**6)),
    "recursion": endless,
    "warning": warned,
    "assertion": throwing(AssertionError),
    "not implemented": throwing(NotImplementedError),
    "None": lambda net, x, z: None,
    "a tuple": lambda net, x, z: (z, z),
    "an empty dictionary": lambda net, x, z: {},
    "fewer rows": lambda net, x, z: z[:-1],
    "more rows": lambda net, x, z: torch.cat([z, z]),
    "fewer classes": lambda net, x, z: z[:, :-1],
    "more classes": lambda net, x, z: torch.cat([z, z], 1),
    "flat": lambda net, x, z: z.flatten(),
    "one more axis": lambda net, x, z: z[:, :, None],
    "double": lambda net, x, z: z.double(),
    "half": lambda net, x, z: z.half(),
    "whole numbers": lambda net, x, z: z.long(),
    "complex": lambda net, x, z: z.to(torch.complex64),
    "bool": lambda net, x, z: z > 0,
    "detached": lambda net, x, z: z.detach(),
    "no_grad": under_no_grad,
    "not of x": lambda net, x, z: torch.zeros_like(z) + torch.ones(3, requires_grad=True),
    "numpy": lambda net, x, z: z.detach().numpy(),
    "backward": lambda net, x, z: Stray.apply(z),
}
NO_GRADIENT = ("detached", "no_grad", "not of x", "backward")


class Moody(nn.Module):
    """Misbehaves at one pass, counted over all copies, from when it is armed."""

    def __init__(self, way: str) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.hidden, self.fc = nn.Linear(6, 8), nn.Linear(8, 3)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=g))
        self.way, self.state = way, {"left": -1}

    def __deepcopy__(self, memo: dict[int, Any]) -> Moody:
        made = Moody(self.way)
        made.load_state_dict(self.state_dict())
        made.state = self.state
        return made.train(self.training)

    def forward(self, x: Tensor) -> Any:
        z = self.fc(torch.relu(self.hidden(x)))
        self.state["left"] -= 1
        return WAYS[self.way](self, x, z) if self.state["left"] == 0 else z


class Armed(fl.attacks.PGD):  # type: ignore[misc]
    """PGD before whose first step the model is armed."""

    at = 0
    model: Moody

    def __call__(self, victim: Any, batch: Any, rng: Any) -> Any:
        if self.at and self.model.state["left"] < 0:
            self.model.state["left"] = self.at
            Armed.at = 0
        yield from super().__call__(victim, batch, rng)


PASSES = {"first": 1, "seventh": 7, "last batch": STEPS + 3 + 7}
"""Each batch makes a pass at each point of its path, one for the gradient at its end, and one to confirm its result."""
SAID = {"first": "at pass 1: step 0 of batch 1 of ", "seventh": "at pass 7: step 6 of batch 1 of ",
        "last batch": "at pass 7: step 6 of batch 2 of "}  # fmt: skip


@pytest.mark.parametrize("when", PASSES)
@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_misbehaves(way: str, when: str) -> None:
    model = Moody(way).eval()
    x, y = torch.rand(N, 6, generator=torch.Generator().manual_seed(1)), torch.arange(N) % 3
    Armed.at, Armed.model = PASSES[when], model
    with pytest.raises(ModelError) as caught:
        fl.trace(model, x, y, attack=Armed(eps=0.1, steps=STEPS), batch_size=BATCH)
    text = str(caught.value)
    assert SAID[when] in text and "\n" not in text and len(text) < 600 and text.isprintable()
    assert text.startswith("the model fails ") and model.state["left"] <= 0


@cautioned("not-converged")
@pytest.mark.parametrize("way", [way for way in WAYS if way not in NO_GRADIENT])
def test_a_model_that_misbehaves_before_the_attack(way: str) -> None:
    model = Moody(way).eval()
    x = torch.rand(N, 6)
    for at in (1, 2, 3):
        model.state["left"] = at
        try:
            fl.trace(model, x, torch.arange(N) % 3, attack=fl.attacks.PGD(eps=0.1, steps=2))
        except FlatlensError as error:
            assert "\n" not in str(error) and str(error).isprintable()
        assert model.state["left"] <= 0


@pytest.mark.parametrize("when", PASSES)
def test_ctrl_c_and_memory_are_no_faults_of_the_model(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.rand(N, 6), torch.arange(N) % 3
    for error, wanted in ((KeyboardInterrupt, KeyboardInterrupt), (MemoryError, ResourceError)):
        monkeypatch.setitem(WAYS, "own", throwing(error))
        model = Moody("own").eval()
        Armed.at, Armed.model = PASSES[when], model
        with pytest.raises(wanted):
            fl.trace(model, x, y, attack=Armed(eps=0.1, steps=STEPS), batch_size=BATCH)


@cautioned("not-finite-loss", "silent-success")
def test_nan_is_a_finding_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WAYS, "nan", lambda net, x, z: z * torch.nan)
    model = Moody("nan").eval()
    Armed.at, Armed.model = 7, model
    trace = fl.trace(model, torch.rand(N, 6), torch.arange(N) % 3, attack=Armed(eps=0.1, steps=STEPS), batch_size=BATCH)
    assert "not-finite-loss" in {caution.code for caution in trace.cautions}


MODULE = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(64, 10)
    def forward(self, x):
        z = self.fc(x.flatten(1))
        if len(x) == 3:
            {}
        return z
"""


@pytest.mark.parametrize(
    "body", ["raise SystemExit(0)", "return z.detach()", "raise RuntimeError('no')", "return z[:, :4]"]
)
def test_what_was_finished_is_saved(body: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(MODULE.format(body))
    words = ["trace", "--model", f"{tmp_path}/net.py:Net", "--data", "flatlens:digits", "--limit", "11",
             "--batch-size", "4", "--steps", "3", "--out", str(tmp_path / "run")]  # fmt: skip
    assert app.run(words) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "at pass 1: step 0 of batch 3 of the attack" in said.err
    assert runs.load(tmp_path / "run").missing() == [2]
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["state"] == "running"


def test_a_foreign_attack_tells_the_models_fault_from_its_own() -> None:
    x, y = torch.rand(N, 6), torch.arange(N) % 3

    def walking(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        for _ in range(9):
            x = x.detach().requires_grad_()
            net(x).sum().backward()
        return x

    def failing(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        net(x)
        raise SystemExit(4)

    model = Moody("exit").eval()
    Recording = fl.attacks.recorded(walking)
    before = Recording.run

    def armed(*given: Any) -> Any:
        model.state["left"] = 7
        return before(*given)

    object.__setattr__(Recording, "run", armed)
    with pytest.raises(ModelError, match="the model fails at pass 7 of walking: SystemExit: 3$"):
        fl.trace(model, x, y, attack=Recording)
    model.state["left"] = -1
    with pytest.raises(FlatlensError, match="^failing fails after 1 passes of the model: SystemExit: 4$"):
        fl.trace(model, x, y, attack=failing)


# ---- what is refused by name --------------------------------------------------------------------


class Says(nn.Module):
    """A head, and something that becomes of its logits."""

    def __init__(self, then: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.fc, self.then = nn.Linear(6, 3), then

    def forward(self, x: Tensor) -> Any:
        return self.then(self.fc(x))


def meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(6, 3)


def part_meta() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), meta())


def buffer_of(values: Tensor) -> nn.Module:
    net = nn.Linear(6, 3)
    net.register_buffer("held", values)
    return net


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Linear(6, 3))  # type: ignore[no-any-return]


def traced() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(nn.Linear(6, 3), torch.rand(2, 6))  # type: ignore[no-any-return]


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
        return torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "lazy": (lambda: nn.LazyLinear(3), "lazy: it has no values yet; call the model once"),
    "lazy inside": (lambda: nn.Sequential(nn.Linear(6, 4), nn.LazyBatchNorm1d(), nn.Linear(4, 3)), "is lazy"),
    "meta": (meta, "is on the meta device"),
    "meta inside": (part_meta, "parameter '1.weight' of the model is on the meta device"),
    "meta buffer": (lambda: buffer_of(torch.zeros(3, device="meta")), "buffer 'held' of the model is on the meta"),
    "complex weights": (lambda: nn.Linear(6, 3, dtype=torch.complex64), "parameter 'weight' of the model is complex"),
    "complex buffer": (lambda: buffer_of(torch.zeros(3, dtype=torch.complex128)), "buffer 'held' of the model is comp"),
    "script": (scripted, "the model is TorchScript"),
    "script of a trace": (traced, "the model is TorchScript"),
    "script inside": (lambda: nn.Sequential(nn.Linear(6, 6), scripted()), "layer '1' of the model is TorchScript"),
    "quantised": (quantised, "quantised"),
    "float8": (lambda: buffer_of(torch.zeros(3).to(torch.float8_e4m3fn)), "is quantised (float8_e4m3fn)"),
    "complex logits": (lambda: Says(lambda z: z.to(torch.complex64)), "returns complex64"),
    "labels": (lambda: Says(lambda z: z.argmax(1)), "returns int64"),
    "whole logits": (lambda: Says(lambda z: z.int()), "returns int32"),
    "flags": (lambda: Says(lambda z: z > 0), "returns bool"),
    "a dictionary without logits": (lambda: Says(lambda z: {"z": z}), "returns a dict with z, not logits"),
    "a function": (lambda: torch.relu, "give a torch.nn.Module"),
    "a class": (lambda: nn.Linear, "give a torch.nn.Module"),
    "a state_dict": (lambda: nn.Linear(6, 3).state_dict(), "give a torch.nn.Module"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_name(kind: str) -> None:
    make, message = REFUSED[kind]
    model = make()
    model = model.eval() if isinstance(model, nn.Module) else model
    x, y = torch.rand(N, 6), torch.arange(N) % 3
    for work in (lambda: fl.trace(model, x, y), lambda: fl.curvature(model, x, y)):
        with pytest.raises(ModelError) as caught:
            work()
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_lazy_model_from_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\ndef make():\n    return nn.LazyLinear(10)\n")
    with pytest.raises(ModelError, match=r"is lazy: .*\(in '.*net.py:make'\)"):
        fl.models.load(f"{tmp_path}/net.py:make", shape=(6,), classes=10)


@cautioned("low-accuracy")
@pytest.mark.parametrize("wrap", [lambda z: {"logits": z, "features": z}, lambda z: {"logits": z}])
def test_a_dictionary_with_logits_is_read(wrap: Callable[[Tensor], Any]) -> None:
    torch.manual_seed(0)
    model = Says(wrap).eval()
    x, y = torch.rand(N, 6), torch.arange(N) % 3
    found, plain = fl.curvature(model, x, y), fl.curvature(nn.Sequential(model.fc).eval(), x, y)
    assert torch.equal(found.trace, plain.trace)  # type: ignore[union-attr]
    assert ImageVictim(model, x).head == "fc"
    assert fl.trace(model, x, y, attack=fl.attacks.PGD(eps=0.1, steps=2)).steps.num_rows == 3 * N
