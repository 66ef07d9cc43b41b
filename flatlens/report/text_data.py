"""A language model's trace -> what the page shows of its prompts: tokens at each step, numbers at each target position.

Pieces of text stand once, in a table; a token is its place there. Rows follow each other sample by sample, then step by
step; how many tokens a step has is said beside them, for paths and prompts differ in length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flatlens.records.prompts import PARTS
from flatlens.records.schema import BESIDE, DISCRETE
from flatlens.records.trajectory import Trace
from flatlens.report.packing import encode, pack

TEXT_BYTES = 26_000_000
"""What all runs of one page together may spend on tokens and positions, before it is written as text."""
OWN_TEXT = ("ask", "copies")
"""Controls whose whole prompt is another text: all of it is the slot."""
NUMBERS = {"nll": "nll", "kappa": "relative_flatness", "c": "confidence_term", "a2": "feature_norm_sq"}
"""What the page shows of each target position, by its name there; the weights' variance is κ / ‖a‖²."""
TOKEN_BYTES, POSITION_BYTES = 11, 20
UNKNOWN = 2
"""Whether the text gives its tokens back, where there is no text."""

Plain = dict[str, Any]
Ints = NDArray[np.int64]


class Pieces:
    """What tokens look like: each token once."""

    def __init__(self) -> None:
        self._at: dict[tuple[int, str], int] = {}

    def places(self, ids: Sequence[int], pieces: Sequence[str]) -> list[int]:
        """Where each token stands in the table; it is put there when it is new."""
        return [self._at.setdefault(key, len(self._at)) for key in zip(ids, pieces, strict=True)]

    def column(self, ids: pa.ChunkedArray, pieces: pa.ChunkedArray) -> Ints:
        """The same of a table's columns."""
        numbers, texts = ids.combine_chunks(), pieces.combine_chunks().dictionary_encode()
        key = np.stack([numbers.to_numpy(), texts.indices.to_numpy()], axis=1).astype(np.int64)
        own, back = np.unique(key, axis=0, return_inverse=True)
        words = texts.dictionary.to_pylist()
        at = self.places(own[:, 0].tolist(), [words[k] for k in own[:, 1]])
        return np.asarray(at, dtype=np.int64)[back.ravel()] if len(own) else np.zeros(0, dtype=np.int64)

    def table(self) -> Plain:
        """``pieces`` and ``ids``; no ids where a redacted trace has none."""
        numbers = [number for number, _ in self._at]
        return {"pieces": [piece for _, piece in self._at], "ids": numbers if any(n >= 0 for n in numbers) else None}


def texts(trace: Trace, ids: Ints, budget: int) -> Plain | None:
    """What the page holds of the chosen prompts; None where the trace is of images.

    Args:
        trace: of a language model.
        ids: the samples that the page shows.
        budget: bytes that may be spent; where it does not suffice, the first prompts have their tokens in the page.
    """
    if trace.prompts is None or trace.tokens is None or trace.positions is None:
        return None
    known, table = {one["sample"]: one for one in trace.prompts}, Pieces()
    tokens, positions = (_rows(rows, ids) for rows in (trace.tokens, trace.positions))
    size = TOKEN_BYTES * tokens.num_rows + POSITION_BYTES * positions.num_rows
    few = ids[: max(int(len(ids) * min(budget / max(size, 1), 1)), 1)]
    tokens, positions = _rows(tokens, few), _rows(positions, few)
    prompts = [
        {"id": one["id"], "said": one["target"]}
        | {"parts": {part: table.places(one["ids"][part], one["pieces"][part]) for part in PARTS}}
        for one in (known[int(i)] for i in ids)
    ]
    paths = [_path(trace, path, few, tokens, positions, table) for path in trace.paths]
    return table.table() | {"prompts": prompts, "held": [int(i) for i in few], "paths": paths}


def _rows(rows: pa.Table, ids: Ints) -> pa.Table:
    """Of the first run of the attack, the rows of the chosen samples' own paths."""
    off = pc.is_in(rows["kind"], value_set=pa.array(BESIDE))
    return _of(rows.filter(pc.and_(pc.invert(off), pc.equal(rows["restart"], 0))), ids)


def _of(rows: pa.Table, ids: Ints) -> pa.Table:
    return rows.filter(pc.is_in(rows["sample"], value_set=pa.array(ids.tolist(), pa.int64())))


