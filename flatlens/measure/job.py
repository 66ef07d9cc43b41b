"""`Job`: a trace, prepared. Model and data are checked, the victim is made, the samples are cut into batches."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from flatlens.attacks.balls import TINY, ball
from flatlens.attacks.objectives import targets
from flatlens.attacks.protocol import Attack, Walks
from flatlens.errors import AttackError, ModelError, ResourceError
from flatlens.hessian.any_layer import AnyLayer
from flatlens.measure.conditions import FeatureKeeper, Probed
from flatlens.measure.keeper import ImageKeeper, with_result
from flatlens.measure.loop import Found, Piece, walk
from flatlens.models import guard
from flatlens.probes import Probe, StepProbe
from flatlens.probes.bending import Bending
from flatlens.probes.certificate import Certificate, Certified
from flatlens.probes.flatness import Flatness, Settled
from flatlens.probes.gradients import GradientFlow, dead_units
from flatlens.probes.prediction import perturbation, prediction
from flatlens.progress import Progress, Report
from flatlens.records import cautions, learnt
from flatlens.records.schema import ATTACK, BEST, MEASUREMENT_VERSION, Caution
from flatlens.records.trajectory import Trace
from flatlens.version import __version__
from flatlens.victims.images import ImageVictim
from flatlens.victims.layers import as_logits
from flatlens.victims.memory import batch_that_fits, bytes_per_sample
from flatlens.victims.noise import Noise
from flatlens.victims.precision import exact_arithmetic
from flatlens.victims.protocol import Batch

FED = 128
"""Inputs on which it is tried whether the model was made for standardised ones."""


@dataclasses.dataclass
class Job:
    """A trace, prepared: everything that does not depend on the batch.

    ``x`` ``[n, …]``, ``y`` ``[n]`` and ``ids`` ``[n]`` are on the CPU; ``pool_x`` and ``pool_y`` are the images among
    which a control finds one of another class.
    """

    model: nn.Module
    victim: ImageVictim
    measure: AnyLayer
    attack: Attack
    controls: dict[str, Walks]
    x: Tensor
    y: Tensor
    ids: Tensor
    pool_x: Tensor
    pool_y: Tensor
    batch_size: int
    seed: int
    images: str
    preflight: tuple[Caution, ...]
    surface: bool = False
    worst_case: bool = False
    condition: Probed | None = None
    """Of which features the condition number is taken along, where it is."""
    study: tuple[Tensor, Tensor] | None = None
    """The inputs and labels that an attack learns from, where it does; else those that are attacked."""
    weights: str | None = None
    """SHA-256 of the model's weights, where what an attack learns of it may be kept on the disk."""
    fitted: bool = False
    """Whether the attack has learnt what it needs to learn of the data."""

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
        """Steps of a path, the clean input not counted."""
        return self.attack.length

    @property
    def total(self) -> int:
        """The whole work, in samples × steps."""
        return len(self.x) * (self.length + 1) * (self.runs + len(self.controls))

    @property
    def runs(self) -> int:
        """How often the attack is run on each sample: its restarts."""
        return self.attack.runs(self.victim.classes)

    def batch(self, index: int) -> Batch:
        """One batch, on the victim's device."""
        part = slice(index * self.batch_size, (index + 1) * self.batch_size)
        x, y, ids = self.victim.place(self.x[part]), self.y[part].to(self.victim.device), self.ids[part]
        noise = Noise(self.seed)
        other = None
        if "line-to-other-class" in self.controls:
            picked = [other_image(self.pool_y, int(label), int(i), noise) for label, i in zip(y, ids, strict=True)]
            other = self.victim.place(self.pool_x[picked])
        eps = self.attack.radius
        own = torch.tensor(eps[part], device=x.device, dtype=x.dtype) if isinstance(eps, tuple) else None
        return Batch(x, y, ids, targets(self.attack.target, self.victim, x, y, ids, noise), other, own)

    def piece(self, index: int, tick: Callable[[str], None] = lambda what: None) -> Piece:
        """All paths of one batch, measured: the attack's runs, then the controls."""
        self.victim.where.batch = index + 1
        batch = self.batch(index)
        # Not under exact arithmetic: a library's numbers are to be those that it gives by itself.
        walks, notes = self.attack.walker(self.model, batch, self.victim.bounds)
        with exact_arithmetic(self.victim.device):
            noted = learnt.noted(self.attack.told(batch.x), len(batch.x))
            return self._measured(index, batch, walks, tick)._replace(notes={**notes, **noted})

    def probes(self, flatness: Flatness, certificate: Certificate | None) -> list[Probe]:
        """What is read off each pass of one path, in the order of the columns."""
        bound = [] if certificate is None else [Certified(certificate)]
        after = [StepProbe(read, late=True) for read in (GradientFlow(), Bending())]
        of_steps = [StepProbe(read) for read in (prediction, perturbation, dead_units)]
        return [*of_steps, flatness, *bound, *after, Settled(flatness)]

    def _measured(self, index: int, batch: Batch, walks: Walks, tick: Callable[[str], None]) -> Piece:
        certificate, flatness = Certificate.of(self.victim), Flatness(self.measure)
        features: dict[str, Any] = {}

        def walked(
            walks: Walks, batch: Batch, name: str, restart: int = 0, keeper: ImageKeeper | None = None, **more: Any
        ) -> Piece:
            taken = None if self.condition is None else FeatureKeeper(self.condition.layer, keeper)
            found = walk(
                walks,
                self.victim,
                batch,
                Noise(self.seed, restart),
                self.probes(flatness, certificate),
                path=name,
                tick=lambda: tick(f"{name}, batch {index + 1} of {self.batches}"),
                keeper=taken or keeper,
                **more,
            )
            if taken is not None:
                features[FeatureKeeper.key(name, restart)] = taken.features()
            return found

        pieces, best, gradients = [], None, None
        for run in range(self.runs):
            # Pictures are of the first run's path; what the others found is one more at its end.
            keeper = ImageKeeper(self.images) if run == 0 and self.images != "none" else None
            piece = walked(walks, batch, ATTACK, run, keeper=keeper, at_end=self._agrees)
            if keeper is not None:
                gradients = keeper.gradients(batch.ids, lambda x, own: self._slope(x, batch.y, needed=own))
            assert piece.found is not None
            best = piece.found if best is None else best.or_better(piece.found)
            pieces.append(piece._replace(found=None))
        assert best is not None
        images = pieces[0].images
        if images is not None and (self.runs > 1 or BEST in pc.unique(pieces[0].steps["kind"]).to_pylist()):
            images = with_result(images, batch.ids, best.x, best.answer)
        beside = batch._replace(target=None, end=best.x)
        if self.attack.radius is None and self.attack.norm is not None:
            # An attack of minimal norm has no radius: noise is as large as what it found.
            beside = beside._replace(eps=ball(self.attack.norm).size(best.x - batch.x).clamp(min=TINY))
        pieces += [walked(control, beside, name, at_end=self._look_again) for name, control in self.controls.items()]
        return Piece(
            pa.concat_tables([piece.steps for piece in pieces]),
            pa.concat_tables([piece.layers for piece in pieces]),
            images,
            gradients=gradients,
            features=features or None,
        )

    def _slope(self, x: Tensor, y: Tensor, *, needed: bool) -> Tensor | None:
        """The loss's gradient at points ``[n, …]``; None where the model has none and it is not ``needed``."""
        where = self.victim.where
        where.begin("gradients at the end of the attack", 0)
        try:
            return self.victim(x, y).grad(lambda here: here.loss)
        except ModelError:
            if needed:
                raise
            return None
        finally:
            where.end()

    def _agrees(self, found: Found) -> Tensor:
        """For which samples the user's own model predicts what the victim does, ``[n]`` bool."""
        predicted = self._predict(found.x).to(found.answer.device)
        return found.answer.argmax(1) == predicted

    def _look_again(self, found: Found) -> None:
        """Look at the layers of the user's own model where a control ends."""
        self.victim.check_again(found.x)

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

    def fit(self, progress: Report | None = None) -> None:
        """Let the attack learn what it needs to learn of the data, once."""
        if not self.fitted:
            x, y = self._studied
            self.attack = self.attack.fit(self.victim, x, y, seed=self.seed, weights=self.weights, progress=progress)
            self.fitted = True

    def lessons(self) -> tuple[int, float]:
        """Passes of a batch, each forward and backward, and seconds, that the attack's learning takes."""
        return self.attack.lessons(self.victim, *self._studied, seed=self.seed, weights=self.weights)

    @property
    def _studied(self) -> tuple[Tensor, Tensor]:
        return (self.x, self.y) if self.study is None else self.study

    def learnt(self, trace: Trace, notes: Mapping[str, int]) -> dict[str, Any]:
        """What a manifest says of what the attack has learnt, after its paths; {} where it learns nothing."""
        self.fit()
        return learnt.record(self.attack.told(self.x), trace, notes)

    def provenance(self) -> dict[str, Any]:
        """What a manifest says of how the numbers came about."""
        return provenance(self)

    def texts(self) -> None:
        """No prompts: those are of language models."""

    def pieces(
        self, wanted: Sequence[int], progress: Report | None, opened: Callable[[int], Path] | None = None
    ) -> Iterator[tuple[int, Piece]]:
        """The wanted batches, one after the other; ``opened`` is not used: a batch of images is measured as a whole."""
        per_path = self.length + 1
        rows = [min(self.batch_size, len(self.x) - i * self.batch_size) for i in range(self.batches)]
        done = self.total - sum(rows[i] for i in wanted) * per_path * (self.runs + len(self.controls))
        if wanted:
            self.fit(progress)
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


