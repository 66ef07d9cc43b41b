"""Anybody's attack, unmodified: recorded on the user's own model, then replayed and measured.

The attack runs once, exactly as it would without flatlens. A forward pre-hook notes the inputs of every call that
the attack takes a gradient on; these are its iterates, and what it returns is the end of the path.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flatlens.attacks import libraries
from flatlens.attacks.gradient import is_above
from flatlens.attacks.mapping import Call, UnmappableError, paths
from flatlens.errors import AttackError, AttackFailedError, FlatlensError, PassError, one_line, unknown
from flatlens.models import guard
from flatlens.models.normalized import Normalized
from flatlens.records.schema import RETURNED
from flatlens.specs.catalogue import NORMS
from flatlens.specs.values import plain, shortened
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Pass, Victim

Run = Callable[[nn.Module, Tensor, Tensor], Tensor]

TOLERANCE = 1e-3
"""By how much, relative to the bounds, an iterate may lie outside them."""


def recorded(
    attack: Any,
    *,
    eps: float | None = None,
    norm: str | None = None,
    target: int | str | None = None,
    calls_per_step: int | None = None,
    seed: int | None = None,
) -> Recorded:
    """An attack that is not flatlens' own, to be traced as it is.

    Args:
        attack: any callable ``attack(model, x, y) -> x_adv``, or for `fl.trace_text` ``attack(model, tokenizer,
            prompt)``; or an attack object of torchattacks or pyautoattack,
            bound to the very model that is traced; or one of foolbox.
        eps: foolbox's ``epsilons`` (None for its minimising attacks); otherwise only what perturbations are held
            against, read from the attack's own ``eps`` when left out.
        norm: ``linf``, ``l2`` or ``l1``; read from the attack's name where it says so.
        target: as for `PGD`; the attack is then given these labels in place of the true ones (torchattacks must
            be set to ``set_mode_targeted_by_label``).
        calls_per_step: gradients that the attack takes per step, the first of them at the iterate; known for the
            attacks of torchattacks and foolbox, 1 where it is not; 0: as many as are made at the same point.
        seed: run with this torch seed, and leave torch's own random state as it was; when left out, the attack
            draws from torch's state as it would by itself.

    Raises:
        AttackError: what was given cannot be called as an attack.
    """
    kind = libraries.kind(attack)
    if eps is not None and not is_above(eps, 0):
        raise AttackError(f"eps = {shortened(repr(eps))}: needs a number above 0, for example 8/255")
    if norm is not None and norm not in NORMS:
        raise AttackError(unknown("norm", norm, NORMS, where="there are"))
    if seed is not None and not is_above(seed, -1):
        raise AttackError(f"seed = {shortened(repr(seed))}: needs a whole number of at least 0")
    eps = plain(eps)
    return Recorded(
        run=libraries.runner(attack, kind, eps),
        name=libraries.name(attack, kind),
        library=kind,
        eps=libraries.radius(attack) if eps is None else eps,
        norm=libraries.norm(attack) if norm is None else norm,
        steps=libraries.steps(attack),
        target=plain(target),
        calls_per_step=libraries.calls_per_step(attack) if calls_per_step is None else calls_per_step,
        seed=seed,
        provenance=libraries.provenance(attack, kind) | ({"epsilons": eps} if kind == "foolbox" else {}),
        own=attack if kind == libraries.CALLABLE else None,
    )


@dataclass(frozen=True)
class Recorded:
    """A foreign attack with what is known of it; made by `recorded`."""

    run: Callable[[nn.Module, Tensor, Tensor, tuple[float, float]], Any]
    name: str
    library: str
    eps: float | None
    norm: str
    steps: int | None
    target: int | str | None
    calls_per_step: int
    seed: int | None
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Library, version and settings in effect (`libraries.provenance`)."""
    own: Any = field(default=None, compare=False)
    """The callable itself, where it is one: of a language model it is called with other arguments."""

    def __post_init__(self) -> None:
        if not isinstance(self.calls_per_step, int) or self.calls_per_step < 0:
            raise AttackError(f"calls_per_step = {self.calls_per_step}: needs a whole number, 0 = all at one point")

    @property
    def length(self) -> int:
        """Steps to expect; 40 where the attack does not say."""
        return self.steps or 40

    def describe(self) -> dict[str, Any]:
        """What a trace says of how it was made."""
        known = {"attack": self.name, "eps": self.eps, "norm": self.norm, "steps": self.steps}
        return {key: value for key, value in known.items() if value is not None}

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Not walked directly: `record` runs the attack, and what it returns walks."""
        raise AttackError(f"{self.name} is recorded on the user's own model; trace it with flatlens.trace")

    def record(self, model: nn.Module, batch: Batch, bounds: tuple[float, float]) -> tuple[Replay, dict[str, int]]:
        """Run the attack on one batch, once, and sort its calls into one path per sample.

        Where the calls cannot be given to samples beyond doubt, each sample is attacked once more alone, from the
        same random state; the returned points are those of the batch all the same.

        Raises:
            AttackError: the attack does not use this model, or returns something else than examples.
        """
        own = next(model.parameters(), batch.x)
        # As the user would have passed them: on the model's device, in its dtype and the usual memory format.
        x = batch.x.to(own.device, own.dtype).contiguous()
        y = (batch.y if batch.target is None else batch.target).to(own.device)
        with _seeded(self.seed, batch.ids):
            start = random_state()
            calls, returned = self._attack(model, x, y, bounds)
            clean = x.cpu()
            notes = {"blank": blank(returned, clean)}
            try:
                found = paths(calls, clean, calls_per_step=self.calls_per_step)
            except UnmappableError:
                end = random_state()
                found, other = self._one_by_one(model, x, y, bounds, start, returned)
                notes |= {"one-by-one": len(clean), "differs-alone": other}
                restore(end)
        if not any(call.gradient for call in calls):
            notes["no-gradient"] = len(clean)
        check_range(found, clean, returned, bounds, self.name)
        return Replay(found, returned), notes

    def _attack(self, model: nn.Module, x: Tensor, y: Tensor, bounds: tuple[float, float]) -> tuple[list[Call], Tensor]:
        before = weights(model)
        with unchanged(model), listening(model) as calls:
            # The attack is not to write into what is replayed.
            returned = self._run(model, x.clone(), y.clone(), bounds, calls)
        if changed := edited(model, before):
            raise AttackError(
                f"{self.name} changes the model's weights ('{changed}'); what was attacked is no longer there: let it "
                "work on a copy"
            )
        if not calls and isinstance(model, Normalized):
            raise AttackError(
                f"{self.name} never calls the model with its normalisation; build the attack around "
                "fl.normalized(model, mean, std), and trace that, without normalize="
            )
        if not calls:
            raise AttackError(
                f"{self.name} never calls the model that is traced; build the attack around the same object, "
                "and let it call the model itself, not its .forward; points that are there already are measured by "
                "fl.attacks.along([x_adv])"
            )
        if isinstance(returned, np.ndarray):
            returned = torch.from_numpy(returned)
        if not isinstance(returned, Tensor) or returned.shape != x.shape:
            shown = tuple(returned.shape) if isinstance(returned, Tensor) else type(returned).__name__
            raise AttackError(f"{self.name} returns {shown}; adversarial inputs of shape {tuple(x.shape)} are needed")
        if not returned.is_floating_point():
            raise AttackError(
                f"{self.name} returns {str(returned.dtype).removeprefix('torch.')}; adversarial inputs are needed in "
                "floating point, in the units of what it was given"
            )
        check_shapes(calls, x, self.name)
        return calls, returned.detach().cpu().clone()

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, bounds: tuple[float, float], calls: list[Call]) -> Any:
        try:
            return self.run(model, x, y, bounds)
        except (KeyboardInterrupt, FlatlensError):
            raise
        except BaseException as error:
            if guard.is_out_of_memory(error):
                raise
            if guard.in_model(error, model):
                raise PassError(
                    f"the model fails at pass {len(calls)} of {self.name}: {one_line(error, kind=True)}"
                ) from error
            raise AttackFailedError(
                f"{self.name} fails after {len(calls)} passes of the model: {one_line(error, kind=True)}"
            ) from error

    def _one_by_one(
        self, model: nn.Module, x: Tensor, y: Tensor, bounds: tuple[float, float], start: Any, returned: Tensor
    ) -> tuple[list[list[Tensor]], int]:
        found, other = [], 0
        for i in range(len(x)):
            restore(start)
            calls, alone = self._attack(model, x[i : i + 1], y[i : i + 1], bounds)
            try:
                found += paths(calls, x[i : i + 1].cpu(), calls_per_step=self.calls_per_step)
            except UnmappableError as error:
                raise AttackError(f"{self.name} cannot be followed even one sample at a time: {error}") from error
            # Rounding differs with the size of a batch; a different path does more than that.
            other += not torch.allclose(alone[0], returned[i], rtol=0, atol=TOLERANCE * (bounds[1] - bounds[0]))
        return found, other


@dataclass(frozen=True)
class Replay:
    """Paths on the CPU, one list of iterates per sample, and what the library returned, if it did."""

    iterates: list[list[Tensor]]
    returned: Tensor | None = None

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Yield the clean input, the iterates of those samples that have one at this step, the returned points."""
        yield victim(batch.x, batch.y, final=True)
        longest = max(map(len, self.iterates), default=0)
        for step in range(longest):
            there = [i for i, path in enumerate(self.iterates) if len(path) > step]
            x = victim.place(torch.stack([self.iterates[i][step] for i in there]))
            if len(there) == len(self.iterates):
                yield victim(x, batch.y, final=True)
                continue
            rows = torch.tensor(there)
            here = victim(x, batch.y[rows.to(batch.y.device)], final=True)
            here.rows = rows
            yield here
        if self.returned is not None:
            here = victim(victim.place(self.returned), batch.y, final=True)
            here.kind = RETURNED
            yield here


