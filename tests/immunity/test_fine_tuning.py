"""Fine-tuning of whole networks: its rows by a plain loop, what stays frozen, what is chosen, what is gone on with."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import flatlens as fl
from flatlens.errors import DataError
from flatlens.immunity import fine_tuning
from flatlens.immunity.fine_tuning import SCHEMA, SEEDS, Data, Network, Samples, Trial, fine_tuned
from flatlens.immunity.trials import FILE, KeptTrials
from flatlens.models.appended import appended
from tests.expected import cautioned
from tests.immunity.made import pair

pytestmark = cautioned("few-samples", "constant-features", "singular", "not-held-out")


def net(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Dropout(0.2), nn.Linear(7, 4)).eval()


def samples(n, classes, seed):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, generator=rng)
    return Samples(x, (x[:, 0] * 1.7).long().abs().clamp(max=len(classes) - 1).apply_(lambda i: classes[i]))


DATA = Data(samples(90, (2, 3), 0), samples(40, (2, 3), 1), samples(30, (0, 1), 2))
THETA = (
    torch.diag(torch.logspace(0, 2, 7, dtype=torch.float64))
    @ torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
)


@pytest.fixture(scope="module")
def networks():
    model = net()
    return Network(appended(model, "4", THETA), "4.head"), Network(model, "4")


@pytest.fixture(scope="module")
def found(networks):
    return fine_tuned(*networks, DATA, epochs=2)


def loop(model, head, optimizer, rate, seed, epochs):
    """The same in the plainest of words: the rows of both tasks after the last epoch."""
    model = copy.deepcopy(model)
    body, own = model.get_submodule(head.rpartition(".")[0]) if "." in head else model, model.get_submodule(head)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = nn.Linear(7, 2)
        before = copy.deepcopy(own)
        setattr(body, head.rpartition(".")[2], new)
        made = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer](model.parameters(), lr=rate)
        order = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            model.train()
            for index in torch.randperm(90, generator=order).split(64):
                made.zero_grad()
                F.cross_entropy(model(DATA.train.x[index]), DATA.train.y[index] - 2).backward()
                made.step()
    model.eval()
    with torch.no_grad():
        harmful = model(DATA.harmful.x)
        setattr(body, head.rpartition(".")[2], before)
        primary = model(DATA.primary.x)
    told = {}
    for task, logits, y in (("harmful", harmful, DATA.harmful.y - 2), ("primary", primary, DATA.primary.y)):
        told[task] = (float((logits.argmax(1) == y).double().mean()), float(F.cross_entropy(logits.double(), y)))
    return told


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("extractor", [0, 1])
@pytest.mark.parametrize("seed", [0, 3])
def test_the_rows_are_those_of_a_plain_loop(networks, found, extractor, optimizer, seed):
    name, network = ("immunized", "identity")[extractor], networks[extractor]
    table = found.table.to_pandas()
    mine = table[(table.extractor == name) & (table.optimizer == optimizer) & (table.seed == seed)]
    for epochs in (0, 2):
        expected = loop(*network, optimizer, found.rates[name][optimizer], seed, epochs)
        for row in mine[mine.epoch == epochs].itertuples():
            assert (row.accuracy, row.loss) == pytest.approx(expected[row.task], rel=1e-6)
    assert sorted(mine.epoch) == [0, 0, 1, 1, 2, 2]


def test_the_table_is_whole_and_both_begin_with_the_same_answers(found):
    assert found.table.schema.equals(SCHEMA) and found.table.num_rows == 2 * 2 * len(SEEDS) * 3 * 2
    table = found.table.to_pandas()
    start = table[(table.epoch == 0) & (table.task == "primary")]
    assert start.accuracy.nunique() == 1 and start.loss.max() - start.loss.min() < 1e-4
    end = table[(table.epoch == 2) & (table.task == "primary")]
    assert end.loss.nunique() > 5  # the features have moved under the head


def test_the_rate_is_the_one_with_the_lowest_training_loss(networks, found):
    for extractor, network in zip(("immunized", "identity"), networks, strict=True):
        for optimizer, (_, rates) in fine_tuning.OPTIMIZERS.items():
            trials = [fine_tuning._tuned(network, DATA, Trial(extractor, optimizer, rate, 0), 2) for rate in rates]
            lowest = min(trials, key=lambda done: done.training_loss)
            assert rates[trials.index(lowest)] == found.rates[extractor][optimizer]


def test_networks_are_left_as_they_are(networks, found):
    now = networks[1].model.state_dict()
    assert all(torch.equal(value, now[name]) for name, value in net().state_dict().items())


def test_what_diverges_is_not_chosen(networks, monkeypatch):
    monkeypatch.setattr(fine_tuning, "OPTIMIZERS", {"sgd": (torch.optim.SGD, (1e30, 1e-2))})
    monkeypatch.setattr(fine_tuning, "SEEDS", (0,))
    found = fine_tuned(*networks, DATA, epochs=2)
    assert found.rates == {"immunized": {"sgd": 1e-2}, "identity": {"sgd": 1e-2}}
    assert math.isinf(fine_tuning._tuned(networks[1], DATA, Trial("identity", "sgd", 1e30, 0), 2).training_loss)


@pytest.mark.parametrize("after", [1, 9])
def test_gone_on_with_it_has_the_same_rows(networks, found, after, tmp_path):
    def stop(progress):
        if progress.done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tuned(*networks, DATA, epochs=2, kept=KeptTrials(tmp_path, {"a": 1}), progress=stop)
    kept = KeptTrials(tmp_path, {"a": 1})
    made = []
    inner = kept.keep
    kept.keep = lambda trial, done: (made.append(trial), inner(trial, done))
    again = fine_tuned(*networks, DATA, epochs=2, kept=kept)
    assert len(made) == 28 - after and again.table.equals(found.table) and again.rates == found.rates
    assert KeptTrials(tmp_path, {"a": 2}).found(made[0]) is None
    (tmp_path / FILE).write_bytes(b"PAR1")
    assert KeptTrials(tmp_path, {"a": 1}).found(made[0]) is None


def test_a_label_that_the_model_does_not_know_is_refused(networks):
    data = DATA._replace(primary=samples(9, (4, 5), 0))
    with pytest.raises(DataError, match="a label 5 and the model 4 classes"):
        fine_tuned(*networks, data)


def test_python_reads_it_back(tmp_path):
    found = fl.immunize(*pair(), out=tmp_path / "o")
    assert found.finetuning is None
