"""`RunSpec`: what a run is, as frozen plain data, and its TOML form. Every check of a value happens here, once.

The keys are the names of the command line's flags; the resolved spec, written into the run, reruns it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from html import escape
from typing import Any

import tomli_w

from flatlens.errors import SpecError, unknown
from flatlens.specs import attack_names, language
from flatlens.specs.catalogue import ATTACK_SCHEMES, ATTACKS, NORMS, OBJECTIVES
from flatlens.specs.defences import AXES
from flatlens.specs.immunize import NONE, ImmunizeSpec
from flatlens.specs.known_models import OBJECT
from flatlens.specs.settings import Settings, all_controls, read_bounds
from flatlens.specs.spelling import settings_of, unaliased
from flatlens.specs.train import TrainSpec
from flatlens.specs.trust import DOWNLOAD, TRUST
from flatlens.specs.uris import parse
from flatlens.specs.values import DEFAULT_LINF_EPS, flag, missing, number, shortened, typed, whole, written
from flatlens.specs.worst_case import demand_ball

NEEDED = ("model", "data")
TARGETS = ("next", "random", "least-likely")
NO_EPS = ("ddn",)
UNHASHED = ("device", "images", "name")
"""What does not determine the numbers."""
LATER = (("surface", False), ("worst_case", False), ("download", False))
"""Settings that came later, and their defaults, which stay unwritten: the specs of before keep their hash."""
SUBTABLES: Mapping[str, type] = {"train": TrainSpec, "immunize": ImmunizeSpec}
"""Settings that are tables of their own."""
OWN_OBJECTIVE = {"apgd-ce": "ce", "apgd-dlr": "dlr", "apgd-t": "dlr", "square": "margin"}


@dataclass(frozen=True)
class RunSpec:
    """One run: a model, data, an attack, its controls, and what is measured along them.

    Fields bear the names of the flags of ``flatlens trace``; ``layers`` and ``controls`` are taken too. ``name`` is
    what the run is called in tables and on pages. `resolved` fills in what was left out. ``seed`` decides all noise
    (random starts and targets, controls, probes), but not which samples are taken: ``limit`` takes the same samples
    for every ``seed``, and others for another ``sample_seed``. From ``prompt`` on they are of language models
    (`flatlens.specs.language`), and so are 100 steps of gcg the default there.
    """

    model: str
    data: str
    attack: str = "pgd"
    eps: float | None = None
    norm: str = "linf"
    step_size: float | None = None
    steps: int = 40
    random_start: bool = False
    targeted: str | None = None
    objective: str | None = None
    momentum: float | None = None
    restarts: int = 1
    control: tuple[str, ...] = ()
    layer: tuple[str, ...] = ("head",)
    probes: int = 16
    limit: int | None = None
    sample_seed: int | None = None
    samples: tuple[int, ...] | None = None
    only_correct: bool = False
    batch_size: int | None = None
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    images: str = "key"
    bounds: tuple[float, float] = (0.0, 1.0)
    dead_units: bool = False
    surface: bool = False
    train: TrainSpec | None = None
    immunize: ImmunizeSpec | None = None
    trust_pickle: bool = False
    trust_remote_code: bool = False
    download: bool = False
    name: str | None = None
    prompt: str | None = None
    target: str | None = None
    system: str | None = None
    slot_len: int | None = None
    init: str | None = None
    slot: str | None = None
    chat: str | None = None
    positions: str | None = None
    candidates: int | None = None
    topk: int | None = None
    swaps: int | None = None
    ball: float | None = None
    stop_after: int | None = None
    condition: float | None = None
    sharpen: float | None = None
    worst_case: bool = False

    def __post_init__(self) -> None:
        for key in ("control", "layer"):
            if isinstance(value := getattr(self, key), str):
                object.__setattr__(self, key, (value,))
        object.__setattr__(self, "attack", attack_names.spelled(self.attack))
        _check(self)

    def resolved(self) -> RunSpec:
        """The same run with the attack's defaults written out: eps, norm, step_size, objective, the list of controls.

        What an attack does not have, such as a minimal-norm attack's eps, is left out.
        """
        if self.of_language:
            return replace(self, **language.resolved(self))
        train = None if self.train is None else replace(self.train, data=self.train.data or self.data)
        immunize = self.immunize
        if immunize is not None:
            useful, other = immunize.primary or self.data, immunize.harmful or self.data
            immunize = replace(immunize, primary=useful, harmful=other)
        whole = replace(self, control=all_controls(self.control), train=train, immunize=immunize)
        return whole._foreign_resolved() if self.foreign else whole._native_resolved()

    def _foreign_resolved(self) -> RunSpec:
        # Its settings are in its name; what is not there is the library's own default.
        options = parse(self.attack, SpecError).options
        eps = number(options["eps"]) if self.eps is None and "eps" in options else self.eps
        steps = whole(options.get("steps", ""))
        return replace(self, eps=eps, steps=self.steps if steps is None else steps)

    def _native_resolved(self) -> RunSpec:
        entry = attack_names.entry(self.attack)
        takes, norms = entry.takes, entry.norms
        steps = 1 if self.attack == "fgsm" else self.steps
        eps = None if self.attack in NO_EPS else DEFAULT_LINF_EPS if self.eps is None else self.eps
        step_size = self.step_size if "step_size" in takes else None
        if eps is not None and step_size is None:
            default = {"fgsm": eps, "bim": eps / steps, "mi-fgsm": eps / steps, "pgd": 2.5 * eps / steps}
            step_size = default.get(self.attack)
        return replace(
            self,
            attack=attack_names.spelled(self.attack, defaults=True),
            eps=eps,
            norm=self.norm if self.norm in norms else norms[0],
            steps=steps,
            step_size=step_size,
            objective=OWN_OBJECTIVE.get(self.attack, self.objective or entry.objective),
            momentum=1.0 if self.attack == "mi-fgsm" and self.momentum is None else self.momentum,
        )

    @property
    def settings(self) -> Settings:
        """What is measured, and how: the settings that `fl.trace` and `fl.curvature` take, too."""
        return Settings(**{f.name: getattr(self, f.name) for f in fields(Settings)})

    @property
    def of_language(self) -> bool:
        """Whether it is a run of a language model."""
        return language.of_language(self)

    @property
    def foreign(self) -> bool:
        """Whether the attack is not flatlens' own: recorded, or points from a file."""
        return ":" in self.attack

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without what is None and without defaults of settings that came later (`LATER`)."""
        found = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if value is not None and (key, value) not in LATER
        }
        tables = {key: getattr(self, key) for key in SUBTABLES}
        return found | {key: table.to_dict() for key, table in tables.items() if table is not None}

    def to_toml(self) -> str:
        """The text of ``spec.toml``, which fetches nothing by network when it is run again."""
        return tomli_w.dumps({key: value for key, value in self.to_dict().items() if key != DOWNLOAD})

    def __repr__(self) -> str:
        """What was asked for: model, data, and what is not as it is when left out."""
        left_out = {one.name: one.default for one in fields(self)}
        said = [f"{key}={value!r}" for key in left_out if (value := getattr(self, key)) != left_out[key]]
        return f"RunSpec({', '.join(map(shortened, said))})"

    def _repr_html_(self) -> str:
        """What a notebook shows of it: the text of its ``spec.toml``."""
        lines = [escape(shortened(line)) for line in self.to_toml().splitlines()]
        return f'<pre style="margin:0">{"<br/>".join(lines)}</pre>'

    def hash(self) -> str:
        """SHA-256 of what determines the numbers: not the device, which images are kept, or what may run code."""
        plain = {k: v for k, v in self.to_dict().items() if k not in (*UNHASHED, *TRUST)}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


KEYS = tuple(f.name for f in fields(RunSpec))


def _taking_aliases(made: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(made)
    def init(self: RunSpec, *given: Any, **named: Any) -> None:
        made(self, *given, **language.with_defaults(unaliased(named)))

    return init


RunSpec.__init__ = _taking_aliases(RunSpec.__init__)  # type: ignore[method-assign]


def from_dict(values: Mapping[str, Any]) -> RunSpec:
    """A spec from plain data; ``attack`` may be a table with a ``name``.

    Raises:
        SpecError: an unknown key, a missing one, or a value that cannot be.
    """
    flat = settings_of(values)
    for key in flat:
        if key not in KEYS:
            raise SpecError(unknown("setting", key, KEYS, where="a run has"))
    for key in NEEDED:
        if key not in flat and not (key == "data" and "prompt" in flat):
            raise SpecError(missing(key))
    return RunSpec(**{key: coerce(key, value) for key, value in flat.items()})


def difference(mine: RunSpec, theirs: RunSpec) -> list[str]:
    """What differs between two specs, a phrase each: ``eps 0.3 instead of 0.1``."""
    a, b = (dict(LATER) | spec.to_dict() for spec in (mine, theirs))
    keys = [key for key in KEYS if key not in (*TRUST, "name") and a.get(key) != b.get(key)]
    return [f"{key} {written(key, a.get(key))} instead of {written(key, b.get(key))}" for key in keys]


def train_from_dict(values: Mapping[str, Any]) -> TrainSpec:
    """The table ``[train]``.

    Raises:
        SpecError: an unknown key, or a value that cannot be.
    """
    return TrainSpec(**_table_of("train", values))


def immunize_from_dict(values: Mapping[str, Any]) -> ImmunizeSpec | None:
    """The table ``[immunize]``; None where its method is ``none``.

    Raises:
        SpecError: an unknown key, or a value that cannot be.
    """
    found = _table_of("immunize", {key: value for key, value in values.items() if (key, value) != ("method", NONE)})
    return None if values.get("method") == NONE else ImmunizeSpec(**found)


def _table_of(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    known = [f.name for f in fields(SUBTABLES[name])]
    for key in values:
        if key not in known:
            raise SpecError(unknown("setting", key, known, where=f"[{name}] has"))
    return {key: coerce(key, value, SUBTABLES[name]) for key, value in values.items()}


def coerce(key: str, value: Any, of: type = RunSpec) -> Any:
    """``value`` as the type of the field ``key`` of a spec.

    Raises:
        SpecError: it cannot be read as such.
    """
    kinds = _kinds(key, of)
    if of is RunSpec and key in SUBTABLES and isinstance(value, Mapping):
        return train_from_dict(value) if key == "train" else immunize_from_dict(value)
    # On an axis of a defence none is a choice of its own, which a recipe may contradict.
    none = of is not RunSpec and value == "none" and key not in AXES
    if type(None) in kinds and (value is None or none):
        return None
    if of is RunSpec and key in SUBTABLES:
        if isinstance(value, SUBTABLES[key]):
            return value
        example = "epochs = 10" if key == "train" else 'method = "alg1"'
        raise SpecError(f"{key} = {value!r}: needs a table, for example [{key}] {example}")
    if float in kinds:
        return number(value) if isinstance(value, str) else typed(key, value, (int, float), float)
    if bool in kinds:
        return typed(key, value, bool, bool)
    if int in kinds:
        if key == "batch_size" and value == "auto":
            return None
        return typed(key, value, int, int)
    if str in kinds:
        return typed(key, str(value) if isinstance(value, int) and key == "targeted" else value, str, str)
    if key == "bounds":
        return read_bounds(value)
    items = value if isinstance(value, (list, tuple)) else [value]
    if key == "samples":
        return tuple(typed(key, item, int, int) for item in items)
    return tuple(typed(key, item, str, str) for item in items)


@functools.cache
def _kinds(key: str, of: type) -> tuple[Any, ...]:
    hint = typing.get_type_hints(of)[key]
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _check(spec: RunSpec) -> None:
    """Raise SpecError for the first value that cannot be."""
    if spec.name is not None and not (spec.name.strip() and spec.name.isprintable()):
        raise SpecError(f"--name {spec.name!r}: needs a line of text, for example wide")
    _check_samples(spec)
    if spec.of_language:
        language.check(spec)
        return
    language.check_absent(spec)
    if spec.norm not in NORMS:
        raise SpecError(unknown("norm", spec.norm, NORMS, where="there are"))
    if spec.objective is not None and spec.objective not in OBJECTIVES:
        raise SpecError(unknown("objective", spec.objective, OBJECTIVES, where="there are"))
    if spec.foreign:
        _check_foreign(spec)
    else:
        _check_native(spec)
    for key in ("eps", "step_size"):
        value = getattr(spec, key)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise SpecError(f"{flag(key)} {value:g}: needs a number above 0, for example 8/255")
    if spec.momentum is not None and not (spec.momentum >= 0 and math.isfinite(spec.momentum)):
        raise SpecError(f"--momentum {spec.momentum:g}: needs a number of at least 0, for example 1")
    for key in ("steps", "limit", "restarts"):
        value = getattr(spec, key)
        if value is not None and value < 1:
            raise SpecError(f"{flag(key)} {value}: needs a whole number of at least 1")
    _ = spec.settings
    if spec.worst_case and not spec.foreign:  # what others' attacks are within is known when they are made
        demand_ball(spec.attack, spec.norm, None if spec.attack in NO_EPS else spec.eps or DEFAULT_LINF_EPS)
    if spec.targeted is not None and spec.targeted not in TARGETS and whole(spec.targeted) is None:
        raise SpecError(unknown("target", spec.targeted, ["LABEL (a number)", *TARGETS], where="there are"))


def _check_samples(spec: RunSpec) -> None:
    if spec.samples is not None and (not spec.samples or min(spec.samples) < 0):
        raise SpecError(f"--samples {','.join(map(str, spec.samples))}: needs indices of at least 0, for example 3,17")
    if spec.samples is not None and len(set(spec.samples)) < len(spec.samples):
        raise SpecError(f"--samples {','.join(map(str, spec.samples))}: names a sample twice")
    if spec.sample_seed is not None and spec.sample_seed < 0:
        raise SpecError(f"--sample-seed {spec.sample_seed}: needs a whole number of at least 0")


def _check_native(spec: RunSpec) -> None:
    name, entry = attack_names.base(spec.attack), attack_names.entry(spec.attack)
    if spec.norm not in entry.norms and spec.norm != RunSpec.norm:
        raise SpecError(unknown("norm", spec.norm, entry.norms, where=f"attack {name} has"))
    if spec.eps is None and spec.norm != "linf" and spec.attack not in NO_EPS:
        raise SpecError(f"--eps must be given for {spec.norm}; its size depends on the input, for example --eps 0.5")
    if spec.attack == "apgd-t" and spec.targeted is not None:
        raise SpecError(f"--targeted {spec.targeted}: apgd-t chooses its targets itself; use apgd-ce or apgd-dlr")
    own = {"objective": spec.objective not in (None, OWN_OBJECTIVE.get(spec.attack)), "restarts": spec.restarts != 1}
    for key, given in (own | {"momentum": spec.momentum is not None}).items():
        if given and key not in entry.takes:
            takers = ", ".join(one for one, other in ATTACKS.items() if key in other.takes)
            raise SpecError(f"attack '{name}' has no {key}; those that have: {takers}")


def _check_foreign(spec: RunSpec) -> None:
    uri = parse(spec.attack, SpecError)
    if uri.scheme == OBJECT:
        return
    if uri.scheme not in ATTACK_SCHEMES:
        raise SpecError(unknown("scheme", uri.scheme, ATTACK_SCHEMES, where="attacks of others come by"))
    if not uri.path:
        raise SpecError(f"'{spec.attack}' names no attack; {ATTACK_SCHEMES[uri.scheme]}")
    if "eps" in uri.options:
        number(uri.options["eps"])
        if spec.eps is not None and spec.eps != number(uri.options["eps"]):
            raise SpecError(f"--eps {spec.eps:g} contradicts eps={uri.options['eps']} in '{spec.attack}'; give one")
    for key in ("step_size", "random_start", "objective", "momentum", "restarts"):
        if getattr(spec, key) != getattr(RunSpec, key):
            raise SpecError(f"{flag(key)} is no setting of '{spec.attack}'; its own go into its name: NAME?key=value")


def demand_named(spec: RunSpec) -> None:
    """Refuse to run a spec whose model, data or attack came from Python as objects: no name leads back to them.

    Raises:
        SpecError: the model, the data or the attack did.
    """
    objects = [key for key in ("model", "data", "attack") if getattr(spec, key).startswith(f"{OBJECT}:")]
    if objects:
        named = " and ".join(f"{key} '{getattr(spec, key).removeprefix(f'{OBJECT}:')}'" for key in objects)
        raise SpecError(
            f"this run was made in Python, and its {named} came as objects: it can be opened, drawn and exported, but "
            "only its script can run it again"
        )
