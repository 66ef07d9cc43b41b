"""What a run of a language model (``lm:``) can be asked for: its own settings, their defaults and checks. No torch.

Lengths are in tokens; ``step_size`` and ``ball`` in units of the mean norm of the embedding's rows (``simplex`` moves
weights of tokens, and its ``step_size`` is one of these).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flatlens.errors import SpecError, unknown
from flatlens.specs.catalogue import ALL_CONTROLS, ATTACKS, CONTROLS, TEXT_ATTACKS, TEXT_CONTROLS
from flatlens.specs.known_models import OBJECT
from flatlens.specs.settings import demand_probes
from flatlens.specs.values import flag, shortened

if TYPE_CHECKING:
    from flatlens.specs.run import RunSpec

SCHEME = "lm"
BENIGN = "flatlens:benign-targets"
SHIPPED = {
    BENIGN: "12 harmless prompts, each with a target that the model would not say",
    "flatlens:short-targets": "4 of them with targets short enough for lm:flatlens-tiny",
}
"""Prompts that come with flatlens -> one line about them."""
PROMPTS = {"prompts": "a file of prompts and targets: prompts:FILE.jsonl, or prompts:FILE.csv"}
"""Scheme of prompts -> one line about it."""
INLINE = "flatlens:prompt"
"""The one prompt that ``prompt`` and ``target`` give."""

SLOTS, CHATS, POSITIONS = ("suffix", "prefix"), ("auto", "none"), ("target", "all")
STEPS, ATTACK = 100, "gcg"
FILE = "path:"
"""Begins the name of a file of slots, which are replayed."""
CHUNK = 32
"""Candidates that are evaluated together, unless ``batch_size`` says so. Their losses are compared in the model's
dtype, and the last bits depend on the chunk: it is part of what a run is."""

OWN = (
    "prompt", "target", "system", "slot_len", "init", "slot", "chat", "positions", "candidates", "topk", "swaps",
    "ball", "stop_after", "sharpen",
)  # fmt: skip
"""Settings that only language models have."""
_ALL: dict[str, Any] = {"slot_len": 20, "slot": "suffix", "chat": "auto", "positions": "target"}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gcg": {"candidates": 512, "topk": 256, "swaps": 1},
    "random-swap": {"candidates": 512, "swaps": 1},
    "embedding": {"step_size": 0.05},
    "simplex": {"step_size": 0.4, "sharpen": 0.4},
}
"""Attack -> its settings and their defaults; those of gcg are nanoGCG's, so that runs compare."""
_BESIDE = {"random-direction": ("embedding",)}
"""Control -> the attacks that it fits: it takes their steps."""
_OF_IMAGES = (
    "immunize",
    "eps", "norm", "random_start", "targeted", "objective", "momentum", "restarts", "only_correct", "dead_units",
    "surface", "worst_case", "bounds", "train", "images", "condition",
)  # fmt: skip
_WHOLE = {"slot_len": 10_000, "candidates": 1_000_000, "topk": 1_000_000, "swaps": 10_000, "stop_after": 1_000_000}


def is_language(model: str) -> bool:
    """Whether a model's name is that of a language model."""
    return model.startswith(f"{SCHEME}:")


def of_language(spec: RunSpec) -> bool:
    """Whether a run is of a language model, which may have come from Python as an object."""
    return is_language(spec.model) or (spec.model.startswith(f"{OBJECT}:") and spec.slot_len is not None)


def with_defaults(named: Mapping[str, Any]) -> dict[str, Any]:
    """What is left out and has another default for a language model: the attack, the steps, the data of a prompt."""
    model = named.get("model")
    text = isinstance(model, str) and (is_language(model) or named.get("slot_len") is not None)
    if not text:
        return dict(named)
    data = {"data": INLINE} if named.get("prompt") is not None else {}
    return {"attack": ATTACK, "steps": STEPS, **data, **named}


