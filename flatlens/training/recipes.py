"""Models by recipe: trained once, kept beside what they reach, and found again.

    recipes.train("flatlens:resnet18?width=8", TrainSpec("flatlens:digits", epochs=20), Path("resnet.safetensors"))
    recipes.obtain("flatlens:cnn", TrainSpec("flatlens:digits"))         # the same, in the cache

Beside ``FILE.safetensors`` lies ``FILE.json``: the recipe, the accuracies, and the hash of what went in. While the
training is under way, ``FILE.safetensors.part`` holds the last epoch; the same command goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import nn

from flatlens import datasets, models
from flatlens.datasets import Dataset
from flatlens.errors import DiskError, ModelError, RunError, one_line
from flatlens.files import borders
from flatlens.files.atomic import write_file, write_json
from flatlens.files.borders import DamageError
from flatlens.files.locks import file_lock
from flatlens.files.places import cache
from flatlens.models import checkpoints, statedicts
from flatlens.models.loaders import Loaded, sha256
from flatlens.progress import Progress, Report
from flatlens.specs.defences import WEIGHTS, chosen
from flatlens.specs.options import Named, written
from flatlens.specs.train import TrainSpec
from flatlens.training import attacked, conditions, defences, epochs, fit, judging, watch
from flatlens.training.conditions import Conditions
from flatlens.training.fit import History
from flatlens.training.watch import Alarm
from flatlens.version import __version__

VERSION = 1
"""Of the way models are trained: a change of it trains anew."""
HELD_OUT = 4
"""At most one sample in so many is held out of the training data, to tell the best epoch by."""
TIMED = 3
"""Steps of a training that its cost is estimated from."""


class Cost(NamedTuple):
    """What a training would take: forward passes of a batch, each with its backward pass, and seconds."""

    passes: int
    seconds: float


NOTHING = Cost(0, 0.0)


class Trained(NamedTuple):
    """A trained model's files, and what it reaches; accuracies are shares, 0 to 1, on ``test``."""

    file: Path
    test: str
    accuracy: float
    robust_accuracy: float
    record: dict[str, Any]
    resumed: str


def train(
    model: str,
    recipe: TrainSpec,
    file: Path | str,
    *,
    force: bool = False,
    progress: Report | None = None,
    tell: Callable[[Alarm], None] = lambda alarm: None,
    **trust: bool,
) -> Trained:
    """Train ``model`` by ``recipe`` and write ``file``; a finished model is left, an interrupted training goes on.

    Args:
        model: its URI; its own weights are where the training starts.
        recipe: with its ``data``.
        file: a safetensors file to write, with a JSON file of the same name beside it.
        force: replace what is there.
        progress: called after each step.
        tell: called with each alarm in the epoch in which it is first seen, and at the end.
        trust: ``trust_pickle``, ``trust_remote_code`` and ``download``, as for `flatlens.models.load`.

    Raises:
        RunError: the file holds a model of another recipe, or is no safetensors file's name.
        DiskError: it cannot be written.
    """
    file = Path(file)
    if file.suffix != ".safetensors":
        raise RunError(f"--out '{file}' is no name of weights; name a file that ends in .safetensors")
    return _train(_Work(model, recipe, trust, tell), file, force=force, progress=progress)


def obtain(model: str, recipe: TrainSpec, *, progress: Report | None = None, **trust: bool) -> Loaded:
    """The model of a recipe, from the cache, or trained now and kept there.

    The cache is `flatlens.files.places.cache`; a name in it is the hash of the recipe, the data and the initial
    weights.
    """
    work = _Work(model, recipe, trust)
    file = _place(work)
    record = _train(work, file, force=False, progress=progress, cached=True).record
    trained = sha256(work.loaded.model)
    source = f"trained by recipe, {file}"
    return replace(work.loaded, sha256=trained, source=source, recipe_sha256=work.hash, reached=record)


