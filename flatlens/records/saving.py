"""A trace from Python, written as a run's folder: every command that reads runs takes it, none can run it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flatlens.errors import RunError, SpecError
from flatlens.records import beginning, digest
from flatlens.records.schema import ATTACK
from flatlens.records.trajectory import Trace
from flatlens.specs.known_models import OBJECT
from flatlens.specs.run import KEYS, RunSpec, from_dict
from flatlens.specs.settings import DTYPES
from flatlens.specs.uris import parse

_ALWAYS = ("batch_size", "seed", "images", "layer", "control", "surface", "worst_case")
_ATTACKS_OWN = ("eps", "norm", "steps", "step_size", "random_start", "targeted", "objective", "momentum", "restarts")


def save(trace: Trace, folder: str | Path, *, force: bool = False) -> Path:
    """Write a trace into a folder as a finished run, with its report.

    Args:
        trace: what to write.
        folder: a new one, or an empty one.
        force: replace the run that is there.

    Raises:
        RunError: the folder holds something already.
        DiskError: the disk is full or not writable.
    """
    path = Path(folder)
    demand_free(path, force=force)
    spec = spec_of(trace)
    made_by = dict(trace.manifest)
    for key in ("state", "warnings", "schema_version"):
        made_by.pop(key, None)
    known: dict[str, Any] = {
        "batches": 1,
        "spec_hash": spec.hash(),
        "labels": list(trace.labels) if trace.labels else None,
        "objects": [key for key in ("model", "data", "attack") if getattr(spec, key).startswith(f"{OBJECT}:")],
    }
    if force and path.exists():  # all is prepared: only now what is there goes
        beginning.remove(path)
    run = beginning.create(path, spec, made_by | known)
    arrays = {"images": trace.images, "gradients": trace.gradients, "embeddings": trace.embeddings}
    more = {"positions": trace.positions, "tokens": trace.tokens}
    tables = {"steps": trace.steps, "layers": trace.layers} | {k: v for k, v in more.items() if v is not None}
    if trace.prompts is not None:
        run.save_prompts([dict(one) for one in trace.prompts])
    run.save_part(0, tables, arrays, {})
    run.merge()
    for name, table in (("spectrum", trace.spectrum), ("peers", trace.peers)):
        if table is not None:
            run.save_table(name, table)
    if trace.condition is not None:
        run.save_condition(trace.condition)
    if trace.surfaces is not None:
        run.save_surfaces(trace.surfaces)
    run.finish(trace.cautions, **({"seconds": made_by["seconds"]} if "seconds" in made_by else {}))
    run.keep(digest.FILE, digest.digest(trace))
    trace.report(path / "report.html")
    return path


def demand_free(path: Path, *, force: bool = False) -> None:
    """Refuse a folder that holds something, before anything is computed.

    Raises:
        RunError: it does; with ``force``, it holds something else than a run.
    """
    if path.exists() and not path.is_dir():
        raise RunError(f"'{path}' is a file; name a folder")
    if not path.exists() or not any(path.iterdir()):
        return
    if not (path / "manifest.json").exists():
        raise RunError(f"'{path}' holds other files and no run; name a new or an empty folder")
    if not force:
        raise RunError(f"'{path}' holds a run already; name another folder, or replace it with force=True")


def spec_of(trace: Trace) -> RunSpec:
    """The specification of a trace as far as names can say it; what came as an object is ``object:NAME``."""
    said = trace.spec
    values: dict[str, Any] = {key: _object(said.get(key)) for key in ("model", "data")}
    values |= {key: said[key] for key in _ALWAYS if said.get(key)}
    values |= {"bounds": said["bounds"]} if "bounds" in said else {}
    values |= {"condition": said["condition"]} if said.get("condition") is not None else {}
    values |= {"dtype": said["dtype"]} if said.get("dtype") in DTYPES else {}
    rest = {key: said[key] for key in KEYS if said.get(key) is not None and key not in values and key != "dtype"}
    attack = {key: said[key] for key in _ATTACKS_OWN if said.get(key) is not None}
    name = str(said.get("attack", ATTACK))
    tries: tuple[dict[str, Any], ...] = (
        {**rest, "attack": name},
        {**attack, "attack": name},
        {**{k: attack[k] for k in ("eps", "norm", "steps") if k in attack}, "attack": _object(name, always=True)},
        {"attack": _object(name, always=True)},
    )
    for tried in tries:
        try:
            return from_dict(values | tried)
        except SpecError:  # somebody else's attack, whose settings are none of flatlens'
            continue
    return from_dict({"model": values["model"], "data": values["data"], "attack": _object(name, always=True)})


def _object(name: Any, *, always: bool = False) -> str:
    """A name that can be loaded, as it is; any other, or ``always``, as ``object:NAME``."""
    text = str(name or "unnamed")
    if text.startswith(f"{OBJECT}:") or (not always and _loadable(text)):
        return text
    return f"{OBJECT}:{text}"


def _loadable(text: str) -> bool:
    return bool(parse(text).scheme)
