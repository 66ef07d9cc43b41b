"""The options of `flatlens trace`, and how flags, a file and ``--set`` become one spec.

A flag's parameter bears the name of the spec's field, and its default is None: the spec knows the defaults.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from flatlens.errors import SpecError, UsageError
from flatlens.specs import toml, trust, values
from flatlens.specs.run import KEYS, RunSpec, from_dict
from flatlens.specs.spelling import settings_of
from flatlens_cli import completing

_DEFAULTS = {field.name: field.default for field in fields(RunSpec)}

_WHOLE = (
    "steps", "restarts", "probes", "limit", "batch_size", "seed", "sample_seed", "slot_len", "candidates", "topk",
    "swaps", "stop_after",
)  # fmt: skip

_WHAT = "What to run"
_ATTACK = "The attack"
_MEASURE = "What is measured, on which samples"
_HOW = "How it is computed"
_OUTPUT = "Results"
_LANGUAGE = "Language models (lm:)"


def _option(panel: str, text: str, *flags: str, default: str | None = None, metavar: str | None = None) -> Any:
    """An option that says its default, which is the spec's own unless another is given."""
    key = flags[0].removeprefix("--").partition("/")[0].replace("-", "_")
    known = _DEFAULTS.get(key)
    shown = default or (known if isinstance(known, (str, int)) and not isinstance(known, bool) else None)
    said = text if shown is None else f"{text.removesuffix('.')} (default {shown})."
    return typer.Option(
        *flags,
        help=said,
        rich_help_panel=panel,
        show_default=False,
        metavar=metavar or "",
        autocompletion=completing.FOR.get(key),
    )


Model = Annotated[str | None, _option(_WHAT, "Model to attack; see `flatlens models`.", "--model", metavar="URI")]
Data = Annotated[str | None, _option(_WHAT, "Data to attack; see `flatlens datasets`.", "--data", metavar="URI")]
Config = Annotated[
    Path | None,
    _option(_WHAT, "Settings from a file, such as a run's spec.toml; flags win.", "--config", metavar="FILE"),
]
Set = Annotated[
    list[str] | None,
    _option(_WHAT, "One more setting, as TOML; wins over flags; repeatable.", "--set", metavar="KEY=VALUE"),
]

TrustPickle = Annotated[
    bool | None,
    _option(_WHAT, "Let pickled weights and torch.export files run code.", "--trust-pickle"),
]
TrustRemoteCode = Annotated[
    bool | None,
    _option(_WHAT, "Let Python code beside an hf: model run.", "--trust-remote-code"),
]
Download = Annotated[
    bool | None,
    _option(_WHAT, "Fetch a hub's weights that are missing.", "--download"),
]
TrustCode = Annotated[
    bool,
    _option(_WHAT, "Let the file of --config name code: file.py:factory, plug-ins.", "--trust-code"),
]

Attack = Annotated[str | None, _option(_ATTACK, "The attack; see `flatlens attacks`", "--attack", metavar="NAME")]
Eps = Annotated[
    str | None,
    _option(_ATTACK, "Radius; must be given for l2 and l1", "--eps", default="linf: 8/255", metavar="NUMBER"),
]
Norm = Annotated[str | None, _option(_ATTACK, "linf, l2 or l1.", "--norm", metavar="NAME")]
StepSize = Annotated[
    str | None, _option(_ATTACK, "Length of a step.", "--step-size", default="2.5·eps/steps", metavar="NUMBER")
]
Steps = Annotated[str | None, _option(_ATTACK, "Number of steps.", "--steps", metavar="N")]
RandomStart = Annotated[
    bool | None,
    _option(_ATTACK, "Start within the ball, not at the input.", "--random-start/--no-random-start"),
]
Targeted = Annotated[
    str | None,
    _option(_ATTACK, "Aim at a label, or at: next, random, least-likely.", "--targeted", metavar="LABEL"),
]
Objective = Annotated[
    str | None, _option(_ATTACK, "What is ascended: ce, dlr or margin", "--objective", default="ce", metavar="NAME")
]
Momentum = Annotated[
    str | None,
    _option(_ATTACK, "How much of the last direction is kept", "--momentum", default="mi-fgsm: 1", metavar="NUMBER"),
]
Restarts = Annotated[str | None, _option(_ATTACK, "Runs of the attack, each a path.", "--restarts", metavar="N")]
Control = Annotated[
    list[str] | None,
    _option(
        _ATTACK,
        "A path to walk beside the attack, or all of them: all; repeatable.",
        "--control",
        "--controls",
        metavar="NAME",
    ),
]

