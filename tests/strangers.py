"""Folders as a stranger might hand them over: a small real run and sweep with one thing wrong in each."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from flatlens.files.sealing import SEAL
from tests.edited import unsealed

Change = Callable[[Path], object]
DEEP = 100_000
VALUES: dict[str, Any] = {
    "null": None,
    "a negative": -1,
    "a huge": 10**12,
    "beyond 64 bits": 2**70,
    "beyond floats": 10**400,
    "a fraction": 0.5,
    "the largest float": 1.7e308,
    "not a number": float("nan"),
    "infinite": float("inf"),
    "text": "x",
    "empty text": "",
    "long text": "x" * 1_000_000,
    "controls": "a\x1b[2J\u202e\x00\n",
    "half of a pair": "\ud800",
    "a list": [1, "x", None],
    "a table": {"a": {"b": []}},
    "true": True,
    "nested": [[[[[[[[[[[[1]]]]]]]]]]]],
}
CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "cut off": b'{"a": ',
    "a list": b"[]",
    "null": b"null",
    "a number": b"1e999",
    "no UTF-8": b'{"a": "\xff\xfe"}',
    "zeros": b"\0" * 1000,
    "deep": b"[" * DEEP,
    "deep tables": b'{"a":' * DEEP,
    "many digits": b'{"schema_version": ' + b"9" * 10_000 + b"}",
    "an empty object": b"{}",
    "a byte order mark": b"\xef\xbb\xbf{}",
}


def _other(path: Path) -> Path:
    target = path.with_name(f"{path.name}.other")
    path.rename(target)
    return target


def _linked(path: Path) -> None:
    path.symlink_to(_other(path))


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _hollow(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1 << 40)


PLACES: dict[str, Change] = {
    "gone": Path.unlink,
    "a link": _linked,
    "a pipe": _fifo,
    "a device": _device,
    "a folder": _folder,
    "full of holes": _hollow,
    "dangling": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
}


def records(file: str, keys: tuple[str, ...]) -> Iterator[tuple[str, Change]]:
    """A JSON record with each odd value at each key, without it, and with odd content instead."""
    for key in keys:
        for kind, value in VALUES.items():
            yield f"{file} {key}: {kind}", lambda folder, key=key, value=value: _set(folder / file, key, value)
        yield f"{file} without {key}", lambda folder, key=key: _set(folder / file, key)
    for kind, content in CONTENTS.items():
        yield f"{file}: {kind}", lambda folder, content=content: (folder / file).write_bytes(content)
    yield from places(file)


def places(file: str) -> Iterator[tuple[str, Change]]:
    """A file that is none."""
    for kind, change in PLACES.items():
        yield f"{file}: {kind}", lambda folder, change=change: change(folder / file)


def _set(file: Path, path: str, *value: Any) -> None:
    found = json.loads(file.read_text())
    found.pop(SEAL, None)  # what is wrong is to be found without it
    at = found
    *above, last = path.split(".")
    for name in above:
        at = at[int(name)] if isinstance(at, list) else at[name]
    place = int(last) if isinstance(at, list) else last
    if value:
        at[place] = value[0]
    elif isinstance(at, list) or place in at:
        del at[place]
    file.write_text(json.dumps(found))


def _table(file: str, change: Callable[[pa.Table], pa.Table]) -> Change:
    return lambda folder: pq.write_table(change(pq.read_table(folder / file)), folder / file)


def _with(name: str, value: Any, kind: pa.DataType | None = None) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        place = table.column_names.index(name)
        column = pa.repeat(pa.scalar(value, kind or table.schema.field(name).type), table.num_rows)
        return table.set_column(place, name, column)

    return change


def _bomb(table: pa.Table) -> pa.Table:
    one = table.slice(0, 1)
    arrays = [pa.repeat(one[name][0], 20_000_000) for name in ("path", "restart", "sample", "step", "kind")]
    return pa.table(arrays, names=one.column_names[:5])


def _long_names(table: pa.Table) -> pa.Table:
    words = pa.DictionaryArray.from_arrays(pa.array([0] * table.num_rows, pa.int32()), pa.array(["x" * 20_000_000]))
    return table.set_column(table.column_names.index("kind"), "kind", words)


TABLES: dict[str, Callable[[pa.Table], pa.Table]] = {
    "no rows": lambda table: table.slice(0, 0),
    "one row": lambda table: table.slice(0, 1),
    "a row less": lambda table: table.slice(0, table.num_rows - 1),
    "twice": lambda table: pa.concat_tables([table, table]),
    "in reverse": lambda table: table.take(list(range(table.num_rows))[::-1]),
    "no columns": lambda table: table.select([]),
    "other columns": lambda _: pa.table({"x": [1]}),
    "no path": lambda table: table.drop_columns("path"),
    "no sample": lambda table: table.drop_columns("sample"),
    "null samples": _with("sample", None),
    "null steps": _with("step", None),
    "null paths": _with("path", None),
    "a negative sample": _with("sample", -1),
    "a negative step": _with("step", -1),
    "a negative restart": _with("restart", -1),
    "a huge step": _with("step", 2**31 - 1),
    "a huge sample": _with("sample", 2**63 - 1),
    "no attack": _with("path", "other"),
    "odd names": _with("kind", "\x1b[2J\u202e" * 100),
    "names of no UTF-8": _with("kind", b"\xff\xfe", pa.binary()),
    "names as numbers": _with("kind", 3, pa.int64()),
    "steps as text": _with("step", "three", pa.string()),
    "steps as fractions": _with("step", 0.5, pa.float64()),
    "samples as lists": _with("sample", [1], pa.list_(pa.int64())),
    "samples as tables": _with("sample", {"a": 1}, pa.struct([("a", pa.int64())])),
    "samples beyond": _with("sample", 2**64 - 1, pa.uint64()),
    "a bomb": _bomb,
    "long names": _long_names,
}
STEPS = {
    "flips unknown": _with("flipped", None),
    "labels unknown": _with("label", None),
    "labels negative": _with("label", -5),
    "losses infinite": _with("loss", float("inf")),
    "losses unknown": _with("loss", float("nan")),
    "flips as text": _with("flipped", "yes", pa.string()),
    "a column more": lambda table: table.append_column("new", table["loss"]),
    "older": lambda table: table.drop_columns(["margin", "entropy", "dead_share"]),
}
LAYERS = {
    "no layer": lambda table: table.drop_columns("layer"),
    "layers unknown": _with("layer", None),
    "methods unknown": _with("method", None),
    "exact unknown": _with("exact", None),
    "all infinite": _with("relative_flatness", float("inf")),
    "all unknown": _with("relative_flatness", None),
    "older": lambda table: table.drop_columns(["trace", "effective_rank", "loss_change"]),
    "κ missing": lambda table: table.drop_columns("relative_flatness"),
}


def tables() -> Iterator[tuple[str, Change]]:
    """Tables that are none, hold other things than they should, or more than there can be."""
    for file, own in (("steps.parquet", STEPS), ("layers.parquet", LAYERS)):
        for kind, change in (TABLES | own).items():
            yield f"{file}: {kind}", _table(file, change)
        for kind, content in CONTENTS.items():
            yield f"{file}: {kind}", lambda folder, file=file, content=content: (folder / file).write_bytes(content)
        for part in (4, 100, -100, -8, -4):
            yield (
                f"{file}: cut at {part}",
                lambda folder, file=file, part=part: (folder / file).write_bytes((folder / file).read_bytes()[:part]),
            )
        yield from places(file)


def _tensors(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    def write(folder: Path) -> None:
        file = folder / "images.safetensors"
        save_file({k: np.ascontiguousarray(v) for k, v in change(load_file(file)).items()}, file)

    return write


def _header(header: bytes) -> Change:
    return lambda folder: (folder / "images.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


IMAGES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "nothing": lambda _: {"a": np.zeros(1)},
    "no steps": lambda found: {k: v for k, v in found.items() if k != "step"},
    "no rows": lambda found: {k: v[:0] for k, v in found.items()},
    "fewer steps": lambda found: found | {"step": found["step"][:-1]},
    "flat": lambda found: {k: v.reshape(-1) for k, v in found.items()},
    "a number": lambda found: found | {"x": np.zeros(())},
    "samples as fractions": lambda found: found | {"sample": found["sample"].astype(np.float64)},
    "images as whole numbers": lambda found: found | {"x": found["x"].astype(np.int64)},
    "other samples": lambda found: found | {"sample": found["sample"] + 1000},
    "negative steps": lambda found: found | {"step": -found["step"] - 1},
    "not finite": lambda found: found | {"x": found["x"] * np.float32(np.nan)},
    "a tensor more": lambda found: found | {"new": np.zeros(3)},
    "one class": lambda found: found | {"probabilities": found["probabilities"][:, :1]},
    "no pixels": lambda found: found | {"x": found["x"][:, :, :0]},
}


def images() -> Iterator[tuple[str, Change]]:
    """Inputs that are none."""
    file = "images.safetensors"
    for kind, change in IMAGES.items():
        yield f"{file}: {kind}", _tensors(change)
    for kind, content in CONTENTS.items():
        yield f"{file}: {kind}", lambda folder, content=content: (folder / file).write_bytes(content)
    huge = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    yield f"{file}: a huge tensor", _header(huge)
    yield f"{file}: a deep header", _header(b'{"a":' * DEEP)
    yield f"{file}: a huge header", lambda folder: (folder / file).write_bytes((2**62).to_bytes(8, "little") + b"{}")
    yield from ((name, change) for name, change in places(file) if not name.endswith("gone"))


SPECS: dict[str, str] = {
    "empty": "",
    "no TOML": "[[[",
    "no model": 'data = "flatlens:digits"',
    "odd steps": 'model = "m"\ndata = "d"\nsteps = "many"',
    "negative": 'model = "m"\ndata = "d"\nsteps = -1',
    "huge": f'model = "m"\ndata = "d"\nsteps = {10**30}',
    "infinite": 'model = "m"\ndata = "d"\neps = inf',
    "not a number": 'model = "m"\ndata = "d"\neps = nan',
    "a table": 'data = "d"\n[model]\na = 1',
    "deep": f"model = {'[' * 5000}{']' * 5000}",
    "a setting more": 'model = "m"\ndata = "d"\nnew = 1',
    "times": 'model = "m"\ndata = 1979-05-27T07:32:00Z',
    "other": 'model = "evil.py:f"\ndata = "flatlens:digits"\ntrust_pickle = true',
}


def specs() -> Iterator[tuple[str, Change]]:
    """A ``spec.toml`` that is none."""
    for kind, text in SPECS.items():
        yield f"spec.toml: {kind}", lambda folder, text=text: (folder / "spec.toml").write_text(text)
    yield "spec.toml: no UTF-8", lambda folder: (folder / "spec.toml").write_bytes(b'model = "\xff"')
    yield "spec.toml: large", lambda folder: (folder / "spec.toml").write_text("# x\n" * 1_000_000)
    yield from places("spec.toml")


MANIFEST = (
    *("schema_version", "state", "batches", "labels", "warnings", "seconds", "files", "weights_sha256", "spec_hash"),
    *("measurement_version", "flatlens", "versions", "samples", "classes", "device"),
)
DIGEST = (
    *("version", "accuracy", "rows", "curves", "measures", "cautions", "accuracy.clean", "accuracy.clean.value"),
    *("rows.0", "rows.0.path", "rows.0.layer", "rows.0.measure", "rows.0.tau", "rows.0.rise", "rows.0.rise.value"),
    *("rows.0.flipped.count", "rows.0.not_finite", "rows.0.exact", "rows.0.method", "curves.0", "curves.0.median"),
    *("curves.0.n", "curves.0.path", "measures.0", "measures.0.measure", "measures.0.clean"),
)


def runs() -> list[tuple[str, Change]]:
    """What may be wrong with a run's folder."""
    return [*records("manifest.json", MANIFEST), *tables(), *images(), *specs()]


