"""`Run`: a folder on disk, written part by part, each file complete before it bears its name."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save

from flatlens.errors import RunError, SpecError, StaleRunError, one_line
from flatlens.files import borders
from flatlens.files.atomic import disk, replacing, write_file, write_json
from flatlens.files.borders import DamageError, inside
from flatlens.files.sealing import file_sha256
from flatlens.files.tensors import concatenate
from flatlens.records import reading, stored
from flatlens.records.schema import (
    SCHEMA_VERSION,
    TABLES,
    TEXT_TABLES,
    Caution,
    Embeddings,
    Gradients,
    Images,
)
from flatlens.records.surfaces import Surfaces
from flatlens.records.trajectory import Trace
from flatlens.specs.run import KEYS, RunSpec, from_dict
from flatlens.specs.toml import parse_toml

RUNNING, FINISHED = "running", "finished"
_TABLES = {name: table.schema for name, table in (TABLES | TEXT_TABLES).items()}
_ARRAYS = ("images", "gradients", "embeddings")
"""What is kept of each batch beside its tables, where there is any."""
FEATURES = "features"
"""What is kept of each batch until its run is finished: the head's inputs, of which `CONDITION` is computed."""
FILES = (
    "spec.toml", "steps.parquet", "layers.parquet", "images.safetensors", "gradients.safetensors",
    "surfaces.safetensors", "spectrum.parquet", "peers.parquet", "positions.parquet", "tokens.parquet", "prompts.json",
    "embeddings.safetensors", "condition.parquet",
)  # fmt: skip
"""Of these a finished run's manifest tells the SHA-256."""
_NOTES, _SECONDS = b"flatlens.notes", b"flatlens.seconds"
_SPEC_BYTES = 1 << 20


