"""`Job`: a trace, prepared. Model and data are checked, the victim is made, the samples are cut into batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from flatlens import attacks
from flatlens.attacks.balls import TINY, ball
from flatlens.errors import AttackError, DataError, LayerError, ResourceError
from flatlens.hessian.any_layer import AnyLayer
from flatlens.measure.loop import Attack, Keeper, Piece, Recorder, walk, with_result
from flatlens.models import guard
from flatlens.probes.certificate import Certificate
from flatlens.progress import Progress, Report
from flatlens.records import cautions
from flatlens.records.schema import ATTACK, BEST, Caution
from flatlens.victims import endings
from flatlens.victims.images import Batch, Victim, exact_arithmetic
from flatlens.victims.layers import HEAD, as_logits
from flatlens.victims.memory import batch_that_fits, bytes_per_sample, keep_freed_memory
from flatlens.victims.noise import Noise

FED = 128
"""Inputs on which it is tried whether the model was made for standardised ones."""
EXAMPLES = 8
"""Inputs on which it is found out which method a layer allows."""


@dataclasses.dataclass
class Job:
    """A trace, prepared: everything that does not depend on the batch.

    ``x`` ``[n, …]``, ``y`` ``[n]`` and ``ids`` ``[n]`` are on the CPU; ``pool_x`` and ``pool_y`` are the images among
    which a control finds one of another class.
    """

    model: nn.Module
    victim: Victim
    measure: AnyLayer
    attack: Attack
    controls: dict[str, Attack]
    x: Tensor
    y: Tensor
    ids: Tensor
    pool_x: Tensor
    pool_y: Tensor
    target: int | str | None
    batch_size: int
    seed: int
    images: str
    preflight: tuple[Caution, ...]

    def cautions(self, notes: Mapping[str, int]) -> tuple[Caution, ...]:
        """What was found before the attack, and what was noted of all batches while it was recorded."""
        return self.preflight + cautions.recorded(notes, len(self.x))

    @property
    def batches(self) -> int:
        """How many batches there are."""
        return -(-len(self.x) // self.batch_size)

    @property
    def length(self) -> int:
        """Steps of a path, the clean input not counted (40 where the attack does not say)."""
        return int(getattr(self.attack, "length", 40))

    @property
    def says_length(self) -> bool:
        """Whether the attack says how many steps it takes."""
        return getattr(self.attack, "steps", getattr(self.attack, "length", None)) is not None

    @property
    def total(self) -> int:
        """The whole work, in samples × steps."""
        return len(self.x) * (self.length + 1) * (self.runs + len(self.controls))

    @property
    def runs(self) -> int:
        """How often the attack is run on each sample: its restarts."""
        counted = getattr(self.attack, "runs", None)
        return 1 if counted is None else int(counted(self.victim.classes))

    def batch(self, index: int) -> Batch:
        """One batch, on the victim's device."""
        part = slice(index * self.batch_size, (index + 1) * self.batch_size)
        x, y, ids = self.victim.place(self.x[part]), self.y[part].to(self.victim.device), self.ids[part]
        noise = Noise(self.seed)
        other = None
        if "line-to-other-class" in self.controls:
            picked = [_other(self.pool_y, int(label), int(i), noise) for label, i in zip(y, ids, strict=True)]
            other = self.victim.place(self.pool_x[picked])
        eps = getattr(self.attack, "eps", None)
        own = torch.tensor(eps[part], device=x.device, dtype=x.dtype) if isinstance(eps, tuple) else None
        return Batch(x, y, ids, self._targets(x, y, ids, noise), other, own)

    def _targets(self, x: Tensor, y: Tensor, ids: Tensor, noise: Noise) -> Tensor | None:
        classes, target = self.victim.classes, self.target
        if target is None:
            return None
        if target == "next":
            return (y + 1) % classes
        if target == "random":
            shift = [1 + noise.integer(int(i), classes - 1, "target") for i in ids]
            return (y + torch.tensor(shift, device=y.device)) % classes
        if target == "least-likely":
            return self.victim(x, y, final=True).logits.detach().argmin(1)
        if not str(target).isdigit() or int(target) >= classes:
            raise AttackError(
                f"target {target}: this model has the labels 0 … {classes - 1}, or next, random, least-likely"
            )
        return torch.full_like(y, int(target))

    def piece(self, index: int, tick: Callable[[str], None] = lambda what: None) -> Piece:
        """All paths of one batch, measured: the attack's runs, then the controls."""
        self.victim.where.batch = index + 1
        batch = self.batch(index)
        attack, notes = self.attack, dict[str, int]()
        if isinstance(attack, Recorder):
            # Not under exact arithmetic: a library's numbers are to be those that it gives by itself.
            attack, notes = attack.record(self.model, batch, self.victim.bounds)
        with exact_arithmetic(self.victim.device):
            return self._measured(index, batch, attack, tick)._replace(notes=notes)

    def _measured(self, index: int, batch: Batch, attack: Attack, tick: Callable[[str], None]) -> Piece:
        certificate = Certificate.of(self.victim)

        def ticked(name: str) -> Callable[[], None]:
            return lambda: tick(f"{name}, batch {index + 1} of {self.batches}")

        pieces, best = [], None
        for run in range(self.runs):
            piece = walk(
                attack,
                self.victim,
                batch,
                Noise(self.seed, restart=run),
                measure=self.measure,
                certificate=certificate,
                # Pictures are of the first run's path; what the others found is one more at its end.
                keeper=Keeper(self.images) if run == 0 and self.images != "none" else None,
                tick=ticked(ATTACK),
                confirm=self._predict,
            )
            assert piece.found is not None
            best = piece.found if best is None else best.or_better(piece.found)
            pieces.append(piece._replace(found=None))
        assert best is not None
        images = pieces[0].images
        if images is not None and (self.runs > 1 or BEST in pc.unique(pieces[0].steps["kind"]).to_pylist()):
            images = with_result(images, batch.ids, best)
        beside = batch._replace(target=None, end=best.x)
        if getattr(self.attack, "eps", None) is None and (norm := getattr(self.attack, "norm", None)) is not None:
            # An attack of minimal norm has no radius: noise is as large as what it found.
            beside = beside._replace(eps=ball(norm).size(best.x - batch.x).clamp(min=TINY))
        for name, control in self.controls.items():
            pieces.append(
                walk(
                    control,
                    self.victim,
                    beside,
                    Noise(self.seed),
                    path=name,
                    measure=self.measure,
                    certificate=certificate,
                    tick=ticked(name),
                    clean=pieces[0].clean,
                )
            )
        return Piece(
            pa.concat_tables([piece.steps for piece in pieces]),
            pa.concat_tables([piece.layers for piece in pieces]),
            images,
        )

    def _predict(self, x: Tensor) -> Tensor:
        """What the user's own model, unfolded and as it was given, predicts; its layers are looked at once more."""
        own = next(self.model.parameters(), x)
        where = self.victim.where
        where.begin("confirmation of the attack's results", 0)
        where.passes = 1
        with where.watched():
            logits = self.victim.check_again(x)
            if logits is None:
                with torch.no_grad():
                    logits = as_logits(self.model(x.to(own.device, own.dtype)))
        if tuple(logits.shape) != (len(x), self.victim.classes):
            where.check(logits, len(x), self.victim.classes, gradient=False)
        where.end()
        return logits.argmax(1)

    def pieces(self, wanted: Sequence[int], progress: Report | None) -> Iterator[tuple[int, Piece]]:
        """The wanted batches, one after the other."""
        per_path = self.length + 1
        rows = [min(self.batch_size, len(self.x) - i * self.batch_size) for i in range(self.batches)]
        done = self.total - sum(rows[i] for i in wanted) * per_path * (self.runs + len(self.controls))
        for index in wanted:

            def tick(what: str, size: int = rows[index]) -> None:
                nonlocal done
                done += size
                if progress is not None:
                    progress(Progress(min(done, self.total), self.total, what))

            self.victim.where.end()
            try:
                with guard.net(f"in batch {index + 1} of {self.batches}", memory=False):
                    found = self.piece(index, tick)
            except (MemoryError, RuntimeError) as error:
                if not guard.is_out_of_memory(error):
                    raise
                raise ResourceError(
                    f"out of memory with batches of {self.batch_size}; "
                    f"run again with --batch-size {max(1, self.batch_size // 2)}"
                ) from error
            yield index, found


