"""What a results folder holds: a run, or a sweep of many."""

from __future__ import annotations

from pathlib import Path

from flatlens.errors import RunError, one_line
from flatlens.records import runs
from flatlens.records.trajectory import Trace
from flatlens.sweeps.folder import PLAN, Sweep, is_sweep, load_sweep
from flatlens.wording import warn


def open(path: str | Path) -> Trace | Sweep:
    """What a results folder holds: the trace of a finished run, or a sweep, finished or not.

    Args:
        path: the folder that ``flatlens trace``, ``flatlens sweep``, `Trace.save` or the functions of `fl` wrote.

    Returns:
        a `Trace`; of a sweep a `Sweep`, whose tables and traces are read when they are asked for.

    Raises:
        RunError: it is neither, or the run is not finished or damaged.

    Warns:
        CautionWarning: for each caution of a run.
    """
    path = Path(path)
    if is_sweep(path):
        return load_sweep(path)
    demand(path)
    found = runs.load(path).trace()
    warn(found.cautions)
    return found


def demand(path: Path) -> None:
    """Refuse a folder that holds neither a run nor a sweep."""
    if not is_sweep(path) and not (path / "manifest.json").is_file():
        nothing = f"holds no manifest.json and no {PLAN}" if path.is_dir() else "is a file"
        what = nothing if path.exists() else "does not exist"
        raise RunError(
            f"'{path}' is neither a run nor a sweep: it {what}; name the --out folder of a `flatlens trace` or "
            "`flatlens sweep`"
        )


def damaged(run: Path, error: BaseException) -> RunError:
    """The error for a finished run that cannot be read, whether it is a sweep's cell or stands by itself."""
    what = one_line(error)
    folder = run.parent.parent
    if not is_sweep(folder):
        return RunError(f"the run in '{run}' is damaged: {what}; run it again with --force")
    return RunError(
        f"cell {run.name} of the sweep in '{folder}' is damaged: {what}; remove '{run}' and give the sweep's command "
        "again"
    )
