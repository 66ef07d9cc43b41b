"""Which embeddings of a soft slot are kept: those at the key steps clean, flip, peak and end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flatlens.measure.rows import Ints
from flatlens.records.schema import Embeddings
from flatlens.victims.protocol import Pass

KEYS = ("clean", "flip", "peak", "end")


class SlotKeeper:
    """Keeps the slot of one prompt at its key steps; its state can be put on the disk and taken up again."""

    def __init__(self) -> None:
        self._step = dict.fromkeys(KEYS, -1)
        self._x: dict[str, Tensor] = {}
        self._highest = -np.inf

    def look(self, step: Ints, here: Pass, flipped: Tensor, measure: Tensor | None) -> None:
        """See one pass of one prompt; ``measure`` is κ, ``[1]``."""
        now, x = int(step[0]), here.x.detach()
        if not self._x:
            self._put("clean", now, x)
        if bool(flipped[0]) and self._step["flip"] < 0:
            self._put("flip", now, x)
        if measure is not None and float(measure[0]) > self._highest:
            self._highest = float(measure[0])
            self._put("peak", now, x)
        self._put("end", now, x)

    def _put(self, key: str, step: int, x: Tensor) -> None:
        self._step[key], self._x[key] = step, x

    def kept(self, ids: Tensor) -> Embeddings:
        """The key steps in order, each once: ``x`` ``[m, S, d]``."""
        at = {self._step[key]: key for key in KEYS if self._step[key] >= 0}
        steps = sorted(at)
        x = torch.cat([self._x[at[step]] for step in steps]).float().cpu()
        sample = np.full(len(steps), int(ids[0]), dtype=np.int64)
        return Embeddings(x.contiguous().numpy(), sample, np.asarray(steps, dtype=np.int32))

    def state(self) -> dict[str, Any]:
        """What it holds, as arrays."""
        # NumPy has no bfloat16; float32 holds it exactly.
        plain = {key: x.float() if x.dtype == torch.bfloat16 else x for key, x in self._x.items()}
        held = {f"kept.{key}": x.cpu().numpy() for key, x in plain.items()}
        numbers = [float(self._step[key]) for key in KEYS] + [self._highest]
        return {**held, "kept.numbers": np.asarray(numbers)}

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        if "kept.numbers" not in arrays:
            return
        *steps, self._highest = (float(v) for v in arrays["kept.numbers"])
        self._step = {key: int(step) for key, step in zip(KEYS, steps, strict=True)}
        self._x = {key: torch.from_numpy(np.array(arrays[f"kept.{key}"])) for key in KEYS if f"kept.{key}" in arrays}
