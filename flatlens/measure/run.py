"""From a spec to a finished run's folder: load, prepare, measure what is missing, merge."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from flatlens.measure import conditions, load_language, worst_of_attacks
from flatlens.measure.job import Job
from flatlens.measure.language_job import LanguageJob
from flatlens.measure.load import load
from flatlens.measure.surface import surfaces
from flatlens.progress import Report
from flatlens.records import beginning, cautions, claims, digest, learnt, runs, worst_case
from flatlens.records.schema import Caution
from flatlens.records.trajectory import Trace
from flatlens.specs.run import RunSpec
from flatlens.wording import warn


class Begun(NamedTuple):
    """A run's folder, and the job whose batches it is to hold."""

    run: runs.Run
    job: Job | LanguageJob


def run(spec: RunSpec, out: str | Path, *, force: bool = False, progress: Report | None = None) -> runs.Run:
    """Do what is missing of a run, and return it finished.

    Args:
        spec: what to run.
        out: the run's folder; a finished run of the same spec is left as it is, an unfinished one is gone on with.
        force: replace a run that is there.
        progress: called after every step of a batch.

    Raises:
        RunError: the folder holds a run of another spec, or other files.
        ResourceError: memory or disk ran out; finished batches are saved.

    Warns:
        CautionWarning: for each caution of the run.
    """
    out = Path(out)
    beginning.existing(out, force=force)  # before anything is put into it
    with claims.claimed(out):
        begun = begin(spec, out, force=force, progress=progress)
        if not begun.run.finished:
            measure(begun, begun.run.missing(), progress=progress)
            begun.run.keep(digest.FILE, digest.digest(finish(begun, progress)))
    warn(Caution(**caution) for caution in begun.run.manifest.get("warnings", ()))
    return begun.run


def begin(
    spec: RunSpec,
    out: str | Path,
    *,
    force: bool = False,
    parents: bool = True,
    whole: bool = True,
    progress: Report | None = None,
) -> Begun:
    """Load what a spec names, and begin its run or go on with the one that is there. See `run`.

    Without ``parents`` the folder that ``out`` lies in must be there: a sweep's may have been removed on purpose.
    Unless ``whole``, others are at work on some of its batches.
    """
    out = Path(out)
    found = beginning.existing(out, force=force)
    if found is not None:
        beginning.demand_current(found)
    stored = None if found is None else found.spec
    if stored is not None and spec.batch_size is None:
        spec = dataclasses.replace(spec, batch_size=stored.batch_size)
    spec, job, identity = load_language.load(spec) if spec.of_language else load(spec, progress)
    if found is not None:
        result = beginning.resume(found, spec, identity | {"batches": job.batches}, whole=whole)
    else:
        known = {
            "batches": job.batches,
            "spec_hash": spec.hash(),
            "labels": identity.pop("labels"),
            "trust_pickle": spec.trust_pickle,
            "trust_remote_code": spec.trust_remote_code,
            **identity,
            **job.provenance(),
        }
        if force:  # all is loaded and checked: only now what is there goes
            beginning.remove(out)
        result = beginning.create(out, spec, known, parents=parents)
    if (texts := job.texts()) is not None and not result.finished:
        result.save_prompts(texts)
    return Begun(result, job)


def measure(begun: Begun, batches: Sequence[int], *, until: float = math.inf, progress: Report | None = None) -> None:
    """Measure these batches and keep each as it is done; after ``until`` (`time.monotonic`) none is begun."""
    began = time.perf_counter()
    for index, piece in begun.job.pieces(batches, progress, begun.run.open_part):
        now = time.perf_counter()
        begun.run.save_part(index, piece.tables(), piece.arrays(), piece.notes, now - began)
        began = now
        if time.monotonic() >= until:
            return


def finish(begun: Begun, progress: Report | None = None) -> Trace:
    """Join the batches, which are all there, and judge the whole."""
    result = begun.run
    notes, seconds = result.merge()
    # What is on the disk is judged as any reader would read it, a column at a time.
    made = runs.Run(result.path, result.manifest | {"state": runs.FINISHED}).trace(whole=False)
    told = begun.job.learnt(made, notes)
    found = (*begun.job.cautions(notes, cautions.wrong(made)), *cautions.of_trace(made), *learnt.cautions(told))
    made = made.with_cautions(found)
    if isinstance(begun.job, Job) and begun.job.surface and (land := surfaces(begun.job, made)) is not None:
        result.save_surfaces(land)
    if isinstance(begun.job, Job) and (probed := begun.job.condition) is not None:
        with conditions.opened(result.features()) as taken:
            table = conditions.table(taken, len(begun.job.x), probed.ridge)
        result.save_condition(table)
        made = dataclasses.replace(made, condition=table)
    known = {learnt.KEY: told} if told else {}
    if isinstance(begun.job, Job) and begun.job.worst_case:
        made = worst_of_attacks.added(begun.job, made, progress)
        known[worst_case.KEY] = made.manifest[worst_case.KEY]
    result.finish(made.cautions, seconds=round(seconds, 3), **known)
    return made
