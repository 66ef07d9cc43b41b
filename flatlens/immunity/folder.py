"""The folder of an immunization: its result, or how far an interrupted search has come.

Its files are listed in `flatlens.records.immunized`, which reads them without torch.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load, save

from flatlens.errors import RunError
from flatlens.files import borders
from flatlens.files.atomic import disk, write_file, write_json
from flatlens.files.sealing import file_sha256
from flatlens.immunity.ceiling import Ratios
from flatlens.immunity.climbing import Place
from flatlens.immunity.result import Change, Immunized
from flatlens.records.claims import claimed
from flatlens.records.immunized import FILES, SUMMARY, THETA, TRIALS, UNFINISHED
from flatlens.records.immunized import read as read
from flatlens.records.schema import Caution

TABLES = ("history", "attackers", "finetuning")
FINE_TUNING = "fine_tuning"
"""Where a summary tells of it."""
SCHEMA_VERSION = 1
EVERY = 20
"""Steps after which places are kept."""


class Kept:
    """A folder that somebody is at work on.

    Args:
        path: the folder.
        identity: what the result is of: settings and hashes.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path: Path = path
        self.identity: dict[str, Any] = identity

    def walked(self) -> list[Place] | None:
        """The places of a search that was interrupted, or None: of other features, damaged, or none at all."""
        try:
            with np.load(io.BytesIO((self.path / UNFINISHED).read_bytes()), allow_pickle=False) as kept:
                if str(kept["identity"]) != repr(self.identity):
                    return None
                rows = kept["rows"].tolist()
                # θ of earlier places is not needed again: a step depends on the last one alone.
                return [Place(int(row[0]), kept["theta"], row[1], Ratios(*row[2:])) for row in rows]
        except Exception:  # a damaged archive raises whatever its bytes provoke; the search begins anew
            return None

    def keep(self, walked: list[Place]) -> None:
        """Keep how far a search has come, every few steps."""
        if walked[-1].step % EVERY:
            return
        content = io.BytesIO()
        rows = np.array([(place.step, place.eta, *place.reached) for place in walked])
        np.savez(content, theta=walked[-1].theta, rows=rows, identity=np.array(repr(self.identity)))
        with disk(self.path):
            write_file(self.path / UNFINISHED, content.getvalue())

    def finish(
        self, found: Immunized, about: Mapping[str, Any] | None = None, data: Mapping[str, Any] | None = None
    ) -> Immunized:
        """Write a result, the summary last, and return it.

        Args:
            found: the result.
            about: the model that the features are of: ``layer``, and whatever else is to be known of it.
            data: what the data of each task are called, where they have names.
        """
        layer = {"layer": about["layer"]} if about else None
        with disk(self.path):
            write_file(self.path / THETA, save({"theta": np.ascontiguousarray(found.theta)}, layer))
            files = [THETA]
            for name in TABLES:
                if (table := getattr(found, name)) is not None:
                    write_file(self.path / f"{name}.parquet", _parquet(table))
                    files.append(f"{name}.parquet")
            sums = {name: file_sha256(self.path / name) for name in files}
            told = {
                "schema_version": SCHEMA_VERSION,
                "asked": self.identity,
                **found.to_dict(),
                "model": about,
                "data": data,
                "files": sums,
            }
            write_json(self.path / SUMMARY, told)
            (self.path / UNFINISHED).unlink(missing_ok=True)
        return found

    def fine_tuning(self, epochs: int) -> bool:
        """Whether a fine-tuning of so many epochs is there.

        Raises:
            RunError: one of another number is.
        """
        there = read(self.path).get(FINE_TUNING)
        if there is not None and there["epochs"] != epochs:
            raise RunError(
                f"'{self.path}' holds a fine-tuning of {there['epochs']} epochs, not {epochs}; name another folder "
                "with --out, or replace it with --force"
            )
        return there is not None

    def add_fine_tuning(self, table: pa.Table, about: Mapping[str, Any]) -> None:
        """Write a fine-tuning beside a finished result.

        Args:
            table: its rows.
            about: what the summary tells of it.
        """
        file = self.path / "finetuning.parquet"
        with disk(self.path):
            write_file(file, _parquet(table))
            told = borders.read_json(self.path / SUMMARY) | {FINE_TUNING: dict(about)}
            told["files"][file.name] = file_sha256(file)
            write_json(self.path / SUMMARY, told)
            (self.path / TRIALS).unlink(missing_ok=True)

    def result(self) -> Immunized | None:
        """The finished result; None where there is none."""
        if not (self.path / SUMMARY).exists():
            return None
        told = read(self.path)
        there = {name: self.path / f"{name}.parquet" for name in TABLES}
        tables: dict[str, Any] = {
            name: pq.read_table(file) if file.name in told["files"] else None for name, file in there.items()
        }
        held = told["heldout"]
        plain: dict[str, Any] = {
            name: told[name] for name in ("method", "i", "ii", "rir", "bound", "stop", "steps", "ridge")
        }
        return Immunized(
            **plain,
            harmful=Change(**told["harmful"]),
            primary=Change(**told["primary"]),
            **tables,
            theta=load((self.path / THETA).read_bytes())["theta"],
            heldout=None if held is None else Ratios(**held),
            samples=tuple(told["samples"]),
            cautions=tuple(Caution(**caution) for caution in told["cautions"]),
        )


@contextlib.contextmanager
def opened(path: str | Path, identity: dict[str, Any], *, force: bool = False) -> Iterator[Kept]:
    """A result's folder, which is made if need be, for the only process that works on it.

    Yields:
        What keeps places and the result in it.

    Raises:
        RunError: it holds other files, or the result of other features or settings.
    """
    place = Path(path)
    _demand_own(place)
    with claimed(place):
        if force:
            with disk(place):
                for name in FILES:
                    (place / name).unlink(missing_ok=True)
        elif (place / SUMMARY).exists():
            asked = read(place).get("asked", {})
            if differing := [key for key in identity if asked.get(key) != identity[key]]:
                key = differing[0]
                raise RunError(
                    f"'{place}' holds a result with {key} {asked.get(key)}, not {identity[key]}; name another folder "
                    "with --out, or replace it with --force"
                )
        yield Kept(place, identity)


def _demand_own(place: Path) -> None:
    if place.exists() and not place.is_dir():
        raise RunError(f"--out '{place}' is a file; name a folder")
    others = [] if not place.exists() else sorted(e.name for e in place.iterdir() if not e.name.startswith("."))
    foreign = [name for name in others if name not in FILES and name != "model.safetensors"]
    if foreign:
        raise RunError(f"--out '{place}' holds other files ('{foreign[0]}'); name another folder, or an empty one")


def _parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()