Prompt = Annotated[str | None, _option(_LANGUAGE, "What the user says; instead of --data.", "--prompt", metavar="TEXT")]
Target = Annotated[str | None, _option(_LANGUAGE, "The answer that the attack is after.", "--target", metavar="TEXT")]
System = Annotated[
    str | None, _option(_LANGUAGE, "The system's text, for prompts without one.", "--system", metavar="TEXT")
]
SlotLen = Annotated[
    str | None, _option(_LANGUAGE, "Tokens of the slot that is changed", "--slot-len", default="20", metavar="N")
]
Init = Annotated[
    str | None,
    _option(_LANGUAGE, "The slot's text at the start: one token, or all", "--init", default="' x'", metavar="TEXT"),
]
Slot = Annotated[
    str | None,
    _option(
        _LANGUAGE, "Where the slot is: suffix or prefix of the prompt", "--slot", default="suffix", metavar="WHERE"
    ),
]
Chat = Annotated[
    str | None,
    _option(_LANGUAGE, "auto: the model's chat template; none: plain text", "--chat", default="auto", metavar="WHICH"),
]
Positions = Annotated[
    str | None,
    _option(
        _LANGUAGE,
        "target; or all: also the paper's averaging, over all positions",
        "--positions",
        default="target",
        metavar="WHICH",
    ),
]
Candidates = Annotated[
    str | None, _option(_LANGUAGE, "gcg: swaps evaluated at each step", "--candidates", default="512", metavar="N")
]
TopK = Annotated[str | None, _option(_LANGUAGE, "gcg: best tokens of each place", "--topk", default="256", metavar="N")]
Swaps = Annotated[
    str | None, _option(_LANGUAGE, "gcg: tokens that a candidate changes", "--swaps", default="1", metavar="N")
]
Ball = Annotated[
    str | None,
    _option(_LANGUAGE, "embedding: how far each place may go, in mean row norms", "--ball", metavar="NUMBER"),
]
Sharpen = Annotated[
    str | None,
    _option(_LANGUAGE, "simplex: how unequal weights must be, 0 to 1", "--sharpen", default="0.4", metavar="NUMBER"),
]
StopAfter = Annotated[
    str | None,
    _option(
        _LANGUAGE, "End a path after N steps on which it stays flipped", "--stop-after", default="never", metavar="N"
    ),
]

Layer = Annotated[
    list[str] | None,
    _option(
        _MEASURE,
        "head, all, last:N, a name or a glob; repeatable",
        "--layer",
        "--layers",
        default="head",
        metavar="NAME",
    ),
]
Probes = Annotated[
    str | None, _option(_MEASURE, "Random vectors where only an estimate exists.", "--probes", metavar="N")
]
Limit = Annotated[str | None, _option(_MEASURE, "At most N samples, of all classes alike.", "--limit", metavar="N")]
Samples = Annotated[str | None, _option(_MEASURE, "These samples only.", "--samples", metavar="3,17")]
OnlyCorrect = Annotated[
    bool | None,
    _option(_MEASURE, "Leave out what is misclassified.", "--only-correct"),
]
DeadUnits = Annotated[
    bool | None,
    _option(_MEASURE, "Also count the ReLU units that pass no gradient.", "--dead-units/--no-dead-units"),
]
Surface = Annotated[
    bool | None,
    _option(_MEASURE, "Also κ and loss on planes of inputs and weights, of 12 samples.", "--surface/--no-surface"),
]
WorstCase = Annotated[
    bool | None,
    _option(
        _MEASURE,
        "Also what the worst of several attacks leaves, and whether gradients are masked.",
        "--worst-case/--no-worst-case",
    ),
]
Condition = Annotated[
    bool,
    typer.Option(
        "--condition",
        help="Also the condition number of a linear probe on the head's features, of all samples together.",
        rich_help_panel=_MEASURE,
    ),
]
Ridge = Annotated[
    str | None,
    _option(
        _MEASURE, "--condition: ρ; ρ·trace/d is added to the Hessian's diagonal", "--ridge", default="0",
        metavar="NUMBER",
    ),
]  # fmt: skip
Images = Annotated[
    str | None,
    _option(_MEASURE, "Inputs to keep: none, key (clean, flip, peak, end), all.", "--images", metavar="WHICH"),
]

Bounds = Annotated[
    str | None,
    _option(_MEASURE, "Range of valid inputs, such as -1,1 or 0,255.", "--bounds", default="0,1", metavar="LOW,HIGH"),
]