@contextmanager
def listening(model: nn.Module) -> Iterator[list[Call]]:
    """Note the calls of a model while it lasts."""
    calls: list[Call] = []

    # The name and the body stay clear of autograd: AutoAttack looks for it inside the forward pass.
    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        if x is None:
            return
        if _is_mapped(x):
            raise AttackError(
                "the attack calls the model within torch.func.vmap, where its inputs cannot be seen; call it on batches"
            )
        taken = torch.is_grad_enabled() and x.requires_grad
        # Probes are only counted: an attack may make thousands of them. A copy, since many step in place.
        calls.append(Call(x.detach().to("cpu", copy=True) if taken else torch.empty(0), taken))

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def _is_mapped(x: Tensor) -> bool:
    """Whether a tensor stands for one sample of many within torch.func.vmap."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(x):
        if functorch.is_batchedtensor(x):
            return True
        x = functorch.get_unwrapped(x)
    return False


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Give the model back as it was: modes, buffers, gradients, and what requires one."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    weights = [(p, p.requires_grad, p.grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, was in buffers:
                buffer.copy_(was)
            for p, requires, held, value in weights:
                p.requires_grad_(requires)
                if held is not None and value is not None:
                    held.copy_(value)
                p.grad = held


def weights(model: nn.Module) -> dict[str, tuple[int, Tensor]]:
    """Of each parameter, what counts its edits, and its sum, which also shows those behind autograd."""
    return {
        name: (0 if p.is_inference() else p._version, p.detach().sum(dtype=torch.float64))
        for name, p in model.named_parameters()
    }


def edited(model: nn.Module, before: Mapping[str, tuple[int, Tensor]]) -> str | None:
    """The first parameter that is no longer as it was when `weights` looked; None where all are."""
    now = weights(model)
    return next((k for k, (version, total) in before.items() if k not in now or now[k][0] != version
                 or not torch.equal(now[k][1], total)), None)  # fmt: skip


@contextmanager
def _seeded(seed: int | None, ids: Tensor) -> Iterator[None]:
    """Run under a seed that belongs to the batch, or, without one, in the random state that is there."""
    if seed is None:
        yield
        return
    before = random_state()
    torch.manual_seed(Noise(seed).integer(int(ids[0]), 2**31, "recorded"))
    try:
        yield
    finally:
        restore(before)


def random_state() -> tuple[Any, ...]:
    """The states of torch's, Python's and NumPy's own generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return torch.get_rng_state(), cuda, random.getstate(), np.random.get_state()  # noqa: NPY002 -- the libraries' own