def cost(model: str, recipe: TrainSpec, **trust: bool) -> Cost:
    """What `obtain` would take, from three timed steps: nothing, if the model is there."""
    work = _Work(model, recipe, trust)
    if _place(work).with_suffix(".json").exists():
        return NOTHING
    few = work.data.take(range(min(TIMED * recipe.batch_size, len(work.data))))
    short = replace(recipe, epochs=1, eps_warmup=None, perturb_weights=_at_once(recipe.perturb_weights))
    _history(work.loaded.model, short, few.take(range(min(2, len(few)))))  # slow for the first time
    began = time.perf_counter()
    _history(work.loaded.model, short, few)
    a_sample = (time.perf_counter() - began) / _passes(short, len(few))
    test = len(datasets.load(datasets.with_split(str(recipe.data), "test")))
    whole = _passes(recipe, len(work.data)) + attacked.passes(work.data.classes) * min(test, judging.ROBUST_SAMPLES)
    return Cost(-(-whole // recipe.batch_size), whole * a_sample)


def _at_once(step: str | None) -> str | None:
    """A perturbation of weights without the epochs that it waits."""
    for found in chosen("perturb_weights", step):
        waits = {name: 0 for name in found.options if name == "warmup"}
        return written(Named(found.name, {**found.options, **waits}), WEIGHTS)
    return None


def _passes(recipe: TrainSpec, samples: int) -> int:
    """Forward and backward passes of single samples in a training."""
    return math.ceil(recipe.epochs * samples * defences.passes(recipe) * (1 + watch.SHARE))


def recipe_sha256(model: str, recipe: TrainSpec, **trust: bool) -> str:
    """The hash of what `obtain` trains from: recipe, data and initial weights; nothing is trained."""
    return _Work(model, recipe, trust).hash


def _place(work: _Work) -> Path:
    return cache() / f"{work.hash[:32]}.safetensors"


class _Work:
    """A recipe with its data and its untrained model."""

    def __init__(
        self,
        model: str,
        recipe: TrainSpec,
        trust: Mapping[str, bool],
        tell: Callable[[Alarm], None] = lambda alarm: None,
    ) -> None:
        self.tell = tell
        if recipe.data is None:
            raise RunError("--data is missing; `flatlens datasets` lists what there is")
        self.model, self.recipe = model, recipe
        self.data = datasets.load(datasets.with_split(recipe.data, "train"))
        if recipe.limit is not None:
            self.data = self.data.take(datasets.balanced(self.data.y, recipe.limit, recipe.seed))
        self._trust = trust
        self.forget()
        known = [VERSION, model, recipe.to_dict(), self.data.sha256, self.loaded.sha256]
        self.hash = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    def forget(self) -> None:
        """The untrained model, as it was."""
        shape = tuple(self.data.x.shape[1:])
        self.loaded = models.load(self.model, shape=shape, classes=self.data.classes, **self._trust)


def _train(work: _Work, file: Path, *, force: bool, progress: Report | None, cached: bool = False) -> Trained:
    """Give the model its trained weights. A damaged file in the cache is trained again; elsewhere it is an error."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Whoever else trains this recipe is waited for, and then has done the work.
        with file_lock(file.with_name(f".{file.name}.lock"), root=file.parent):
            if cached and not force:
                force = _is_damaged(work, file)
            return _trained(work, file, force=force, progress=progress)
    except OSError as error:
        raise DiskError(f"cannot write '{file}': {error.strerror or error}; choose another place") from error


def _trained(work: _Work, file: Path, *, force: bool, progress: Report | None) -> Trained:
    beside, part = file.with_suffix(".json"), file.with_name(file.name + ".part")
    stored = None if force else _record(beside)
    if stored is not None and stored["hash"] != work.hash:
        raise RunError(
            f"'{file}' holds a model of another recipe ({_differs(stored, work)}); name another, or use --force"
        )
    if stored is not None and file.exists():
        if "worst_accuracy" not in stored:  # of before: judged anew, the weights stay
            stored = stored | _judged_anew(work, file, stored, progress)
            write_json(beside, stored)
        else:
            _put(work, file, stored)
        return _found(file, stored, "finished")
    begun = part.with_suffix(".json")
    began_as = _record(begun)
    resumed = "resumed" if began_as is not None and began_as["hash"] == work.hash and part.exists() else "new"
    if resumed == "new" and stored is None and file.exists() and not force:
        raise RunError(
            f"'{file}' is there and has no record of a training; name another --out, or replace it with --force"
        )
    if resumed == "new":
        part.unlink(missing_ok=True)
        write_json(begun, {"hash": work.hash})
    record, watcher, conditioned = _fit(work, part, progress)
    write_file(epochs.beside(file), epochs.stored(watcher.rows))
    conditions.beside(file).unlink(missing_ok=True)  # of a training that --force replaces
    if conditioned is not None:
        write_file(conditions.beside(file), conditioned.stored())
    write_file(file, save({k: v.contiguous() for k, v in work.loaded.model.state_dict().items()}))
    write_json(beside, record)
    part.unlink(missing_ok=True)
    begun.unlink(missing_ok=True)
    return _found(file, record, resumed)


def _is_damaged(work: _Work, file: Path) -> bool:
    """Whether a finished model's weights, or their record, are not those that were written."""
    try:
        stored = _record(file.with_suffix(".json"))
        if stored is None or not file.exists():
            return False
        if stored["hash"] != work.hash:
            return True
        _put(work, file, stored)
    except (RunError, ModelError):
        work.forget()
        return True
    return False


def _put(work: _Work, file: Path, record: dict[str, Any]) -> None:
    """Put the weights of a file into the model, if they are those of its record."""
    statedicts.put(checkpoints.read(file), work.loaded.model, str(file))
    if sha256(work.loaded.model) != record.get("weights_sha256"):
        raise RunError(
            f"'{file}' is damaged: its weights are not those that '{file.with_suffix('.json').name}' tells of; train "
            "them again with --force"
        )


def _history(model: nn.Module, recipe: TrainSpec, data: Dataset, **how: Any) -> History:
    """Train ``model`` in place, as the recipe says, but for what ``how`` says otherwise."""
    known = {
        "epochs": recipe.epochs,
        "lr": recipe.lr,
        "batch_size": recipe.batch_size,
        "weight_decay": recipe.weight_decay,
        "eps": recipe.eps,
        "eps_warmup": recipe.eps_warmup or 0,
        **defences.of(recipe),
    }
    rng = torch.Generator().manual_seed(recipe.seed)
    return fit.train(model, torch.from_numpy(data.x), torch.from_numpy(data.y), rng=rng, **known | how)


def _watched(recipe: TrainSpec, data: Dataset, tell: Callable[[Alarm], None]) -> tuple[Dataset, watch.Watch]:
    """What is trained on, and who watches it: by samples held out where the best epoch is to be kept."""
    best = recipe.keep is not None
    most = watch.watched(len(data))
    if best and (most := min(most, len(data) // HELD_OUT)) < 1:
        raise RunError(f"--keep best: needs at least {HELD_OUT} samples, to hold some out; there are {len(data)}")
    shown = datasets.balanced(data.y, most, recipe.seed)
    seen = data.take(shown)
    if best:
        data = data.take(sorted(set(range(len(data))) - set(map(int, shown))))
    return data, watch.Watch(
        torch.from_numpy(seen.x),
        torch.from_numpy(seen.y),
        eps=recipe.eps,
        norm=recipe.norm or "linf",
        every=1 if best else watch.pace(len(data), defences.passes(recipe)),
        held_out=best,
        attacked=recipe.adversarial is not None,
        seed=recipe.seed,
        tell=tell,
    )


def _fit(work: _Work, part: Path, progress: Report | None) -> tuple[dict[str, Any], watch.Watch, Conditions | None]:
    model, recipe = work.loaded.model, work.recipe
    began = time.perf_counter()
    data, watcher = _watched(recipe, work.data, work.tell)
    ridge = recipe.condition
    conditioned = None if ridge is None else Conditions.of(model, data, ridge, recipe.seed)
    attack = defences.of(recipe)["inner"]
    total = recipe.epochs * -(-len(data) // recipe.batch_size) * (1 if attack is None else attack.replays)

    def tick(done: int, loss: float) -> None:
        if progress is not None:
            progress(Progress(min(done, total), total, f"training, loss {loss:.3g}"))

    held_out = datasets.with_split(str(recipe.data), "test")
    test = datasets.load(held_out)
    try:
        keep = recipe.keep is not None
        before = judging.flatness(model, recipe, test)
        history = _history(
            model, recipe, data, snapshot=part, progress=tick, watch=watcher, conditions=conditioned, keep_best=keep
        )
        reached = judging.reached(model, recipe, test, data_sha256=work.data.sha256, before=before, progress=progress)
    except OSError as error:  # of the model's own code: it says nothing of the disk
        raise ModelError(f"the model raised {one_line(error, kind=True)}") from error
    at_end = tuple(judging.alarms(reached, recipe, work.data.classes))
    for alarm in at_end:
        work.tell(alarm)
    record = {
        "model": work.model,
        "recipe": recipe.to_dict(),
        "hash": work.hash,
        "data_sha256": work.data.sha256,
        "samples": len(data),
        "weights_sha256": sha256(model),
        "test": held_out,
        "test_samples": len(test.y),
        **reached,
        "loss": history.loss,
        "training_accuracy": history.accuracy,
        "epoch": history.epoch,
        **({} if conditioned is None else {"condition": conditioned.told()}),
        "step_seconds": sum(row.seconds for row in watcher.rows) / max(total, 1),
        "alarms": [alarm._asdict() for alarm in (*watcher.alarms(), *at_end)],
        "seconds": round(time.perf_counter() - began, 3),
        "flatlens": __version__,
        "torch": torch.__version__,
    }
    return record, watcher, conditioned


def _judged_anew(work: _Work, file: Path, record: dict[str, Any], progress: Report | None) -> dict[str, Any]:
    """What a finished model reaches whose record does not tell it yet; its weights are put into the model."""
    test = datasets.load(datasets.with_split(str(work.recipe.data), "test"))
    work.forget()
    model = work.loaded.model
    before = judging.flatness(model, work.recipe, test)
    _put(work, file, record)
    return judging.reached(model, work.recipe, test, data_sha256=work.data.sha256, before=before, progress=progress)


def _found(file: Path, record: dict[str, Any], resumed: str) -> Trained:
    return Trained(file, record["test"], record["accuracy"], record["robust_accuracy"], record, resumed)


def _record(file: Path) -> dict[str, Any] | None:
    if not os.path.lexists(file):
        return None
    try:
        found = borders.read_json(file)
    except DamageError as error:
        raise RunError(f"'{file}' is damaged; remove it, or use --force ({error})") from error
    if "hash" not in found:
        raise RunError(f"'{file}' is no record of a training; name another --out, or use --force")
    return found


def _differs(stored: dict[str, Any], work: _Work) -> str:
    mine = {"model": work.model} | work.recipe.to_dict()
    theirs = {"model": stored.get("model")} | stored.get("recipe", {})
    keys = [key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)]
    said = [f"{key} {mine.get(key, 'none')} instead of {theirs.get(key, 'none')}" for key in sorted(keys)]
    return ", ".join(said) or "other data or initial weights"