def cells() -> list[tuple[str, Change]]:
    """What may be wrong with a cell of a sweep, beside that."""
    return list(records("digest.json", DIGEST))


def sweeps(first: str) -> list[tuple[str, Change]]:
    """What may be wrong with a sweep's folder, whose first cell is ``first``."""
    keys = ("schema_version", "cells", f"cells.{first}", *(f"cells.{first}.{k}" for k in SETTINGS))
    found = list(records("plan.json", keys))
    failure = {"error": "e", "kind": "k", "details": "d", "when": 0.0, "attempts": 1}
    for key in failure:
        for kind, value in VALUES.items():
            content = json.dumps(failure | {key: value})
            found.append((f"failed: {key}: {kind}", lambda folder, text=content: _fail(folder, first, text)))
    for kind, raw in CONTENTS.items():
        found.append((f"failed: {kind}", lambda folder, raw=raw: _fail(folder, first, raw)))
    about = {"pid": 1, "host": "h", "since": 0.0, "shard": "1-of-1"}
    for key in about:
        for kind, value in VALUES.items():
            text = json.dumps(about | {key: value})
            found.append((f"locks: {key}: {kind}", lambda folder, text=text: _at_work(folder, text)))
    for name in ("cells", "work", "failed", "replaced", "locks"):
        found.append((f"{name}: a link", lambda folder, name=name: _folder_link(folder / name)))
        found.append((f"{name}: a file", lambda folder, name=name: _folder_file(folder / name)))
    found.append(("cell: a link", lambda folder: _linked(folder / "cells" / first)))
    found.append(("work: of a link", lambda folder: _work(folder, first).symlink_to("/")))
    for kind, raw in CONTENTS.items():
        found.append((f"work: {kind}", lambda folder, raw=raw: _begun(folder, first, raw)))
    return found


