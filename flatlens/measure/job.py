"""`Job`: a trace, prepared. Model and data are checked, the victim is made, the samples are cut into batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from flatlens.attacks.balls import TINY, ball
from flatlens.attacks.protocol import Attack, Recorder
from flatlens.errors import AttackError, ResourceError
from flatlens.hessian.any_layer import AnyLayer
from flatlens.measure.loop import Keeper, Piece, walk, with_result
from flatlens.models import guard
from flatlens.probes.certificate import Certificate
from flatlens.progress import Progress, Report
from flatlens.records import cautions
from flatlens.records.schema import ATTACK, BEST, Caution
from flatlens.victims.images import Batch, Victim, exact_arithmetic
from flatlens.victims.layers import as_logits
from flatlens.victims.memory import batch_that_fits, bytes_per_sample
from flatlens.victims.noise import Noise

FED = 128
"""Inputs on which it is tried whether the model was made for standardised ones."""


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

    def cautions(self, notes: Mapping[str, int], wrong: int) -> tuple[Caution, ...]:
        """What was found before the attack, and what was noted of all batches while it was recorded.

        ``wrong`` of the clean inputs are classified otherwise than labelled.
        """
        fed = fed_otherwise(self.victim, self.x, self.y, wrong=wrong)
        return (*self.preflight, *fed, *cautions.recorded(notes, len(self.x)))

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


def _other(labels: Tensor, label: int, sample: int, noise: Noise) -> int:
    """The index of an image of another class, drawn for this sample."""
    among = (labels != label).nonzero().squeeze(1)
    if len(among) == 0:
        raise AttackError(
            f"the control line-to-other-class finds only images of class {label}; give data of at least two"
        )
    return int(among[noise.integer(sample, len(among), "other-class")])


def fed_otherwise(victim: Victim, x: Tensor, y: Tensor, *, wrong: int) -> Iterator[Caution]:
    """Whether the model does better on standardised inputs than on those that it is given.

    ``wrong`` of all inputs are classified otherwise than labelled: where they are few, no pass is made.

    Yields:
        the caution, where it does.
    """
    if wrong < cautions.LEAST_GAIN:
        return
    x, y = x[:FED].to(victim.dtype), y[:FED]
    axes = (0, *range(2, x.dim()))
    mean, std = x.mean(axes, keepdim=True), x.std(axes, keepdim=True, correction=0)
    if len(x) < cautions.LEAST_GAIN or not (std > 0).all():
        return
    plain = classified(victim, x, y)
    if len(x) - int(plain.sum()) < cautions.LEAST_GAIN:
        return  # nothing to gain
    other = classified(victim, (x - mean) / std, y)
    gained, lost = int((other & ~plain).sum()), int((plain & ~other).sum())
    told = [",".join(f"{v:.3g}" for v in part.flatten().tolist()) for part in (mean, std)]
    yield from cautions.not_normalised(int(plain.sum()), gained, lost, len(x), *told)


def classified(victim: Victim, x: Tensor, y: Tensor) -> Tensor:
    """Which inputs are classified as labelled, ``[n]`` bool."""
    size = batch_that_fits(bytes_per_sample(victim, x, y), victim.device)
    with torch.no_grad():
        found = [
            victim(victim.place(part), labels.to(victim.device), final=True).logits.argmax(1).cpu() == labels
            for part, labels in zip(x.split(size), y.split(size), strict=True)
        ]
    return torch.cat(found)