def other_image(labels: Tensor, label: int, sample: int, noise: Noise) -> int:
    """The index of an image of another class, drawn for this sample."""
    among = (labels != label).nonzero().squeeze(1)
    if len(among) == 0:
        raise AttackError(
            f"the control line-to-other-class finds only images of class {label}; give data of at least two"
        )
    return int(among[noise.integer(sample, len(among), "other-class")])


def fed_otherwise(victim: ImageVictim, x: Tensor, y: Tensor, *, wrong: int) -> Iterator[Caution]:
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


def classified(victim: ImageVictim, x: Tensor, y: Tensor) -> Tensor:
    """Which inputs are classified as labelled, ``[n]`` bool."""
    size = batch_that_fits(bytes_per_sample(victim, x, y), victim.device)
    with torch.no_grad():
        found = [
            victim(victim.place(part), labels.to(victim.device), final=True).logits.argmax(1).cpu() == labels
            for part, labels in zip(x.split(size), y.split(size), strict=True)
        ]
    return torch.cat(found)


def provenance(job: Job) -> dict[str, Any]:
    """What a manifest says of how the numbers came about."""
    return {
        **versions(),
        **({"recorded_attack": dict(job.attack.provenance)} if job.attack.provenance else {}),
        "device": str(job.victim.device),
        "threads": torch.get_num_threads(),
        "folded": job.victim.folded,
        "head": job.victim.head,
        "classes": job.victim.classes,
        "samples": len(job.x),
        "seed": job.seed,
    }


def versions() -> dict[str, Any]:
    """What a manifest says of what measured the numbers, whatever they are of."""
    return {
        "flatlens": __version__,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pyarrow": pa.__version__,
        },
        "measurement_version": MEASUREMENT_VERSION,
    }
