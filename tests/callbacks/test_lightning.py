"""The callback in a training of Lightning's own `Trainer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flatlens as fl
from flatlens import datasets
from tests import assets

pytestmark = [pytest.mark.filterwarnings("ignore")]  # Lightning's advice on workers and loggers


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    held = datasets.load("flatlens:digits?split=train")
    return torch.from_numpy(held.x[:96]), torch.from_numpy(held.y[:96])


def trained(data: tuple[Tensor, Tensor], folder: Path, *, with_callback: bool) -> tuple[Any, Any]:
    pl = assets.package("lightning", "pip install 'flatlens[lightning]'").pytorch

    class Digits(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10))
            self.told: list[dict[str, float]] = []

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.net(x)
            return out

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def on_fit_end(self) -> None:
            self.last = {name: float(value) for name, value in self.trainer.callback_metrics.items()}

    module = Digits()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), 16)
    callbacks = [fl.callbacks.Lightning(*data, eps=0.1)] if with_callback else []
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=callbacks, default_root_dir=str(folder),
    )  # fmt: skip
    torch.manual_seed(0)
    trainer.fit(module, loader)
    return module, trainer


def test_a_training_is_told_and_not_changed(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    module, _ = trained(data, tmp_path, with_callback=True)
    alone, _ = trained(data, tmp_path, with_callback=False)
    for name, value in alone.state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name  # dropout's noise, too, is the same
    expected = fl.callbacks.Gauge(*data, eps=0.1)(module)
    assert module.last == {name: pytest.approx(value, rel=1e-5) for name, value in expected.items()}
    assert expected.keys() >= {"flatlens/log10_kappa", "flatlens/slope", "flatlens/pgd10_accuracy"}