def _path(trace: Trace, name: str, ids: Ints, tokens: pa.Table, positions: pa.Table, table: Pieces) -> Plain:
    length = trace.matrix("loss", path=name).values.shape[1]
    own = tokens.filter(pc.equal(tokens["path"], name)).sort_by([(k, "ascending") for k in ("sample", "step", "slot")])
    at = positions.filter(pc.equal(positions["path"], name))
    at = at.sort_by([(k, "ascending") for k in ("sample", "step", "position")])
    slots = _lengths(own, ids, length)
    out: Plain = {"whole": name in OWN_TEXT, "slots": encode(slots.astype("<u2"), "u16")}
    out["slot"] = _places(table.column(own["token"], own["piece"]))
    out["changed"] = encode(pc.fill_null(own["changed"], False).to_numpy().astype("u1"), "u8")
    out |= _gradient(own, slots.ravel())
    far = _floats(own, "nearest_distance")
    out["distance"] = pack(far.astype("<f4")) if np.nan_to_num(far).any() else None
    out["targets"] = encode(_lengths(at, ids, length).astype("<u2"), "u16")
    out |= {key: pack(_floats(at, column)) for key, column in NUMBERS.items()}
    out["greedy"] = _places(table.column(at["greedy"], at["greedy_piece"]))
    out["retokenises"] = encode(_retokenises(trace, name, ids, length), "u8")
    return out | _rounded(trace, name, ids, length, table)


def _rounded(trace: Trace, path: str, ids: Ints, length: int, table: Pieces) -> Plain:
    """Of relaxed slots the tokens of the texts that they are rounded to, in the order of ``slot``, and their losses."""
    assert trace.tokens is not None
    tokens, steps = (
        _of(rows.filter(pc.and_(pc.equal(rows["path"], path), pc.equal(rows["kind"], DISCRETE))), ids)
        for rows in (trace.tokens, trace.steps)
    )
    if not tokens.num_rows:
        return {"rounded": None, "rounded_loss": None}
    tokens = tokens.sort_by([(key, "ascending") for key in ("sample", "step", "slot")])
    loss = np.full((len(ids), length), np.nan)
    loss[np.searchsorted(ids, steps["sample"].to_numpy()), steps["step"].to_numpy()] = steps["loss"].to_numpy()
    return {"rounded": _places(table.column(tokens["token"], tokens["piece"])), "rounded_loss": pack(loss)}


def _lengths(rows: pa.Table, ids: Ints, length: int) -> Ints:
    """How many rows each sample has at each step, ``[n, T+1]``."""
    out = np.zeros((len(ids), length), dtype=np.int64)
    np.add.at(out, (np.searchsorted(ids, rows["sample"].to_numpy()), rows["step"].to_numpy()), 1)
    return out


def _gradient(rows: pa.Table, lengths: Ints) -> Plain:
    """The gradient at each token, as 1/255 of the largest of its step, and that: colours compare the tokens of a step.

    Of norms 0 … 255; of products −127 … 127, to which 127 is added.
    """
    norm, dot = _floats(rows, "grad_norm"), _floats(rows, "grad_dot")
    known = np.isfinite(norm)
    step = np.repeat(np.arange(len(lengths)), lengths)
    most = np.zeros((2, len(lengths)))
    for row, values in enumerate((norm, dot)):
        np.maximum.at(most[row], step, np.abs(np.nan_to_num(values)))
    out: Plain = {"norm": pack(most[0]), "most": pack(most[1]), "grad": None, "dot": None}
    if known.any():
        one = np.where(most == 0, 1.0, most)
        out["grad"] = encode(np.round(255 * np.nan_to_num(norm) / one[0][step]).astype("u1"), "u8")
        out["dot"] = encode((127 + np.round(127 * np.nan_to_num(dot) / one[1][step])).astype("u1"), "u8")
    return out


def _retokenises(trace: Trace, path: str, ids: Ints, length: int) -> NDArray[np.uint8]:
    out = np.full((len(ids), length), UNKNOWN, dtype=np.uint8)
    rows = _rows(trace.steps.filter(pc.equal(trace.steps["path"], path)), ids)
    rows = rows.filter(pc.is_valid(rows["retokenises"]))
    at = np.searchsorted(ids, rows["sample"].to_numpy()), rows["step"].to_numpy()
    out[at] = rows["retokenises"].to_numpy(zero_copy_only=False)
    return out


def _floats(rows: pa.Table, column: str) -> NDArray[np.float64]:
    return rows[column].to_numpy(zero_copy_only=False).astype(np.float64)


def _places(of: Ints) -> Plain:
    kind = "u16" if not len(of) or of.max() < 2**16 else "u32"
    return encode(of.astype(f"<u{2 if kind == 'u16' else 4}"), kind)
