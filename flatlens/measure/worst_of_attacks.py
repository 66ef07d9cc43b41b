"""The worst of several attacks on a run's samples: `robustness` of the same model, radius, norm, batches and seed."""

from __future__ import annotations

import dataclasses

from flatlens.measure.job import Job
from flatlens.progress import Report
from flatlens.records import worst_case
from flatlens.records.trajectory import Trace
from flatlens.specs.worst_case import demand_ball
from flatlens.training import attacked
from flatlens.training.robustness import evaluate


def added(job: Job, trace: Trace, progress: Report | None = None) -> Trace:
    """The trace that the job has measured, with what the worst of several attacks leaves of its samples.

    It stands in the manifest under `worst_case.KEY`. Cautions of these attacks join the trace's own; where a code is
    among those already, it was told of the same samples.

    Args:
        job: whose attack has a radius and a norm, as `prepare` has seen to.
        trace: of this job.
        progress: called after each pass of a batch.

    Raises:
        ModelError: the model fails under these attacks.
        ResourceError: memory ran out.
    """
    attack = job.attack
    found = evaluate(
        job.model, job.x, job.y, eps=demand_ball(attack.name, attack.norm, attack.radius), norm=str(attack.norm),
        bounds=job.victim.bounds, batch_size=job.batch_size, seed=job.seed, ids=job.ids, device=job.victim.device,
        progress=progress,
    )  # fmt: skip
    codes = {caution.code for caution in trace.cautions}
    trace = trace.with_cautions((*trace.cautions, *(one for one in found.cautions if one.code not in codes)))
    return dataclasses.replace(trace, manifest={**trace.manifest, worst_case.KEY: found.to_dict()})


def passes(job: Job) -> int:
    """Passes of a batch that it takes at most, each forward and backward."""
    return job.batches * attacked.passes(job.victim.classes)