def check(spec: RunSpec) -> None:
    """Raise SpecError for the first value that a run of a language model cannot have."""
    for key in _OF_IMAGES:
        value = getattr(spec, key)
        if value != type(spec).__dataclass_fields__[key].default:
            raise SpecError(f"{flag(key)} {_shown(value)}: is of image classifiers; '{spec.model}' is a language model")
    name = spec.attack
    if name in ATTACKS:
        near = ", ".join(TEXT_ATTACKS)
        raise SpecError(f"attack '{name}' is of image classifiers; those of language models are: {near}")
    if name not in TEXT_ATTACKS and not name.startswith((f"{OBJECT}:", FILE)):
        raise SpecError(unknown("attack", name, [*TEXT_ATTACKS, f"{FILE}FILE.jsonl"], where="language models have"))
    if name == FILE:
        raise SpecError(f"'{name}' names no file; path:FILE.jsonl holds slots of prompts, as texts")
    if not _of_prompts(spec.data):
        raise SpecError(
            f"--data {spec.data}: '{spec.model}' is a language model and takes prompts: prompts:FILE.jsonl, {BENIGN}, "
            "or --prompt and --target"
        )
    if spec.data == INLINE and (spec.prompt is None or spec.target is None):
        raise SpecError(f"{flag('prompt' if spec.prompt is None else 'target')} is missing; a prompt needs both")
    if spec.data != INLINE and not spec.data.startswith(f"{OBJECT}:") and (spec.prompt or spec.target):
        key = "prompt" if spec.prompt else "target"
        raise SpecError(f"--{key} is given and --data {spec.data} too; the data have prompts of their own: give one")
    _check_numbers(spec)
    for key, known in (("slot", SLOTS), ("chat", CHATS), ("positions", POSITIONS)):
        value = getattr(spec, key)
        if value is not None and value not in known:
            raise SpecError(unknown(key, str(value), known, where="there are"))
    if spec.init is not None and not spec.init:
        raise SpecError("--init '': needs a text, for example ' x'")
    demand_probes(spec.probes)
    controls(spec)


def _check_numbers(spec: RunSpec) -> None:
    takes = _DEFAULTS.get(spec.attack, {})
    for key in ("candidates", "topk", "swaps", "step_size", "ball", "sharpen"):
        if getattr(spec, key) is None:
            continue
        takers = [one for one, known in _DEFAULTS.items() if key in known] if key != "ball" else ["embedding"]
        if spec.attack.startswith(FILE) and key not in ("candidates", "swaps"):
            raise SpecError(
                f"{flag(key)} is no setting of '{spec.attack}', which replays what is in the file; leave it out"
            )
        if key not in takes and spec.attack not in takers and spec.attack in TEXT_ATTACKS:
            raise SpecError(f"attack '{spec.attack}' has no {key}; those that have: {', '.join(takers)}")
    for key, most in _WHOLE.items():
        value = getattr(spec, key)
        if value is not None and not 1 <= value <= most:
            raise SpecError(f"{flag(key)} {value}: needs a whole number from 1 to {most:,}")
    for key in ("step_size", "ball"):
        value = getattr(spec, key)
        if value is not None and not (value > 0 and math.isfinite(value)):
            unit = "weights of tokens" if spec.attack == "simplex" else "units of the embedding's mean row norm"
            raise SpecError(f"{flag(key)} {value:g}: needs a number above 0, in {unit}")
    if spec.sharpen is not None and not 0 <= spec.sharpen < 1:
        raise SpecError(f"--sharpen {spec.sharpen:g}: needs a number from 0, which asks for nothing, to below 1")
    if spec.steps < 1 or (spec.limit is not None and spec.limit < 1):
        key = "steps" if spec.steps < 1 else "limit"
        raise SpecError(f"{flag(key)} {getattr(spec, key)}: needs a whole number of at least 1")
    if spec.batch_size is not None and spec.batch_size < 1:
        raise SpecError(f"--batch-size {spec.batch_size}: needs a whole number of at least 1")
    if spec.seed < 0:
        raise SpecError(f"--seed {spec.seed}: needs a whole number of at least 0")
    if spec.dtype not in ("float32", "float64", "bfloat16"):
        raise SpecError(unknown("dtype", spec.dtype, ("float32", "float64", "bfloat16"), where="there are"))
    own = {"slot_len": _ALL["slot_len"], **takes}
    slot, topk = (getattr(spec, key) or own.get(key) for key in ("slot_len", "topk"))
    swaps, candidates = (getattr(spec, key) or own.get(key) for key in ("swaps", "candidates"))
    if swaps is not None and swaps > slot:
        raise SpecError(f"--swaps {swaps}: a slot of {slot} tokens has no more to swap; give at most {slot}")
    if topk and candidates and swaps == 1 and candidates > slot * topk:
        raise SpecError(
            f"--candidates {candidates}: a slot of {slot} tokens with --topk {topk} has {slot * topk} single swaps; "
            "give at most as many"
        )


