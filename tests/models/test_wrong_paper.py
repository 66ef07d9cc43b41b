"""A model that is not fed as it was made to be says so: in the terminal, in Python, on the page; others do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from flatlens_cli import app
from torch import nn

import flatlens as fl
from flatlens import datasets
from flatlens.records import cautions
from flatlens.specs.run import RunSpec
from flatlens.training import reached
from flatlens.wording import in_python
from tests.expected import cautioned
from tests.page_text import embedded

REPOSITORY = Path(__file__).parents[2]
MODEL = """
import torch
from torch import nn

def factory(mean={mean}, std={std}):
    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1),
                        nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
    net.load_state_dict(torch.load({weights!r}))
    return nn.Sequential(Normal(mean, std), net)

class Normal(nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x):
        return (x - self.mean) / self.std
"""


def net():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def digits(part):
    data = datasets.load(f"flatlens:digits?split={part}")
    return torch.from_numpy(data.x), torch.from_numpy(data.y)


@pytest.fixture(scope="module", params=[(0.5, 0.5), (0.5, 0.25)], ids=str)
def trained(request):
    """A CNN for normalised digits, and its normalisation."""
    mean, std = request.param
    torch.manual_seed(0)
    made = net()
    x, y = digits("train")
    optimiser = torch.optim.Adam(made.parameters(), 3e-3)
    for _ in range(6):
        for rows in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(made((x[rows] - mean) / std), y[rows]).backward()
            optimiser.step()
    return made.eval(), mean, std


class Normalised(nn.Module):
    def __init__(self, inner, mean, std):
        super().__init__()
        self.inner, self.mean, self.std = inner, mean, std

    def forward(self, x):
        return self.inner((x - self.mean) / self.std)


ATTACK = {"attack": fl.attacks.PGD(eps=0.1, steps=2)}


def codes(trace):
    return {caution.code for caution in trace.cautions}


@cautioned("low-accuracy", "not-converged")
def test_in_python_it_is_a_warning_and_on_top_of_every_repr(trained):
    made, mean, std = trained
    x, y = digits("test")
    with pytest.warns(fl.CautionWarning, match="not-normalised: .* once they are standardised"):
        trace = fl.trace(made, x[:150], y[:150], **ATTACK)
    for shown in (repr(trace), repr(trace.valley()), repr(trace.valley().summary())):
        assert shown.startswith("Caution: ") and "not-normalised" in shown.splitlines()[0] + shown and "--" not in shown
    sound = fl.trace(Normalised(made, mean, std).eval(), x[:150], y[:150], **ATTACK)
    assert not {"low-accuracy", "not-normalised"} & codes(sound)
    calm = sound.with_cautions(())
    assert not any("Caution" in repr(shown) for shown in (calm, calm.valley(), calm.valley().summary()))


@cautioned("low-accuracy", "not-converged", "silent-success")
@pytest.mark.parametrize("only_correct", [False, True])
def test_on_the_terminal_on_the_page_and_in_the_manifest(trained, tmp_path, capsys, only_correct):
    made, mean, std = trained
    torch.save(made.state_dict(), tmp_path / "weights.pt")
    out = {}
    for name, normal in {"without": (0.0, 1.0), "with": (mean, std)}.items():
        file = tmp_path / f"{name}.py"
        file.write_text(MODEL.format(mean=normal[0], std=normal[1], weights=str(tmp_path / "weights.pt")))
        words = ["trace", "--model", f"{file}:factory", "--data", "flatlens:digits", "--limit", "150", "--steps", "2"]
        words += ["--eps", "0.1", "--out", str(tmp_path / f"run-{name}"), *["--only-correct"] * only_correct]
        assert app.run(words) == 0
        out[name] = " ".join(capsys.readouterr().out.split())
    assert "once they are standardised" in out["without"] and "standardised" not in out["with"]
    page = (tmp_path / "run-without" / "report.html").read_text()
    shown = embedded(page)["runs"][0]["cautions"]
    assert "not-normalised" in [code for code, _ in shown]
    manifest = json.loads((tmp_path / "run-without" / "manifest.json").read_text())
    assert "not-normalised" in [caution["code"] for caution in manifest["warnings"]]
    with pytest.warns(fl.CautionWarning, match="not-normalised"):
        fl.open(tmp_path / "run-without")


# ---- accuracy against guessing, and against what is on record


@pytest.mark.parametrize(
    ("right", "n", "classes", "recorded", "fires"),
    [
        (10, 100, 10, None, True),  # guessing
        (40, 100, 10, None, True),
        (50, 100, 10, None, False),  # the interval reaches the line
        (90, 100, 10, None, False),
        (1, 8, 10, None, True),
        (1, 4, 10, None, False),  # few samples cry no wolf
        (0, 3, 10, None, False),
        (0, 0, 10, None, False),
        (55, 100, 2, None, True),
        (70, 100, 2, None, False),
        (30, 100, 1000, None, True),
        (60, 100, 1000, None, False),
        (1, 1000, 1000, None, True),
        (5, 10, None, None, False),  # of a run that does not say how many classes there are
        (80, 100, 10, 0.984, True),
        (96, 100, 10, 0.984, False),
        (7, 8, 10, 0.984, False),
        (443, 450, 10, 0.9844, False),
        (70, 100, None, 0.9, True),
    ],
)
def test_low_accuracy_with_its_interval(right, n, classes, recorded, fires):
    found = list(cautions.low_accuracy(right, n, classes, recorded))
    assert bool(found) == fires
    if fires:
        message = found[0].message
        assert all(cause in message for cause in ("normalised", "mean=…&std=…", "normalize=", "order", "bounds"))
        assert (f"{100 * recorded:.1f} % are on record" if recorded else f"among {classes} classes") in message


def labels_in_another_order(x, y):
    return x, (y + 1) % 10


def raw_bytes(x, y):
    return 1 - x, y


@pytest.mark.parametrize("spoilt", [labels_in_another_order, raw_bytes])
def test_other_causes_are_found_too(spoilt):
    model = fl_model("flatlens:digits-cnn")
    x, y = spoilt(*digits("test"))
    with pytest.warns(fl.CautionWarning, match="low-accuracy"):
        assert "low-accuracy" in codes(fl.trace(model, x[:60], y[:60], **ATTACK))


def fl_model(uri):
    from flatlens import models

    return models.load(uri, shape=(1, 8, 8), classes=10).model


@cautioned("not-converged", "silent-success")
@pytest.mark.parametrize("n", [1, 7, 60])
def test_a_sound_model_says_nothing(n):
    x, y = digits("test")
    assert not {"low-accuracy", "not-normalised"} & codes(
        fl.trace(fl_model("flatlens:digits-cnn"), x[:n], y[:n], **ATTACK)
    )


@pytest.mark.parametrize(
    ("right", "gained", "lost", "n", "fires"),
    [
        (60, 30, 1, 100, True),
        (60, 9, 0, 100, False),
        (60, 11, 0, 100, True),
        (10, 12, 10, 128, False),
        (0, 7, 0, 7, False),
    ],
)
def test_the_gain_by_standardising_must_be_more_than_chance(right, gained, lost, n, fires):
    assert bool(list(cautions.not_normalised(right, gained, lost, n, "0.3", "0.4"))) == fires


def test_what_is_on_record_for_the_shipped_models_is_in_the_repository():
    known = json.loads((REPOSITORY / "data" / "checkpoints.json").read_text())
    assert {name.partition(":")[2]: value for name, value in reached.SHIPPED.items()} == {
        name: known[name]["figures"]["accuracy"] for name in known if isinstance(known[name], dict)
    }


@pytest.mark.parametrize(
    ("data", "known"),
    [("flatlens:digits", 0.9844), ("flatlens:digits?split=test", 0.9844), ("npz:{}/other.npz", None)],
)
def test_a_shipped_model_is_held_against_its_record_on_its_own_data_alone(tmp_path, data, known):
    x, y = digits("test")
    np.savez(tmp_path / "other.npz", x=x.numpy(), y=y.numpy())
    spec = RunSpec("flatlens:digits-cnn", data.format(tmp_path), eps=0.1, steps=1, limit=8)
    assert fl.run(spec, tmp_path / "run").manifest["recorded_accuracy"] == known


def test_trained_weights_are_held_against_their_record(tmp_path):
    shutil.copy(REPOSITORY / "flatlens" / "shipped" / "digits-cnn.safetensors", tmp_path / "mine.safetensors")
    spec = RunSpec(
        f"ckpt:{tmp_path}/mine.safetensors?arch=flatlens:digits-cnn", "flatlens:digits", eps=0.1, steps=1, limit=60
    )
    for record, known in (
        ({"test": "flatlens:digits?split=test", "accuracy": 0.98}, 0.98),
        ({"test": "npz:others.npz", "accuracy": 1.0}, None),
        ("no record", None),
        ({"test": "flatlens:digits?split=test", "accuracy": "high"}, None),
    ):
        (tmp_path / "mine.json").write_text(json.dumps(record))
        out = tmp_path / f"run{np.random.default_rng().integers(10**9)}"
        assert fl.run(spec, out).manifest["recorded_accuracy"] == known


# ---- Python's words


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("raise --probes", "raise probes="),
        ("run again with --batch-size 16", "run again with batch_size=16"),
        ("give --set bounds=[low,high], then", "give bounds=(low,high), then"),
        ("run it with --images key", 'run it with images="key"'),
        ("--only-correct leaves nothing", "only_correct=True leaves nothing"),
        ("a – b, a -- b, 1--2", "a – b, a -- b, 1--2"),
        ("--seed None: needs a whole number", "seed=None: needs a whole number"),
        ("--bounds [0.0, inf]: needs two numbers", "bounds=[0.0, inf]: needs two numbers"),
        ("--condition np.float32(2.0): needs a number", "condition=np.float32(2.0): needs a number"),
        ("--bounds 1,0: needs two numbers", "bounds=1,0: needs two numbers"),
    ],
)
def test_settings_are_keywords(said, told):
    assert in_python(said) == told


def test_all_that_is_warned_of_is_in_pythons_words():
    x, y = torch.rand(20, 1, 8, 8) * 30, torch.zeros(20, dtype=torch.long)
    with pytest.warns(fl.CautionWarning) as seen:
        trace = fl.trace(fl_model("flatlens:digits-cnn"), x, y, bounds=(0.0, 25.0), **ATTACK)
    said = [str(w.message) for w in seen if issubclass(w.category, fl.CautionWarning)]
    assert len(said) == len(trace.cautions) >= 2 and not any("--" in text for text in said)
    assert all(w.filename == __file__ for w in seen if issubclass(w.category, fl.CautionWarning))