class Run:
    """A run's folder.

    Attributes:
        path: the folder.
        manifest: what is known of how the run was made, and its ``state``.
        resumed: ``new``, ``resumed`` or ``finished`` (nothing was left to do).
    """

    def __init__(self, path: Path, manifest: dict[str, Any], resumed: str = FINISHED) -> None:
        self.path: Path = path
        self.manifest = manifest
        self.resumed: str = resumed

    @property
    def files(self) -> dict[str, str] | None:
        """The SHA-256 of each file by its name; None of a run that was made before hashes were kept."""
        return self.manifest.get("files")

    @property
    def spec(self) -> RunSpec:
        """The resolved specification.

        Raises:
            StaleRunError: it is damaged, or of a newer flatlens.
        """
        values = self._settings()
        if unknown := [key for key in values if key not in KEYS]:
            raise StaleRunError(
                f"the run in '{self.path}' has the setting '{unknown[0]}', which this flatlens does not know: upgrade"
            )
        with self._whole():
            return from_dict(values)

    def _settings(self) -> dict[str, Any]:
        with self._whole():
            file = self.path / "spec.toml"
            content = borders.read_bytes(file, _SPEC_BYTES)
            if self.files is not None:
                stored.verify(file, self.files)
            return parse_toml(content.decode("utf-8"), "spec.toml")

    def settings(self) -> dict[str, Any]:
        """The resolved specification as plain data, with what a newer flatlens has added.

        Raises:
            StaleRunError: it is damaged.
        """
        values = self._settings()
        with self._whole():
            return values | from_dict({key: value for key, value in values.items() if key in KEYS}).to_dict()

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """Turn what is wrong with a file into the one line about it."""
        try:
            yield
        except (DamageError, SpecError, OSError, ValueError) as error:
            what = (error.strerror if isinstance(error, OSError) else None) or one_line(error)
            if isinstance(error, FileNotFoundError):
                what = f"{Path(str(error.filename)).name} is missing"
            raise StaleRunError(f"the run in '{self.path}' is damaged: {what}; run it again with --force") from error

    @property
    def finished(self) -> bool:
        """Whether the tables are complete."""
        return bool(self.manifest["state"] == FINISHED)

    def missing(self) -> list[int]:
        """Batches that are not done yet; a finished run has joined them."""
        if self.finished:
            return []
        try:
            there = {entry.name for entry in os.scandir(inside(self.path, "parts"))}
        except FileNotFoundError:
            there = set()
        return [i for i in range(self.manifest["batches"]) if f"{i:05d}.steps.parquet" not in there]

    def drop_damaged(self) -> list[int]:
        """Remove the batches of an unfinished run that are not what was written, so that they are measured again."""
        dropped = []
        lost = set(self.missing())
        for i in range(0 if self.finished else self.manifest["batches"]):
            if i not in lost and not self._is_whole(i):
                self._part(i, "steps.parquet").unlink(missing_ok=True)
                dropped.append(i)
        return dropped

    def _is_whole(self, index: int) -> bool:
        try:
            sums = borders.read_json(self._part(index, "json"))["files"]
            for name, digits in sums.items():
                stored.verify(self._part(index, name), {self._part(index, name).name: digits})
        except (DamageError, OSError, KeyError, AttributeError, TypeError):
            return False
        return set(sums) >= {"steps.parquet", "layers.parquet"}

    def save_part(
        self,
        index: int,
        tables: Mapping[str, pa.Table],
        arrays: Mapping[str, Images | Gradients | Embeddings | Mapping[str, Any] | None],
        notes: Mapping[str, int],
        seconds: float = 0.0,
    ) -> None:
        """Keep one finished batch, which took ``seconds``.

        ``arrays`` are its ``images``, ``gradients``, … The table of steps is written last: once it is there, the batch
        is complete, with its notes and hashes. Batches may be saved in any order and by several processes.
        """
        with disk(self.path):
            self._part(index, "").parent.mkdir(exist_ok=True)
            files: dict[str, str] = {}
            for kind in (*_ARRAYS, FEATURES):
                name, kept = f"{kind}.safetensors", arrays.get(kind)
                self._part(index, name).unlink(missing_ok=True)
                if kept is not None:
                    write_file(self._part(index, name), save(stored.as_tensors(kept)))
                    files[name] = file_sha256(self._part(index, name))
            # That of steps is written last.
            for name in (f"{table}.parquet" for table in reversed(_TABLES) if table in tables):
                with replacing(self._part(index, name)) as file:
                    known = {_NOTES: json.dumps(dict(notes)), _SECONDS: repr(seconds)}
                    table = tables[name.partition(".")[0]].replace_schema_metadata(known)
                    pq.write_table(table, file)  # its hash is kept: it needs no checksums of pages
                    file.flush()
                    files[name] = file_sha256(Path(file.name))
                    if name == "steps.parquet":
                        write_json(self._part(index, "json"), {"files": files})
            self.open_part(index).unlink(missing_ok=True)

    def open_part(self, index: int) -> Path:
        """Where a batch that is under way is kept, so that it can be gone on with in its middle."""
        return self._part(index, "open")

    def features(self) -> list[Path]:
        """The files of the head's features, batch by batch, of a run whose parts are all there; see `FEATURES`."""
        return [self._part(i, f"{FEATURES}.safetensors") for i in range(self.manifest["batches"])]

    def save_prompts(self, texts: list[dict[str, Any]]) -> None:
        """Keep the prompts of a run of a language model, as they are tokenised."""
        with disk(self.path):
            write_json(self.path / "prompts.json", {"prompts": texts}, sealed=False)

    def merge(self) -> tuple[Counter[str], float]:
        """Join the parts into the run's tables, a part at a time.

        Returns:
            what was noted of them, added up, and the seconds that they took.
        """
        count = self.manifest["batches"]
        notes, seconds = Counter[str](), 0.0
        with disk(self.path):
            for name, schema in _TABLES.items():
                if name in TEXT_TABLES and not any(self._part(i, f"{name}.parquet").exists() for i in range(count)):
                    continue
                with (
                    replacing(self.path / f"{name}.parquet") as file,
                    pq.ParquetWriter(file, schema, write_page_checksum=True) as writer,
                ):
                    for i in range(count):
                        if name in TABLES or self._part(i, f"{name}.parquet").exists():
                            writer.write_table(pq.read_table(self._part(i, f"{name}.parquet")))
            for name in (f"{kind}.safetensors" for kind in _ARRAYS):
                if parts := [part for i in range(count) if (part := self._part(i, name)).exists()]:
                    with replacing(self.path / name) as file:
                        concatenate(parts, file)
            for i in range(count):
                known = pq.read_schema(self._part(i, "steps.parquet")).metadata or {}
                notes.update(json.loads(known.get(_NOTES, b"{}")))
                seconds += float(known.get(_SECONDS, b"0"))
        return notes, seconds

    def finish(self, cautions: tuple[Caution, ...], **known: Any) -> None:
        """Declare the tables complete, and drop the parts that they were joined from."""
        files = {name: file_sha256(path) for name in FILES if (path := self.path / name).exists()}
        self.manifest |= {"state": FINISHED, "warnings": [c._asdict() for c in cautions], "files": files, **known}
        with disk(self.path):
            self.write_manifest()
            shutil.rmtree(self.path / "parts", ignore_errors=True)

    def keep(self, name: str, content: bytes | Mapping[str, Any]) -> None:
        """Keep one more file, of bytes or JSON, beside the tables of a finished run, and its hash in the manifest."""
        with disk(self.path):
            if isinstance(content, bytes):
                write_file(self.path / name, content)
            else:
                write_json(self.path / name, content, sealed=False)
            if self.files is not None:
                self.files[name] = file_sha256(self.path / name)
                self.write_manifest()

    def save_table(self, name: str, table: pa.Table) -> None:
        """Keep one more table, ``spectrum`` or ``peers``, beside those of a finished run."""
        out = io.BytesIO()
        pq.write_table(table, out, write_page_checksum=True)
        self.keep(f"{name}.parquet", out.getvalue())

    def save_condition(self, table: pa.Table) -> None:
        """Keep the table `CONDITION` of a run that is about to be finished."""
        with disk(self.path), replacing(self.path / "condition.parquet") as file:
            pq.write_table(table, file, write_page_checksum=True)

    def save_surfaces(self, surfaces: Surfaces) -> None:
        """Keep the surfaces of a run that is about to be finished."""
        with disk(self.path):
            write_file(
                self.path / "surfaces.safetensors",
                save({name: np.ascontiguousarray(held) for name, held in surfaces.tensors.items()}),
            )

    def write_manifest(self) -> None:
        """Put the manifest on disk."""
        write_json(self.path / "manifest.json", self.manifest)

    def trace(self, *, whole: bool = True) -> Trace:
        """The run's tables; what an older flatlens has not measured is null.

        Args:
            whole: read the tables and inputs into memory; else each column of a large run is read when it is asked
                for, which is enough to judge and to draw one that is larger than the memory.

        Raises:
            RunError: the run is not finished, or a file of it is missing or damaged.
        """
        self.demand_finished()
        with self._whole():
            return reading.trace(self, whole=whole)

    def kept(self, name: str) -> Path | None:
        """An optional file, or None; a file that the manifest does not list is a leftover, and counts as missing."""
        there = os.path.lexists(self.path / name) and (self.files is None or name in self.files)
        return self.path / name if there else None

    def demand_finished(self) -> None:
        """Refuse a run that is not finished."""
        if not self.finished:
            batches = self.manifest["batches"]
            done = f"{batches - len(self.missing())} of {batches} batches"
            raise RunError(
                f"the run in '{self.path}' is not finished ({done}); the command that began it goes on with it"
            )

    def _part(self, index: int, ending: str) -> Path:
        return inside(self.path, "parts") / f"{index:05d}.{ending}"


def load(path: str | Path) -> Run:
    """The run in a folder.

    Raises:
        RunError: there is none, or one of a newer schema.
        StaleRunError: it is damaged.
    """
    path = Path(path)
    file = path / "manifest.json"
    if not file.is_file():
        what = "does not exist" if not path.exists() else "holds no manifest.json"
        raise RunError(f"'{path}' is no run: it {what}; name the --out folder of a `flatlens trace`")
    try:
        manifest = borders.read_json(file)
        borders.check(manifest, {"schema_version": borders.MANIFEST["schema_version"]}, file.name)
        version = manifest["schema_version"]
        if version <= SCHEMA_VERSION:
            borders.check_manifest(manifest)
    except DamageError as error:
        raise StaleRunError(f"'{file}' is damaged: {error}; run it again with --force") from error
    if version > SCHEMA_VERSION:
        raise RunError(f"the run in '{path}' has schema {version}; this flatlens reads {SCHEMA_VERSION}: upgrade it")
    inside(path, "parts")
    return Run(path, manifest)
