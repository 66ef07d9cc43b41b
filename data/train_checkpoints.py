"""Train the two shipped checkpoints and measure them on the whole test split.

python data/train_checkpoints.py            write flatlens/shipped/*.safetensors and data/checkpoints.json
python data/train_checkpoints.py --survey   the standard recipe from ten seeds; writes nothing
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlens import datasets, models
from flatlens.specs.train import TrainSpec
from flatlens.training import recipes as trained
from flatlens.training.fit import accuracy
from flatlens.training.inner import perturb

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "flatlens" / "shipped"
RECIPE = {"epochs": 60, "lr": 0.01, "batch_size": 16, "weight_decay": 0.05}
CHECKPOINTS = {
    "digits-cnn": {"seed": 1},
    "digits-cnn-robust": {"seed": 1, "adversarial": "pgd", "eps": 0.1, "steps": 7},
}


def data(split: str) -> tuple[Tensor, Tensor]:
    loaded = datasets.load(f"flatlens:digits?split={split}")
    return torch.from_numpy(loaded.x), torch.from_numpy(loaded.y)


def make(folder: Path, *, seed: int, **how: object) -> tuple[Path, nn.Module]:
    """The weights' file, and the model."""
    uri, file = f"flatlens:cnn?seed={seed}", folder / f"{seed}-{len(how)}.safetensors"
    trained.train(uri, TrainSpec("flatlens:digits", seed=seed, **RECIPE, **how), file)
    return file, models.load(f"ckpt:{file}?arch={uri}", shape=(1, 8, 8), classes=10).model


def kappa(model: nn.Sequential, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and the head's relative flatness ‖a‖² Σ_k p_k ‖w_k − w̄‖², in float64."""
    a = model[:-1](x)
    features, weight, bias = (t.detach().double() for t in (a, model.fc.weight, model.fc.bias))
    p = F.softmax(features @ weight.T + bias, dim=1)
    mean = p @ weight
    spread = (weight - mean.unsqueeze(1)).square().sum(2)
    return model.fc(a), features.square().sum(1) * (p * spread).sum(1)


def valley(model: nn.Sequential, x0: Tensor, y: Tensor) -> dict[str, float]:
    """κ along PGD: linf eps 0.3, 25 steps of 0.03, no random start; means over all samples."""
    x, kappas, wrong = x0, [], []
    for _ in range(26):
        x = x.detach().requires_grad_(True)
        logits, here = kappa(model, x)
        kappas.append(here)
        wrong.append(logits.argmax(1) != y)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x)
        moved = x.detach() + 0.03 * gradient.sign()
        x = torch.clamp(torch.clamp(moved, x0 - 0.3, x0 + 0.3), 0, 1)
    mean = torch.stack(kappas).mean(1)
    flips = torch.stack(wrong)[:, ~wrong[0]]
    first = torch.where(flips.any(0), flips.int().argmax(0), len(flips))
    peak = int(mean.argmax())
    return {
        "kappa_clean": round(float(mean[0]), 3),
        "kappa_peak": round(float(mean[peak]), 3),
        "kappa_end": round(float(mean[-1]), 3),
        "peak_step": peak,
        "median_flip_step": float(first.float().quantile(0.5)),
        "flipped_at_end": float(flips[-1].double().mean()),
    }


def figures(model: nn.Sequential) -> dict[str, float]:
    x, y = data("test")
    out = {"accuracy": round(accuracy(model, x, y), 4)}
    for eps in (0.1, 0.2):
        attacked = perturb(model, x, y, eps=eps, steps=40, rng=torch.Generator().manual_seed(0))
        out[f"accuracy_pgd40_linf_{eps}"] = round(accuracy(model, attacked, y), 4)
    return out | valley(model, x, y)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        if sys.argv[1:] == ["--survey"]:
            for seed in range(10):
                print(seed, json.dumps(figures(make(Path(scratch), seed=seed)[1])), flush=True)
        else:
            ship(Path(scratch))


def ship(scratch: Path) -> None:
    record: dict[str, object] = {"command": "python data/train_checkpoints.py", "torch": torch.__version__}
    for name, how in CHECKPOINTS.items():
        made, model = make(scratch, **how)
        file = SHIPPED / f"{name}.safetensors"
        shutil.copyfile(made, file)
        measured = figures(model)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        record[name] = {"recipe": RECIPE | how, "figures": measured, "bytes": file.stat().st_size, "sha256": digest}
        print(name, json.dumps(measured), flush=True)
    (ROOT / "data" / "checkpoints.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
