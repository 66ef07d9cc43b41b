"""What an attack on a language model has found, a prompt a line: slots that others can try. No torch, no tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from flatlens.errors import RunError
from flatlens.files.atomic import disk, write_file
from flatlens.records import runs
from flatlens.records.schema import ATTACK
from flatlens.records.trajectory import Trace


def export(folder: Path, out: Path) -> int:
    """Write each prompt with the slot at its path's end into a file of JSON lines, and say how many there are.

    ``flipped``, ``confirmed`` and ``loss`` (nats) are of that step; a ``soft`` slot shows the nearest tokens.

    Args:
        folder: of a finished run of a language model.
        out: the file, such as ``suffixes.jsonl``; it can be given as ``prompts:`` again.

    Raises:
        RunError: the run is of images, or not finished.
        DiskError: the file cannot be written.
    """
    trace = runs.load(folder).trace()
    if not trace.of_language:
        raise RunError(f"the run in '{folder}' is of images and has no prompts; --prompts is of language models")
    lines = list(_lines(trace))
    with disk(out.parent):
        write_file(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
    return len(lines)


def _lines(trace: Trace) -> Iterator[dict[str, Any]]:
    assert trace.prompts is not None
    steps = trace.steps.filter(pc.equal(trace.steps["path"], ATTACK))
    for one in trace.prompts:
        at = trace.prompt(one["sample"], "end")
        here = pc.and_(pc.equal(steps["sample"], one["sample"]), pc.equal(steps["step"], at.step))
        # Of a relaxed slot's last step the last row is its text.
        row = steps.filter(here).to_pylist()[-1]
        known = {key: one[key] for key in ("id", "prompt", "target", "system") if key in one}
        found = {key: row[key] for key in ("flipped", "confirmed", "loss", "retokenises")}
        yield {**known, "slot": at.slot, "soft": at.soft, "step": at.step, **found, "ids": dict(at.ids)}