BatchSize = Annotated[
    str | None,
    _option(_HOW, "Samples at a time, or auto: what fits", "--batch-size", default="auto", metavar="N|auto"),
]
SampleSeed = Annotated[
    str | None,
    _option(_MEASURE, "Other samples for --limit; --seed takes the same", "--sample-seed", default="0", metavar="N"),
]
Seed = Annotated[str | None, _option(_HOW, "Of all noise: starts, targets, controls, probes.", "--seed", metavar="N")]
Device = Annotated[str | None, _option(_HOW, "auto, cpu, cuda, cuda:1, mps.", "--device", metavar="NAME")]
Dtype = Annotated[
    str | None,
    _option(_HOW, "float32 or float64 forward passes; curvature is always float64.", "--dtype", metavar="NAME"),
]

Name = Annotated[
    str | None, _option(_OUTPUT, "What the run is called in tables and on pages.", "--name", metavar="TEXT")
]
Out = Annotated[Path | None, _option(_OUTPUT, "Folder of the run; made, or gone on with.", "--out", metavar="DIR")]
Spectrum = Annotated[
    bool,
    _option(_MEASURE, "Also PyHessian's spectral density, its numbers beside ours: clean, flip, end.", "--spectrum"),
]
Log = Annotated[
    list[str] | None,
    _option(
        _OUTPUT,
        "Also to a tracker: tensorboard, wandb or mlflow, in OUT/log; repeatable.",
        "--log",
        metavar="NAME",
    ),
]
Text = Annotated[bool, _option(_WHAT, "A language model in place of images; needs transformers.", "--text")]
Force = Annotated[bool, _option(_OUTPUT, "Replace the run that is there.", "--force")]
DryRun = Annotated[bool, _option(_OUTPUT, "Only say what it would take.", "--dry-run")]
Json = Annotated[bool, _option(_OUTPUT, "The result as one JSON object on stdout.", "--json")]
Quiet = Annotated[bool, _option(_OUTPUT, "No progress and no summary; errors only.", "--quiet")]


def with_ridge(flags: Mapping[str, Any]) -> dict[str, Any]:
    """A command's parameters, with ``--condition`` and ``--ridge`` as the one setting that they are.

    Raises:
        UsageError: a ridge without ``--condition``.
        SpecError: no ridge that can be.
    """
    asked, ridge = flags["condition"], flags["ridge"]
    if ridge is not None and not asked:
        raise UsageError(f"--ridge {ridge} is given without --condition, whose ridge it is; give both, or none")
    found = number(ridge or "0")
    if found < 0:
        raise SpecError(f"--ridge {ridge}: needs a number of at least 0, such as 0.01")
    return {**flags, "condition": found if asked else None}


def run_spec(flags: Mapping[str, Any], config: Path | None = None, assignments: Iterable[str] = ()) -> RunSpec:
    """The spec that flags, a file and ``--set`` amount to: flag over file over default, then ``--set``.

    Args:
        flags: a command's parameters; those that are no setting, or were not given, are left out.
        config: a TOML file.
        assignments: ``key=value`` texts.

    Raises:
        SpecError: a setting that does not exist, is missing, or cannot be; or the file names code without permission.
    """
    given = {key: _read(key, value) for key in KEYS if (value := flags.get(key)) not in (None, [], ())}
    if config is None:
        return from_dict(toml.assign(given, assignments))
    stored = trust.without_trust(settings_of(toml.read_toml(config)), flags, config)
    made = from_dict(toml.assign(stored | given, assignments))
    typed = toml.assign(given, assignments)
    named = [(key, getattr(made, key)) for key in trust.NAMES_CODE if key not in typed]
    trust.demand_code(named, flags, config)
    return made


def _read(key: str, value: Any) -> Any:
    """Whole numbers from their text; the spec says what is wrong with what is none."""
    if key == "samples":
        return [_whole(part) for part in value.split(",")]
    return _whole(value) if key in _WHOLE else value


def _whole(text: Any) -> Any:
    found = values.whole(text) if isinstance(text, str) else None
    return text if found is None else found


def whole(text: str) -> int:
    """A whole number that a flag takes."""
    if (found := values.whole(text)) is None:
        raise typer.BadParameter(f"'{values.shortened(text)}' is not a whole number")
    return found


def shard(text: str) -> tuple[int, int]:
    """Which part of how many: ``1/3``."""
    index, slash, count = text.partition("/")
    found = values.whole(index), values.whole(count)
    if not slash or found[0] is None or found[1] is None:
        raise SpecError(f"--shard {values.shortened(text)}: needs i/n, for example 1/3")
    return found[0], found[1]


def number(text: str) -> float:
    """A finite number that a flag takes."""
    try:
        found = values.number(text)
    except SpecError as error:
        raise typer.BadParameter(str(error)) from error
    if not math.isfinite(found):
        raise typer.BadParameter(f"'{text}' is not finite")
    return found