def prepare(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    attack: Attack,
    controls: Sequence[str] = (),
    layers: Sequence[str] = (HEAD,),
    probes: int = 16,
    ids: Tensor | None = None,
    pool: tuple[Tensor, Tensor] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    images: str = "key",
    bounds: tuple[float, float] = (0.0, 1.0),
    only_correct: bool = False,
    dead_units: bool = False,
    recorded_accuracy: float | None = None,
) -> Job:
    """Check the model and the data, and make the victim. See `trace` for the arguments.

    ``recorded_accuracy`` is that on clean inputs, where one is on record.
    """
    keep_freed_memory()
    x, y = check_data(x, y)
    ids = torch.arange(len(x)) if ids is None else ids
    victim, measure, skipped = instrument(
        model, x, layers, probes=probes, seed=seed, bounds=bounds, dtype=dtype, device=device, dead_units=dead_units
    )
    if int(y.max()) >= victim.classes:
        first = int((y >= victim.classes).nonzero()[0])
        raise DataError(
            f"label {int(y[first])} of sample {int(ids[first])} is out of range: "
            f"the model has {victim.classes} classes, 0 … {victim.classes - 1}"
        )
    eps = getattr(attack, "eps", None)
    if isinstance(eps, tuple):
        if len(eps) != len(x):
            raise AttackError(f"eps has {len(eps)} values for {len(x)} samples; give one number, or one per sample")
        if only_correct:
            raise AttackError("eps has a value per sample, which --only-correct would mix up; choose the samples first")
    few: tuple[Caution, ...] = tuple(_fed_otherwise(victim, x, y))
    if only_correct:
        right = _correct(victim, x, y)
        if not right.any():
            raise DataError(
                f"none of the {len(x)} samples is classified as labelled; --only-correct leaves nothing to attack"
            )
        # Of those that are left all are right: the tables cannot tell any more.
        few += tuple(cautions.low_accuracy(int(right.sum()), len(right), victim.classes, recorded_accuracy))
        x, y, ids = x[right], y[right], ids[right]
    length = int(getattr(attack, "length", 40))
    fitted = batch_size or batch_that_fits(bytes_per_sample(victim, x, y), victim.device)
    return Job(
        model=model,
        victim=victim,
        measure=measure,
        attack=attack,
        controls={name: _control(name, attack, length) for name in controls},
        x=x,
        y=y,
        ids=ids,
        pool_x=x if pool is None else pool[0],
        pool_y=y if pool is None else pool[1],
        target=getattr(attack, "target", None),
        batch_size=min(fitted, len(x)),
        seed=seed,
        images=images,
        preflight=(
            *_preflight(model, victim, x, bounds),
            *cautions.unnormalised(bounds, eps),
            *few,
            *cautions.not_probed(skipped),
        ),
    )


