"""A whole network that was immunized, by names, and its folder.

network.json          what was asked for, what the network could do before and can do after, hashes; written last
model.safetensors     its weights, which load by ``ckpt:FILE?arch=MODEL``
finetuning.parquet    both networks fine-tuned on the harmful task; where it was asked for
unfinished-network.pt the last epoch of a training that has not ended; unfinished-finetuning.parquet: trials
"""

from __future__ import annotations

import copy
import io
import math
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq

from flatlens.errors import RunError, SpecError, one_line
from flatlens.files import borders
from flatlens.files.atomic import disk, write_file, write_json
from flatlens.files.sealing import file_sha256
from flatlens.immunity.fine_tuning import Network, fine_tuned, told
from flatlens.immunity.folder import FINE_TUNING
from flatlens.immunity.immunize import Asked, identity
from flatlens.immunity.of_models import Data, Taken, both_tasks, demand_held_out, features_of, split
from flatlens.immunity.trials import FILE as TRIALS
from flatlens.immunity.trials import KeptTrials
from flatlens.immunity.whole_network import METHODS, Judged, Parts, immunized, judged, weights
from flatlens.measure.prepare import device_of
from flatlens.models import checkpoints, statedicts
from flatlens.models.appended import OPTION
from flatlens.models.loaders import MAKERS
from flatlens.progress import Report
from flatlens.records.claims import claimed
from flatlens.specs.run import RunSpec
from flatlens.specs.uris import parse

SUMMARY, WEIGHTS, TABLE, UNFINISHED = (
    "network.json",
    "model.safetensors",
    "finetuning.parquet",
    "unfinished-network.pt",
)
FILES = (SUMMARY, WEIGHTS, TABLE, UNFINISHED, TRIALS)


def of_names(
    spec: RunSpec,
    primary: Data,
    harmful: Data,
    asked: Asked,
    out: Path,
    *,
    epochs: int,
    fine_tune: bool = False,
    force: bool = False,
    progress: Report | None = None,
) -> dict[str, Any]:
    """Immunize a whole network, and measure what it destroys.

    Args:
        spec: with ``model``, ``layer``, ``limit``, ``batch_size`` and ``device``.
        primary: the data of the useful task; the model's own.
        harmful: those of the other task, of inputs of the same shape.
        asked: what is asked for; its method, ridge, holdout and seed count.
        out: the folder of the result.
        epochs: of the immunization, and of each fine-tuning.
        fine_tune: also fine-tune the network on the harmful task, immunized and as it was.
        force: replace the result that is there.
        progress: called after each epoch.

    Returns:
        What ``network.json`` tells: ``before`` and ``after`` (`flatlens.immunity.whole_network.Judged`), ``i``, ``ii``
        and ``rir`` on samples that were held out (None where a Hessian is singular), ``model``, ``fine_tuning``.

    Raises:
        SpecError: a method that whole networks are not immunized by, or no samples are held out.
        RunError: the folder holds something else.
    """
    demand_held_out(asked)
    if asked.method not in METHODS:
        raise SpecError(f"--method {asked.method}: a whole network is immunized by {' or '.join(METHODS)}")
    taken = features_of(spec, primary, harmful, progress)
    tasks = both_tasks(taken.features, taken.parts)
    known = {key: value for key, value in identity(*tasks, asked).items() if key in _COUNTS}
    known |= {"epochs": epochs, "model": spec.model, "weights_sha256": taken.loaded.sha256}
    _demand_own(out)
    with claimed(out):
        if force:
            with disk(out):
                for name in FILES:
                    (out / name).unlink(missing_ok=True)
        summary = _found(out, known)
        if summary is not None and (not fine_tune or FINE_TUNING in summary):
            return summary
        device = device_of(spec.device)
        before = Network(copy.deepcopy(taken.loaded.model).to(device), taken.features[0].target)
        parts = split(tasks, taken.parts, asked)
        if summary is None:
            was = judged(before, parts, asked.ridge)  # which refuses labels that the head does not know
            made = immunized(
                before, parts, method=asked.method, ridge=asked.ridge, epochs=epochs, seed=asked.seed,
                snapshot=out / UNFINISHED, identity=repr(known), progress=progress,
            )  # fmt: skip
            with disk(out):
                write_file(out / WEIGHTS, weights(made))
            now = judged(Network(made, before.head), parts, asked.ridge)
            summary = _told(spec.model, taken, known, (was, now), parts, out)
        else:  # a fine-tuning is added to it
            made = copy.deepcopy(before.model)
            statedicts.put(checkpoints.read(out / WEIGHTS), made, WEIGHTS)
        after = Network(made.eval(), before.head)
        if fine_tune:
            kept = KeptTrials(out, known)
            tuned = fine_tuned(after, before, parts.tuning(), epochs=epochs, kept=kept, progress=progress)
            content = io.BytesIO()
            pq.write_table(tuned.table, content)
            with disk(out):
                write_file(out / TABLE, content.getvalue())
            summary[FINE_TUNING] = told(tuned, epochs)
        with disk(out):
            summary["files"] = {name: file_sha256(out / name) for name in (WEIGHTS, TABLE) if (out / name).exists()}
            write_json(out / SUMMARY, summary)
            for name in (UNFINISHED, TRIALS):
                (out / name).unlink(missing_ok=True)
        return summary


