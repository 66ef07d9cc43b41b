"""`Run`: a folder on disk, written part by part, each file complete before it bears its name."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from flatlens.errors import DiskError, RunError, StaleRunError
from flatlens.spec import RunSpec, difference, from_dict, read_toml
from flatlens.stored import StoredTable, tensors
from flatlens.tensorfile import concatenate
from flatlens.trajectory import LAYERS, MEASUREMENT_VERSION, SCHEMA_VERSION, STEPS, Caution, Images, Trace, fitting

RUNNING, FINISHED = "running", "finished"
_TABLES = {"steps": STEPS, "layers": LAYERS}
_NOTES, _SECONDS = b"flatlens.notes", b"flatlens.seconds"


class Run:
    """A run's folder.

    Attributes:
        path: the folder.
        manifest: what is known of how the run was made, and its ``state``.
        resumed: ``new``, ``resumed`` or ``finished`` (nothing was left to do).
    """

    def __init__(self, path: Path, manifest: dict[str, Any], resumed: str = FINISHED) -> None:
        self.path, self.manifest, self.resumed = path, manifest, resumed

    @property
    def spec(self) -> RunSpec:
        """The resolved specification."""
        return from_dict(read_toml(self.path / "spec.toml"))

    @property
    def finished(self) -> bool:
        """Whether the tables are complete."""
        return bool(self.manifest["state"] == FINISHED)

    def missing(self) -> list[int]:
        """Batches that are not done yet; a finished run has joined them."""
        wanted = range(0 if self.finished else self.manifest["batches"])
        return [i for i in wanted if not self._part(i, "steps.parquet").exists()]

    def save_part(
        self,
        index: int,
        tables: Mapping[str, pa.Table],
        images: Images | None,
        notes: Mapping[str, int],
        seconds: float = 0.0,
    ) -> None:
        """Keep one finished batch, which took ``seconds``.

        The table of steps is written last, with the notes: where it is, all is there. Batches may be saved in any
        order and by several processes.
        """
        with disk(self.path):
            self._part(index, "").parent.mkdir(exist_ok=True)
            if images is not None:
                _write(self._part(index, "images.safetensors"), save(_as_tensors(images)))
            for name in ("layers", "steps"):
                with replacing(self._part(index, f"{name}.parquet")) as file:
                    known = {_NOTES: json.dumps(dict(notes)), _SECONDS: repr(seconds)}
                    pq.write_table(tables[name].replace_schema_metadata(known), file)

    def merge(self) -> tuple[Counter[str], float]:
        """Join the parts into the run's tables, a part at a time.

        Returns:
            what was noted of them, added up, and the seconds that they took.
        """
        count = self.manifest["batches"]
        notes, seconds = Counter[str](), 0.0
        with disk(self.path):
            for name, schema in _TABLES.items():
                with replacing(self.path / f"{name}.parquet") as file, pq.ParquetWriter(file, schema) as writer:
                    for i in range(count):
                        writer.write_table(pq.read_table(self._part(i, f"{name}.parquet")))
            parts = [part for i in range(count) if (part := self._part(i, "images.safetensors")).exists()]
            if parts:
                with replacing(self.path / "images.safetensors") as file:
                    concatenate(parts, file)
            for i in range(count):
                stored = pq.read_schema(self._part(i, "steps.parquet")).metadata or {}
                notes.update(json.loads(stored.get(_NOTES, b"{}")))
                seconds += float(stored.get(_SECONDS, b"0"))
        return notes, seconds

    def finish(self, cautions: tuple[Caution, ...], **known: Any) -> None:
        """Declare the tables complete, and drop the parts that they were joined from."""
        self.manifest |= {"state": FINISHED, "warnings": [c._asdict() for c in cautions], **known}
        with disk(self.path):
            self.write_manifest()
            shutil.rmtree(self.path / "parts", ignore_errors=True)

    def save_spectrum(self, table: pa.Table) -> None:
        """Keep the spectral densities beside the tables."""
        with disk(self.path), replacing(self.path / "spectrum.parquet") as file:
            pq.write_table(table, file)

    def write_manifest(self) -> None:
        """Put the manifest on disk."""
        _write(self.path / "manifest.json", json.dumps(self.manifest, indent=2, ensure_ascii=False).encode() + b"\n")

    def trace(self, *, whole: bool = True) -> Trace:
        """The run's tables; what an older flatlens has not measured is null.

        Args:
            whole: read the tables and inputs into memory; else each column is read when it is asked for, which is
                enough to judge and to draw a run that is larger than the memory.

        Raises:
            RunError: the run is not finished, or a file of it is missing or damaged.
        """
        self.demand_finished()
        tables: dict[str, Any]
        try:
            files = {name: self.path / f"{name}.parquet" for name in _TABLES}
            if whole:
                tables = {name: fitting(pq.read_table(file), _TABLES[name]) for name, file in files.items()}
            else:
                tables = {name: StoredTable(file, _TABLES[name]) for name, file in files.items()}
            stored = self.path / "images.safetensors"
            images = _from_tensors((load_file if whole else tensors)(stored)) if stored.exists() else None
            density = self.path / "spectrum.parquet"
            spectrum = pq.read_table(density) if density.exists() else None
        except (OSError, pa.ArrowException, SafetensorError) as error:
            raise RunError(
                f"the run in '{self.path}' is damaged: {_first_line(error)}; run it again with --force"
            ) from error
        labels = self.manifest.get("labels")
        return Trace(
            tables["steps"],
            tables["layers"],
            self.spec.to_dict(),
            cautions=tuple(Caution(**c) for c in self.manifest.get("warnings", ())),
            images=images,
            labels=tuple(labels) if labels else None,
            manifest=self.manifest,
            spectrum=spectrum,
        )

    def demand_finished(self) -> None:
        """Refuse a run that is not finished."""
        if not self.finished:
            batches = self.manifest["batches"]
            done = f"{batches - len(self.missing())} of {batches} batches"
            raise RunError(
                f"the run in '{self.path}' is not finished ({done}); the command that began it goes on with it"
            )

    def _part(self, index: int, ending: str) -> Path:
        return self.path / "parts" / f"{index:05d}.{ending}"


def create(path: Path, spec: RunSpec, manifest: dict[str, Any], *, parents: bool = True) -> Run:
    """Begin a run in a folder that holds none; the folders around it are made too, if ``parents``."""
    run = Run(path, {"schema_version": SCHEMA_VERSION, "state": RUNNING} | manifest, "new")
    with disk(path):
        path.mkdir(parents=parents, exist_ok=True)
        for left in path.glob(".*.tmp"):
            left.unlink()
        _write(path / "spec.toml", spec.to_toml().encode())
        run.write_manifest()
    return run


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
        manifest = json.loads(file.read_text(encoding="utf-8"))
        version = manifest["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StaleRunError(f"'{file}' is damaged: {_first_line(error)}; run it again with --force") from error
    if version > SCHEMA_VERSION:
        raise RunError(f"the run in '{path}' has schema {version}; this flatlens reads {SCHEMA_VERSION}: upgrade it")
    return Run(path, manifest)


def existing(path: Path, *, force: bool = False) -> Run | None:
    """The run that a folder already holds, or None; with ``force`` it is removed first.

    Raises:
        RunError: the folder holds other things.
    """
    if path.exists() and not path.is_dir():
        raise RunError(f"--out '{path}' is a file; name a folder")
    # A run that was killed while it began leaves its spec, or a file under its temporary name: no loss.
    ours = {"spec.toml"} | ({p.name for p in path.iterdir() if p.suffix == ".tmp"} if path.exists() else set())
    if not path.exists() or all(p.name in ours for p in path.iterdir()):
        return None
    if not (path / "manifest.json").exists():
        raise RunError(f"--out '{path}' holds other files and no run; name a new or an empty folder")
    if not force:
        return load(path)
    for name in (
        "parts",
        "spec.toml",
        "steps.parquet",
        "layers.parquet",
        "images.safetensors",
        "spectrum.parquet",
        "report.html",
        "manifest.json",
    ):
        found = path / name
        shutil.rmtree(found) if found.is_dir() else found.unlink(missing_ok=True)
    return None


def demand_current(run: Run) -> None:
    """Refuse to go on with a run, finished or not, whose numbers another version of flatlens measures otherwise.

    Raises:
        StaleRunError: it is of another measurement version.
    """
    version = run.manifest.get("measurement_version")
    if version == MEASUREMENT_VERSION:
        return
    kept = (
        "it opens, reports and exports as before"
        if run.finished
        else f"its {run.manifest['batches'] - len(run.missing())} finished batches are not mixed with new ones"
    )
    raise StaleRunError(
        f"'{run.path}' holds a run of measurement version {version}, and this flatlens measures by version "
        f"{MEASUREMENT_VERSION} (what --seed draws has changed, and columns are new): {kept}; choose another --out, or "
        "replace it with --force"
    )


def resume(run: Run, spec: RunSpec, manifest: Mapping[str, Any]) -> Run:
    """Go on with a run, which must be of the same spec, weights, data and measurement version.

    Raises:
        StaleRunError: it is not; the message says in what it differs.
    """
    differs = [text for text in difference(spec, run.spec) if not text.startswith("device ")]
    for key, name in (
        ("weights_sha256", "weights"),
        ("data_sha256", "data"),
        ("points_sha256", "points"),
        ("measurement_version", "measurement version"),
    ):
        if run.manifest.get(key) != manifest.get(key):
            differs.append(f"other {name}")
    if differs:
        raise StaleRunError(
            f"'{run.path}' holds another run: {', '.join(differs)}; choose another --out, or replace it with --force"
        )
    run.resumed = FINISHED if run.finished else "resumed"
    if run.finished:  # and killed before it had dropped its parts
        shutil.rmtree(run.path / "parts", ignore_errors=True)
    return run


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Any]:
    """A file to write to, which takes its name only when it is complete and on the disk."""
    # Several machines may write to one folder: a process number alone could be another's.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as file:
        file.write(content)


@contextlib.contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskError(
                f"no space left for '{path}'; the finished batches are saved: make room and run the same command"
            ) from error
        raise DiskError(f"cannot write to '{path}': {error.strerror or error}; choose another --out") from error


def _as_tensors(images: Images) -> dict[str, np.ndarray[Any, Any]]:
    return {name: np.ascontiguousarray(values) for name, values in images._asdict().items()}


def _from_tensors(tensors: Mapping[str, np.ndarray[Any, Any]]) -> Images:
    sample, step = tensors["sample"], tensors["step"]
    if ((np.diff(sample) > 0) | ((np.diff(sample) == 0) & (np.diff(step) >= 0))).all():
        return Images(**{name: tensors[name] for name in Images._fields})
    order = np.lexsort((step, sample))
    return Images(**{name: tensors[name][order] for name in Images._fields})


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