def instrument(
    model: nn.Module,
    x: Tensor,
    layers: Sequence[str],
    *,
    probes: int,
    seed: int,
    exact_classes: int = 32,
    loss: str = "cross-entropy",
    **how: Any,
) -> tuple[Victim, AnyLayer, dict[str, str]]:
    """The victim, what measures its layers, and the layers that only a pattern selected and that cannot be probed.

    Args:
        model: the user's.
        x: a few inputs.
        layers: names and patterns; a layer that is named must be one that can be probed.
        probes: see `AnyLayer`, as are the following.
        seed: of the probes.
        exact_classes: how many classes are taken exactly.
        loss: the loss whose curvature it is.
        how: as for `Victim`.
    """
    skipped: dict[str, str] = {}
    while True:
        try:
            with guard.net("while it is checked, before the attack"):
                victim = Victim(model, x, layers=layers, without=skipped, **how)
                measure = AnyLayer(
                    victim, x[:EXAMPLES], probes=probes, seed=seed, exact_classes=exact_classes, loss=loss
                )
        except LayerError as error:
            if not error.refused:
                raise
            if named := [name for name in error.refused if name in layers]:
                raise LayerError(error.refused[named[0]], named[0]) from error
            skipped |= error.refused
            continue
        if not victim.layers:
            raise LayerError(f"none of the layers {', '.join(layers)} can be probed: {next(iter(skipped.values()))}")
        return victim, measure, skipped