SETTINGS = ("model", "data", "eps", "steps", "layer", "seed", "bounds", "train", "norm", "samples", "new")


def _fail(folder: Path, key: str, content: str | bytes) -> None:
    shutil.rmtree(folder / "cells" / key)
    (folder / "failed").mkdir(exist_ok=True)
    (folder / "failed" / f"{key}.json").write_bytes(content if isinstance(content, bytes) else content.encode())


def _at_work(folder: Path, text: str) -> None:
    (folder / "locks" / "1-of-1.json").write_text(text)
    (folder / "held").touch()  # the test holds the lock


def _folder_link(path: Path) -> None:
    path.mkdir(exist_ok=True)
    _linked(path)


def _folder_file(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.write_text("x")


def _work(folder: Path, key: str) -> Path:
    shutil.rmtree(folder / "cells" / key)
    (folder / "work").mkdir(exist_ok=True)
    (folder / "locks" / f"{key}.cell").touch()
    (folder / "held").touch()
    return folder / "work" / key


def _begun(folder: Path, key: str, content: bytes) -> None:
    place = _work(folder, key)
    place.mkdir()
    (place / "manifest.json").write_bytes(content)


def bare(folder: Path) -> Path:
    """A run's folder without hashes, as a stranger would make it: nothing but its content tells what is wrong."""
    return unsealed(folder)