def restore(state: tuple[Any, ...]) -> None:
    """Set them back to what `random_state` gave."""
    cpu, cuda, python, numpy = state
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002


def check_shapes(calls: list[Call], x: Tensor, name: str) -> None:
    """Raise AttackError if the attack takes gradients on inputs of another shape than the samples have."""
    strange = next((call.x for call in calls if call.gradient and call.x.shape[1:] != x.shape[1:]), None)
    if strange is not None:
        raise AttackError(
            f"{name} calls the model on inputs of shape {tuple(strange.shape)} for samples of shape "
            f"{tuple(x.shape[1:])}; resizing and reshaping belong into the model"
        )


def blank(returned: Tensor, clean: Tensor) -> int:
    """Examples that are zero throughout though their inputs are not: how foolbox's C&W marks failures."""
    return int(((returned == 0).flatten(1).all(1) & (clean != 0).flatten(1).any(1)).sum())


def check_range(
    found: list[list[Tensor]], clean: Tensor, returned: Tensor, bounds: tuple[float, float], name: str
) -> None:
    """Raise AttackError if the model saw other units than the attack was given: preprocessing outside of it."""
    low, high = bounds
    slack = TOLERANCE * (high - low)

    def outside(x: Tensor) -> bool:
        return bool((x < low - slack).any() or (x > high + slack).any())

    points = [x for path in found for x in path]
    if not points or outside(clean) or outside(returned):
        return
    stray = [x for x in points if outside(x)]
    if 2 * len(stray) > len(points):
        span = f"{min(float(x.min()) for x in stray):.3g} … {max(float(x.max()) for x in stray):.3g}"
        raise AttackError(
            f"{name} calls the model on inputs in {span}, outside the bounds [{low:g}, {high:g}] of what it was given; "
            "preprocessing belongs into the model; an attack whose gradients are taken elsewhere than at its iterates "
            "(ahead of them, at noisy copies) cannot be followed: give its iterates to fl.attacks.along"
        )
