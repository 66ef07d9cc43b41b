"""``NAME.condition.parquet``: the condition number of a linear probe on the head's features, at each epoch.

It is taken on some of the training's own samples, always the same, in eval mode, before the first epoch (epoch 0) and
after each. It draws nothing and moves no weight.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from flatlens import datasets
from flatlens.datasets import Dataset
from flatlens.errors import LayerError
from flatlens.files.borders import DamageError, read_bytes
from flatlens.hessian.condition import STEADY, demand_samples, figures, singular_values
from flatlens.records.schema import CONDITION_EPOCHS, TRAINING
from flatlens.training.passes import forward
from flatlens.victims.layers import survey

AT_ONCE = 1024
"""Samples of a pass."""


class Conditions:
    """Looks at the features of some samples after each epoch.

    Args:
        model: whose head's inputs are the features.
        x: the samples ``[n, …]``.
        ridge: ρ; ρ·trace(H)/d is added to the diagonal.

    Raises:
        LayerError: the model has no head.
        DataError: too few samples for so many features, and no ridge.
    """

    def __init__(self, model: nn.Module, x: Tensor, ridge: float) -> None:
        self._head = _head(model, x[:2])
        demand_samples(len(x), self._head.in_features, ridge)
        self._x, self._ridge = x, ridge
        self.rows: list[tuple[Any, ...]] = []

    @classmethod
    def of(cls, model: nn.Module, data: Dataset, ridge: float, seed: int) -> Conditions:
        """By five samples a feature, all classes alike; by all where there are fewer."""
        d = _head(model, torch.from_numpy(data.x[:2])).in_features
        return cls(model, torch.from_numpy(data.take(datasets.balanced(data.y, STEADY * d, seed)).x), ridge)

    @torch.no_grad()
    def look(self, model: nn.Module, epoch: int) -> None:
        """After epoch ``epoch``, 0 before the first: a row more. The model is left in eval mode."""
        model.eval()
        device = next(model.parameters()).device
        taken = []
        for part in self._x.split(AT_ONCE):
            # The features do not depend on a label.
            here = forward(model, part.to(device), torch.zeros(len(part), dtype=torch.long, device=device), self._head)
            assert here.features is not None
            taken.append(here.features.cpu().double().numpy())
        d = self._head.in_features
        whole = all(np.isfinite(part).all() for part in taken)
        sigma = singular_values(taken, d) if whole else np.full(d, math.nan)
        self.rows.append((TRAINING, epoch, len(self._x), self._ridge, *figures(sigma, len(self._x), self._ridge)))

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": list(self.rows)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The rows, as they were."""
        self.rows = [tuple(row) for row in state["rows"]]

    def stored(self) -> bytes:
        """The file's bytes; its columns are those of `CONDITION_EPOCHS`."""
        columns = zip(*self.rows, strict=True)
        out = io.BytesIO()
        table = pa.table(dict(zip(CONDITION_EPOCHS.names, columns, strict=True)), CONDITION_EPOCHS)
        pq.write_table(table, out, write_page_checksum=True)
        return out.getvalue()

    def told(self) -> dict[str, float | None]:
        """For a record: the ridge, and the condition numbers before and after; None where they are not finite."""
        numbers = [row[CONDITION_EPOCHS.get_field_index("condition_number")] for row in (self.rows[0], self.rows[-1])]
        before, after = (value if math.isfinite(value) else None for value in numbers)
        return {"ridge": self._ridge, "before": before, "after": after}


def beside(weights: Path) -> Path:
    """Where the rows of a training are whose weights are in ``weights``."""
    return weights.with_suffix(".condition.parquet")


def read(weights: Path) -> pa.Table:
    """The table `CONDITION_EPOCHS` beside a file of weights.

    Raises:
        FileNotFoundError: there is none.
        DamageError: the file is damaged, or holds something else.
    """
    file = beside(weights)
    if not os.path.lexists(file):
        raise FileNotFoundError(file)
    content = read_bytes(file)
    try:
        table = pq.read_table(io.BytesIO(content), schema=CONDITION_EPOCHS, page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamageError(f"{file.name} is damaged") from error
    if not table.num_rows or any(column.null_count for column in table.columns):
        raise DamageError(f"{file.name} lacks values")
    return table


def _head(model: nn.Module, example: Tensor) -> nn.Linear:
    was = model.training
    model.eval()  # else the statistics of batch norms would move
    try:
        seen = survey(model, example.to(next(model.parameters()).device))
    finally:
        model.train(was)
    found = None if seen.head is None else model.get_submodule(seen.head)
    if not isinstance(found, nn.Linear):
        raise LayerError(
            "--condition: this model has no head, a Linear layer whose output is the logits; train without it"
        )
    return found


__all__ = ["Conditions", "beside", "read"]
