"""A language model's trace without its texts: pages that may be shown to anybody, with all of their numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from flatlens.records.schema import Caution
from flatlens.records.trajectory import Trace

BLACK = "▮"
NO_ID = -1
"""In place of a token's number: who has the tokenizer reads the text from it."""
TEXTS = ("prompt", "target", "system", "init")
"""Settings that are texts of a prompt."""


def redacted(trace: Trace) -> Trace:
    """The trace with ``▮`` for every letter of its prompts, targets, slots and pieces; one of images is left as it is.

    Tokens have no numbers then, for these are the text in another script, and prompts are named by their sample.
    """
    if trace.prompts is None:
        return trace
    prompts = tuple(_prompt(one) for one in trace.prompts)
    spec = {key: _blackened(value) if key in TEXTS else value for key, value in trace.spec.items()}
    columns = {"tokens": ("piece",), "positions": ("piece", "greedy_piece")}
    numbers = {"tokens": ("token",), "positions": ("token", "greedy")}
    tables = {name: _table(getattr(trace, name), columns[name], numbers[name]) for name in columns}
    manifest = {key: value for key, value in trace.manifest.items() if key != "prompts"}
    names = {str(one["id"]) for one in trace.prompts} | {str(one[key]) for one in trace.prompts for key in TEXTS[:2]}
    cautions = tuple(Caution(one.code, _without(one.message, names)) for one in trace.cautions)
    return replace(trace, prompts=prompts, spec=spec, manifest=manifest, cautions=cautions, **tables)


def black(text: str) -> str:
    """``▮`` for every character that is not white space."""
    return re.sub(r"\S", BLACK, text)


def _blackened(value: Any) -> Any:
    if isinstance(value, str):
        return black(value)
    return [_blackened(part) for part in value] if isinstance(value, (list, tuple)) else value


def _prompt(one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "sample": one["sample"],
        "id": f"prompt {one['sample']}",
        "prompt": black(one["prompt"]),
        "target": black(one["target"]),
        "ids": {part: [NO_ID] * len(ids) for part, ids in one["ids"].items()},
        "pieces": {part: [black(piece) for piece in pieces] for part, pieces in one["pieces"].items()},
    }


def _table(table: pa.Table | None, pieces: tuple[str, ...], numbers: tuple[str, ...]) -> pa.Table | None:
    if table is None:
        return None
    for name in pieces:
        coded = table[name].combine_chunks().dictionary_encode()
        words = pa.array([black(word) for word in coded.dictionary.to_pylist()], pa.string())
        table = _with(table, name, words.take(coded.indices))
    for name in numbers:
        table = _with(table, name, pa.array([NO_ID] * table.num_rows, table.schema.field(name).type))
    return table


def _with(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)


def _without(message: str, names: set[str]) -> str:
    for name in sorted((name for name in names if name.strip()), key=len, reverse=True):
        message = message.replace(name, black(name))
    return message