_COUNTS = ("method", "ridge", "holdout", "seed", "primary_sha256", "harmful_sha256")


def _told(
    model: str, taken: Taken, known: dict[str, Any], judgements: tuple[Judged, Judged], parts: Parts, out: Path
) -> dict[str, Any]:
    one, other = judgements
    i, ii = (_ratio(getattr(one, task), getattr(other, task)) for task in ("harmful", "primary"))
    return {
        "schema_version": 1,
        "asked": known,
        **{name: known[name] for name in ("method", "ridge", "epochs")},
        "before": one.to_dict(),
        "after": other.to_dict(),
        "i": i,
        "ii": ii,
        "rir": None if i is None or ii is None else i / ii,
        "samples": {name: len(samples.y) for name, samples in parts._asdict().items()},
        "model": {
            "uri": model,
            "sha256": taken.loaded.sha256,
            "layer": taken.features[0].target,
            "loads_by": named(model, out),
        },
    }


def _ratio(before: dict[str, float | None], after: dict[str, float | None]) -> float | None:
    old, new = before["condition_number"], after["condition_number"]
    return None if old is None or new is None or not math.isfinite(new / old) else new / old


def named(model: str, out: Path) -> str | None:
    """The name that loads the network again; None for models that Python code makes, and for those with a θ."""
    uri = parse(model)
    if uri.scheme not in MAKERS or OPTION in uri.options:
        return None
    file = quote(str(out / WEIGHTS))
    if uri.scheme == "ckpt":
        return f"ckpt:{file}?{model.partition('?')[2]}"
    return f"ckpt:{file}?arch={quote(model, safe=':/')}"


def _demand_own(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise RunError(f"--out '{out}' is a file; name a folder")
    there = [] if not out.exists() else sorted(e.name for e in out.iterdir() if not e.name.startswith("."))
    if foreign := [name for name in there if name not in FILES]:
        raise RunError(f"--out '{out}' holds other files ('{foreign[0]}'); name another folder, or an empty one")


def _found(out: Path, known: dict[str, Any]) -> dict[str, Any] | None:
    """The finished result in a folder; None where there is none."""
    if not (out / SUMMARY).exists():
        return None
    try:
        found = borders.read_json(out / SUMMARY)
        changed = [
            name
            for name, digits in found["files"].items()
            if name not in FILES or file_sha256(borders.plain_file(out / name)) != digits
        ]
        asked = dict(found["asked"])
    except (OSError, KeyError, AttributeError, ValueError, TypeError) as error:
        raise RunError(f"'{out}' holds a damaged result ({one_line(error)}); --force makes it anew") from error
    if changed:
        raise RunError(f"'{out}' holds a damaged result ({changed[0]} is not what was written); --force makes it anew")
    if differing := [key for key in known if asked.get(key) != known[key]]:
        key = differing[0]
        raise RunError(
            f"'{out}' holds a result with {key} {asked.get(key)}, not {known[key]}; name another folder with --out, or "
            "replace it with --force"
        )
    return found


__all__ = ["of_names"]
