"""`reproduce`: claims tried on their networks, one table after the other, and what has been measured is kept.

In the folder::

    cells/C7/seed 30.parquet     the samples of one network
    cells/C7/seed 30.json        what they are of; written last
    claims.json, .csv, .md       verdicts and numbers
    index.html                   the page
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from flatlens.claims import catalogue, nets, records
from flatlens.claims.cells import Cell, read
from flatlens.claims.claim import ROBUST, Claim
from flatlens.claims.machines import Machines
from flatlens.claims.verdict import NOT_RUN, Judged, judge
from flatlens.files.atomic import disk
from flatlens.progress import Progress, Report
from flatlens.records.claims import claimed
from flatlens.sweeps.engines import starting


@dataclass(frozen=True)
class Asked:
    """What is to be reproduced.

    Attributes:
        names: of the claims, in order.
        full: on five networks that are trained, else on the shipped one.
        models: the user's own networks instead, and ``twins`` of them that were trained against an attack.
        data: of these networks; their test split where there is one.
        eps: radius in linf.
        limit: samples of a network at most; the claim's own when None.
    """

    names: tuple[str, ...]
    full: bool = False
    models: tuple[str, ...] = ()
    twins: tuple[str, ...] = ()
    data: str | None = None
    eps: float | None = None
    limit: int | None = None


HERE = Machines()


def reproduce(asked: Asked, out: Path, *, machines: Machines = HERE, progress: Report | None = None) -> list[Judged]:
    """Try the claims, write all that came out, and say the verdicts.

    What is in the folder already is not measured again. A claim that cannot be tried is ``not run``, with the reason;
    one whose network fails loses that network alone.

    Args:
        asked: what is to be reproduced.
        out: the folder.
        machines: where they are measured; this process when left out. Of several shards each says what all have done.
        progress: called after each network.

    Raises:
        RunError: another process is at work in the folder.
        DiskError: it cannot be written.
    """
    nets.known.cache_clear()  # a file may hold other weights by now
    known = {name: catalogue.claim(name) for name in asked.names}
    reasons = {name: _hindered(claim, asked) for name, claim in known.items()}
    cells = [cell for name, claim in known.items() if not reasons[name] for cell in _cells(claim, asked)]
    with disk(out), claimed(out if machines.alone else out / "shards" / "{}-of-{}".format(*machines.shard)):
        failures = _measured(starting.shard_of(cells, machines.shard), out, machines, progress)
        judged = [
            _judged(claim, reasons[name], [cell for cell in cells if cell.claim == name], failures, out)
            for name, claim in known.items()
        ]
        records.write(judged, out, full=asked.full)
    return judged


def _cells(claim: Claim, asked: Asked) -> list[Cell]:
    size = claim.sizes[1 if asked.full or asked.models else 0]
    size = size if asked.limit is None else min(size, asked.limit)
    found = nets.chosen(claim, full=asked.full, models=asked.models, twins=asked.twins, data=asked.data, eps=asked.eps)
    return [Cell(claim.name, net, size, asked.full) for net in found]


def _hindered(claim: Claim, asked: Asked) -> str:
    """Why a claim cannot be tried, and how it could be; empty where it can."""
    if missing := [f"{name} ({how})" for name, how in (claim.needs or {}).items() if find_spec(name) is None]:
        return f"needs {missing[0]}"
    if asked.models and claim.own_models:
        return claim.own_models
    if asked.models and ROBUST in claim.kinds and len(asked.twins) < len(asked.models):
        return "needs a twin of each model that was trained against an attack: --twin MODEL"
    if claim.full_only and not asked.full and not asked.models:
        return f"{claim.full_only}; --full runs it"
    return ""


def _measured(
    cells: Sequence[Cell], out: Path, machines: Machines, progress: Report | None
) -> dict[tuple[str, str], str]:
    """Measure what is missing, and say what failed: (claim, network) -> why."""
    missing = [cell for cell in cells if read(cell, out) is None]
    done, failures = len(cells) - len(missing), {}

    def tell(cell: Cell | None) -> None:
        if progress is not None:
            what = "claims" if cell is None else f"{cell.claim} on {cell.net.name}"
            progress(Progress(done, max(len(cells), 1), what))

    tell(None)
    for cell, why in machines.each(missing, out):
        done += 1
        failures.update({(cell.claim, cell.net.name): why} if why else {})
        tell(cell)
    return failures


def _judged(
    claim: Claim, reason: str, cells: Sequence[Cell], failures: Mapping[tuple[str, str], str], out: Path
) -> Judged:
    if reason:
        return Judged(claim, NOT_RUN, reason, [], 0, 0)
    read_now = [(cell, read(cell, out)) for cell in cells]
    tables = [table for _, table in read_now if table is not None]
    lost = [
        f"{cell.net.name}: {failures.get((cell.claim, cell.net.name), 'not measured yet')}"
        for cell, table in read_now
        if table is None
    ]
    if not tables:
        return Judged(claim, NOT_RUN, "; ".join(lost), [], 0, 0)
    found = judge(claim, tables)
    return found._replace(why=f"{found.why}. Without {'; '.join(lost)}") if lost else found