def check_absent(spec: RunSpec) -> None:
    """Refuse settings, attacks and data of language models in a run of an image classifier.

    Raises:
        SpecError: there is one.
    """
    for key in OWN:
        if (value := getattr(spec, key)) is not None:
            raise SpecError(
                f"{flag(key)} {_shown(value)}: is of language models; '{spec.model}' is an image classifier (a "
                "language model is lm:FOLDER)"
            )
    if spec.attack in TEXT_ATTACKS:
        raise SpecError(
            f"attack '{spec.attack}' is of language models; '{spec.model}' is an image classifier, whose attacks are: "
            f"{', '.join(ATTACKS)}"
        )
    if _of_prompts(spec.data) and not spec.data.startswith(f"{OBJECT}:"):
        raise SpecError(
            f"--data {spec.data}: holds prompts, and '{spec.model}' is an image classifier; a language model is "
            "lm:FOLDER, and data for images are, for example, flatlens:digits"
        )


def _of_prompts(data: str) -> bool:
    return data in (*SHIPPED, INLINE) or data.startswith(("prompts:", f"{OBJECT}:"))


def controls(spec: RunSpec) -> tuple[str, ...]:
    """The controls that are meant: for ``all``, those that the attack's kind of slot allows.

    Raises:
        SpecError: there is none of a name, or it is of another kind of slot.
    """
    soft = spec.attack in TEXT_ATTACKS and not TEXT_ATTACKS[spec.attack].discrete
    fitting = [
        name
        for name, entry in TEXT_CONTROLS.items()
        if (entry.discrete is None or entry.discrete != soft) and spec.attack in _BESIDE.get(name, (spec.attack,))
    ]
    for name in spec.control:
        if name in CONTROLS and name not in TEXT_CONTROLS:
            raise SpecError(
                f"control '{name}' is of image classifiers; those of language models: {', '.join(TEXT_CONTROLS)}"
            )
        if name not in TEXT_CONTROLS and name != ALL_CONTROLS:
            raise SpecError(unknown("control", name, [*TEXT_CONTROLS, ALL_CONTROLS], where="there are"))
        if name != ALL_CONTROLS and name not in fitting:
            kind = "made of tokens" if not soft else "a mixture of tokens" if spec.attack == "simplex" else "soft"
            raise SpecError(
                f"control '{name}' does not fit '{spec.attack}', whose slot is {kind}; fitting: {', '.join(fitting)}"
            )
    return tuple(fitting) if ALL_CONTROLS in spec.control else tuple(dict.fromkeys(spec.control))


def resolved(spec: RunSpec) -> dict[str, Any]:
    """The settings with their defaults written out."""
    own = {**_ALL, **_DEFAULTS.get(spec.attack, {})}
    filled = {key: value for key, value in own.items() if getattr(spec, key) is None}
    return {"control": controls(spec), "batch_size": spec.batch_size or CHUNK, **filled}


def _shown(value: Any) -> str:
    return shortened(" ".join(map(str, value)) if isinstance(value, tuple) else str(value))