def check_data(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and labels that can be attacked, or a DataError that says why not."""
    x, y = torch.as_tensor(x).detach(), torch.as_tensor(y).detach().cpu()
    if not x.is_floating_point():
        raise DataError(f"inputs are {x.dtype}; give floating-point numbers within the bounds, for example x / 255")
    if len(x) == 0:
        raise DataError("there are no samples; give at least one")
    if y.shape != (len(x),) or y.is_floating_point():
        raise DataError(
            f"labels have shape {tuple(y.shape)} and type {y.dtype}; needs whole numbers of shape [{len(x)}]"
        )
    if int(y.min()) < 0:
        raise DataError(f"label {int(y.min())} of sample {int(y.argmin())} is negative; labels are 0 … K−1")
    bad = ~torch.isfinite(x).flatten(1).all(1)
    if bad.any():
        raise DataError(
            f"inputs of {int(bad.sum())} samples hold NaN or inf, first sample {int(bad.nonzero()[0])}; remove them"
        )
    return x, y.long()


def _preflight(model: nn.Module, victim: Victim, x: Tensor, bounds: tuple[float, float]) -> Iterator[Caution]:
    low, high = bounds
    slack = endings.rounding(x) * max(abs(low), abs(high))
    outside = ((x < low - slack) | (x > high + slack)).flatten(1).any(1)
    if outside.any():
        yield cautions.bounds(int(outside.sum()), len(x), float(x.min()), float(x.max()), bounds)
    if victim.probabilities:
        yield cautions.probabilities(endings.softmax(model, x[:2]))


def _fed_otherwise(victim: Victim, x: Tensor, y: Tensor) -> Iterator[Caution]:
    """Whether the model does better on standardised inputs than on those that it is given."""
    x, y = x[:FED].to(victim.dtype), y[:FED]
    axes = (0, *range(2, x.dim()))
    mean, std = x.mean(axes, keepdim=True), x.std(axes, keepdim=True, correction=0)
    if len(x) < cautions.LEAST_GAIN or not (std > 0).all():
        return
    plain = _correct(victim, x, y)
    if len(x) - int(plain.sum()) < cautions.LEAST_GAIN:
        return  # nothing to gain
    other = _correct(victim, (x - mean) / std, y)
    gained, lost = int((other & ~plain).sum()), int((plain & ~other).sum())
    told = [",".join(f"{v:.3g}" for v in part.flatten().tolist()) for part in (mean, std)]
    yield from cautions.not_normalised(int(plain.sum()), gained, lost, len(x), *told)


def _correct(victim: Victim, x: Tensor, y: Tensor) -> Tensor:
    size = batch_that_fits(bytes_per_sample(victim, x, y), victim.device)
    with torch.no_grad():
        found = [
            victim(victim.place(part), labels.to(victim.device), final=True).logits.argmax(1).cpu() == labels
            for part, labels in zip(x.split(size), y.split(size), strict=True)
        ]
    return torch.cat(found)


def _control(name: str, attack: Attack, length: int) -> Attack:
    made = attacks.find(name)
    own = ("eps", "norm", "step_size")
    # Dynamic steps have no one size to give to a control.
    wanted = {"steps": length, **{key: getattr(attack, key, None) for key in own}}
    if "eps" not in wanted or wanted["eps"] is None:
        wanted["step_size"] = None
    known = {field.name for field in dataclasses.fields(made)}
    control: Attack = made(**{key: value for key, value in wanted.items() if key in known and value is not None})
    return control


def _other(labels: Tensor, label: int, sample: int, noise: Noise) -> int:
    """The index of an image of another class, drawn for this sample."""
    among = (labels != label).nonzero().squeeze(1)
    if len(among) == 0:
        raise AttackError(
            f"the control line-to-other-class finds only images of class {label}; give data of at least two"
        )
    return int(among[noise.integer(sample, len(among), "other-class")])
