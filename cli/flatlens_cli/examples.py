"""The examples at the end of each command's ``--help``."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": ("flatlens demo --out runs/demo",),
    "trace": (
        "flatlens trace --model flatlens:digits-cnn --data flatlens:digits --eps 0.3 --out runs/first",
        "flatlens trace --model 'my_model.py:make?mean=0.286&std=0.353' --data npz:mine.npz --control all "
        "--out runs/mine",
        "flatlens trace --model 'ckpt:best.pth?arch=my_model.py:make' --data idx:FOLDER --layer all --out runs/layers",
        "flatlens trace --model flatlens:cnn --data flatlens:digits --attack 'torchattacks:PGD?eps=0.3&steps=20' "
        "--out runs/foreign",
        "flatlens trace --config runs/first/spec.toml --seed 1 --out runs/again",
    ),
    "report": (
        "flatlens report runs/first",
        "flatlens report runs/first runs/mine --out both.html",
        "flatlens report runs/first --format svg --out figure.svg",
        "flatlens report runs/architectures --folder public",
    ),
    "view": ("flatlens view runs", "flatlens view runs --no-browser --port 8123"),
    "sweep": (
        "flatlens sweep data/sweeps/architectures.toml --dry-run",
        "flatlens sweep data/sweeps/architectures.toml --out runs/architectures --workers 4",
        "flatlens sweep mine.toml --out /shared/mine --shard 1/8",
    ),
    "status": ("flatlens status runs/architectures", "flatlens status runs/architectures --watch"),
    "export": (
        "flatlens export runs/architectures --format parquet --images",
        "flatlens export runs/first --table steps --format jsonl --out - | head",
    ),
    "layers": ("flatlens layers --model flatlens:resnet18?width=8 --data flatlens:digits",),
    "models": ("flatlens models",),
    "datasets": ("flatlens datasets",),
    "attacks": ("flatlens attacks --json",),
    "defences": ("flatlens defences",),
    "verify": ("flatlens verify", "flatlens verify --model my_model.py:make --data npz:mine.npz"),
    "train": (
        "flatlens train --model flatlens:cnn --data flatlens:digits --out cnn.safetensors",
        "flatlens train --model flatlens:cnn --data flatlens:digits --defence trades --eps 0.1 --out t.safetensors",
        "flatlens train --model flatlens:cnn --data flatlens:digits --defence pgd --perturb-weights awp "
        "--penalty fam?weight=0.1 --eps 0.1 --out flat.safetensors",
    ),
    "robustness": (
        "flatlens robustness --model flatlens:digits-cnn --data flatlens:digits --eps 0.1",
        "flatlens robustness --model 'ckpt:robust.safetensors?arch=flatlens:cnn' --data flatlens:digits --eps 0.5 "
        "--norm l2 --limit 200 --json",
        "flatlens robustness --model 'flatlens:digits-cnn?scale=100' --data flatlens:digits --eps 0.3 --autopsy",
    ),
    "autopsy": (
        "flatlens autopsy --model 'flatlens:digits-cnn?scale=100' --data flatlens:digits --eps 0.3 --steps 10",
        "flatlens autopsy --model 'ckpt:robust.safetensors?arch=flatlens:cnn' --data flatlens:digits --eps 0.1 "
        "--out runs/autopsy",
    ),
    "detect": (
        "flatlens detect --model flatlens:digits-cnn --data flatlens:digits --eps 0.3",
        "flatlens detect --model 'ckpt:best.pth?arch=my_model.py:make' --data npz:mine.npz --limit 500 --out runs/d",
    ),
    "condition": (
        "flatlens condition --model flatlens:digits-cnn --data flatlens:digits --ridge 0.01",
        "flatlens condition --data 'table:houses.csv?target=price' --ridge 0.01 --json",
    ),
    "immunize": (
        "flatlens immunize --model flatlens:digits-cnn --primary flatlens:digits?split=train --primary-classes 0-4 "
        "--harmful flatlens:digits?split=train --harmful-classes 5-9 --out runs/immune",
        "flatlens immunize --primary 'table:a.csv?target=area' --harmful 'table:b.csv?target=price' --out runs/tables",
    ),
    "pairs": (
        "flatlens pairs --data 'idx:mnist?split=train' --halve --out runs/mnist-pairs",
        "flatlens pairs --data flatlens:digits?split=train --model flatlens:digits-cnn --holdout 0.3 --out runs/pairs",
    ),
    "reproduce": (
        "flatlens reproduce all --quick --out runs/claims",
        "flatlens reproduce C1 C7 --model 'ckpt:a.pth?arch=my_model.py:make' --data npz:mine.npz --out runs/mine",
    ),
    "claims": ("flatlens claims",),
    "doctor": ("flatlens doctor",),
}


def of(command: str) -> str:
    """The end of a command's help; nothing for a command without examples."""
    known = EXAMPLES.get(command, ())
    return "\n\n".join(("**Examples**", *(f"`{line}`" for line in known))) if known else ""
