"""What a sweep would do, before it does it: cells, passes, memory, time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatlens.errors import FlatlensError, UsageError
from flatlens_cli import terminal

if TYPE_CHECKING:
    from flatlens.sweeps.grid import Grid

SHOWN = 12
"""Cells of a kind that are named one by one."""


def show(file: Path, trust: dict[str, bool], workers: int | None, *, json: bool) -> None:
    """What a sweep would take; cells that differ in their seeds alone take the same."""
    from flatlens.sweeps import grid
    from flatlens.sweeps.engines import check_workers
    from flatlens.sweeps.engines.local import shares

    check_workers(workers)
    found = grid.read(file, **trust)
    workers, threads = shares(workers, accelerated=any(cell.spec.device != "cpu" for cell in found.cells))
    with terminal.stdout_kept_clean(json):
        rows = list(_planned(found, threads))
    bad = [row for row in rows if "error" in row]
    if json:
        terminal.emit({"cells": rows, "notes": found.notes, "workers": workers})
    else:
        if len(bad) < len(rows):
            _show_plan(found, [row for row in rows if "error" not in row], workers)
        for row in bad[:SHOWN]:
            terminal.complain(f"{row['label']}: {row['error']}")
    if bad:
        raise UsageError(f"{len(bad):,} of {len(rows):,} cells cannot be run; mend or exclude them")


def _show_plan(found: Grid, rows: list[dict[str, Any]], workers: int) -> None:
    from rich import filesize
    from rich.console import Group

    table = [
        (
            row["label"],
            f"{row['forward_passes']:,}",
            f"{row['backward_passes']:,}",
            filesize.decimal(row["memory_bytes"]),
            terminal.duration(row["seconds"]),
            terminal.duration(row["training_seconds"]) if row["training_seconds"] else "–",
        )
        for row in rows
    ]
    table.insert(0, ("cell", "forward", "backward", "memory", "time", "training"))
    measuring, training = (sum(row[name] for row in rows) for name in ("seconds", "training_seconds"))
    passes = sum(row["forward_passes"] + row["backward_passes"] + 2 * row["training_passes"] for row in rows)
    total = f"{terminal.several(len(rows), 'cell')}, {passes:,} passes of a batch"
    total += f", about {terminal.duration(measuring)} of measuring"
    if training:
        total += f" and {terminal.duration(training)} of training"
    on = terminal.several(workers, "worker")
    total += f": about {terminal.duration((measuring + training) / workers)} on {on}"
    notes = list(found.notes)
    if silent := sum(not row["says_steps"] for row in rows):
        notes.append(
            f"the attacks of {terminal.several(silent, 'cell')} do not say how many steps they take: 40 are counted"
        )
    terminal.show(Group(terminal.columns(table, header=True), "", total, *map(terminal.note, notes)))


def _planned(found: Grid, threads: int) -> Iterator[dict[str, Any]]:
    import torch

    from flatlens.measure.plan import Plan, plan
    from flatlens.specs import wording

    torch.set_num_threads(threads)  # as many as a worker would have
    labels = wording.labels({cell.key: cell.spec.to_dict() for cell in found.cells})
    alike: dict[str, Plan] = {}
    recipes: set[str] = set()
    for cell in found.cells:
        train = None if cell.spec.train is None else replace(cell.spec.train, seed=0)
        like = replace(cell.spec, seed=0, train=train, immunize=None, name=None)
        which = {"cell": cell.key, "label": labels[cell.key]}
        try:
            takes = alike.get(like.hash()) or plan(like)
        except FlatlensError as error:
            yield which | {"error": str(error)}
            continue
        alike[like.hash()] = takes
        recipe = str((cell.spec.model, cell.spec.train))
        if recipe in recipes:
            takes = takes._replace(training_passes=0, training_seconds=0.0)
        recipes.add(recipe)
        yield which | takes._asdict()
