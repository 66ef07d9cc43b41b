"""`Trace`: what was measured along a path, in two Arrow tables.

A row of ``steps`` is one sample at one step of one path; a row of ``layers`` is the same for one layer.
Nothing here needs torch: a trace can be read and drawn on a machine that has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flatlens.errors import LayerError, RunError, SpecError, unknown
from flatlens.records import texts
from flatlens.records.matrices import Index
from flatlens.records.prompts import AtStep
from flatlens.records.schema import ATTACK, BEST, DISCRETE, MEASURES, Caution, Embeddings, Gradients, Images
from flatlens.records.surfaces import Surfaces
from flatlens.records.texts import Matched
from flatlens.records.valley import TAU, Valley, judge
from flatlens.wording import told

if TYPE_CHECKING:
    import pandas as pd


class Matrix(NamedTuple):
    """One column of a table as ``values`` ``[n, T+1]``, with the samples' ids ``[n]``."""

    sample: NDArray[np.int64]
    values: NDArray[Any]


@dataclass(frozen=True, repr=False)
class Trace:
    """The trajectory of every sample: two tables, and what made them.

    Attributes:
        steps: the table of `STEPS`; rows of a batch stand together, ordered by path, restart, sample,
            step; a best point follows the path's end, the text that a relaxed point is rounded to that point.
        layers: the table of `LAYERS`, in the same order, then by layer.
        spec: the resolved specification, by the names of the command line's flags.
        cautions: what a reader must know before believing the numbers.
        images: inputs at the chosen steps, or None.
        labels: names of the classes, or None.
        manifest: what is known of how it was made (versions, hashes, timings).
        spectrum: the table of `SPECTRUM`, where it was asked for.
        gradients: the attack's gradient at clean, flip, peak and end, where inputs are kept.
        surfaces: κ and the loss of a few samples on planes of inputs and weights, where they were asked for.
        peers: the table of `PEERS`, where it was asked for.
        positions: of a language model, the table of `POSITIONS`.
        tokens: of a language model, the table of `TOKENS`.
        prompts: of a language model, its prompts with their tokens and what these look like; see `prompt`.
        condition: the table of `CONDITION`, where it was asked for.
        embeddings: of a soft attack on a language model, the slot at clean, flip, peak and end.
    """

    steps: pa.Table
    layers: pa.Table
    spec: Mapping[str, Any]
    cautions: tuple[Caution, ...] = ()
    images: Images | None = None
    labels: tuple[str, ...] | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)
    spectrum: pa.Table | None = None
    gradients: Gradients | None = None
    surfaces: Surfaces | None = None
    peers: pa.Table | None = None
    positions: pa.Table | None = None
    tokens: pa.Table | None = None
    prompts: tuple[Mapping[str, Any], ...] | None = None
    embeddings: Embeddings | None = None
    condition: pa.Table | None = None

    @property
    def of_language(self) -> bool:
        """Whether it is of a language model: samples are prompts, and there are no labels."""
        return self.prompts is not None

    def right_at_start(self, path: str = ATTACK) -> NDArray[np.bool_]:
        """Which are classified as labelled at the clean input, ``[n]``; of language models, which are not flipped."""
        if self.of_language:
            return np.asarray(~self.matrix("flipped", path=path).values[:, 0].astype(bool))
        prediction, label = (self.matrix(name, path=path).values[:, 0] for name in ("prediction", "label"))
        return np.asarray(prediction == label)

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """The paths in this trace: the attack first, then its controls."""
        found = pc.unique(self.steps["path"]).to_pylist()
        return tuple(sorted(found, key=lambda p: (p != ATTACK, found.index(p))))

    @cached_property
    def restarts(self) -> int:
        """How many runs of the attack there are, each a path of its own; a control has one."""
        return int(pc.max(self.steps["restart"]).as_py() or 0) + 1

    @cached_property
    def layer_names(self) -> tuple[str, ...]:
        """The probed layers, in the order in which they were asked for."""
        return tuple(pc.unique(self.layers["layer"]).to_pylist())

    @property
    def x_adv(self) -> NDArray[np.float32]:
        """What the attack has found, ``[n, …]``, in the order of the samples.

        The ends of the paths; the best points of an attack that keeps them (APGD, DDN); over several runs, for each
        sample the one that flips it, or else that of the highest loss. See `result` for what the model says there.

        Raises:
            RunError: the trace was made with ``images = none``.
        """
        if self.images is None:
            raise RunError("this trace holds no inputs (images = 'none'); run it with --images key")
        last = np.append(self.images.sample[1:] != self.images.sample[:-1], True)
        return self.images.x[last]

    def to_pandas(self, table: str = "steps") -> pd.DataFrame:
        """``"steps"`` or ``"layers"`` as a pandas DataFrame (needs pandas)."""
        if table not in ("steps", "layers"):
            raise SpecError(unknown("table", table, ("steps", "layers"), where="a trace has"))
        try:
            frame = getattr(self, table).to_pandas()
        except ModuleNotFoundError as error:
            raise RunError("to_pandas needs pandas: pip install 'flatlens[pandas]'") from error
        return frame

    def matrix(
        self,
        column: str,
        *,
        path: str = ATTACK,
        layer: str | None = None,
        kind: str | None = None,
        restart: int = 0,
    ) -> Matrix:
        """One column as a matrix of samples × steps.

        Where a path is shorter than the longest, numbers are NaN beyond its end; labels, predictions and flags,
        which have no NaN, keep their last value.

        Args:
            column: a column of ``steps``, or of ``layers`` when ``layer`` is given or needed.
            path: ``"attack"`` or the name of a control.
            layer: the layer, for columns of ``layers``; the first one when left out.
            kind: which rows: ``iterate``, ``best``, ``returned`` or ``discrete``; when left out the whole path, which
                is the iterates and, where a library returned a point of its own, that point as the end.
            restart: which run of the attack, counted from 0; the controls have one.

        Raises:
            SpecError: there is no such path or column, or it holds text.
            LayerError: there is no such layer.
        """
        if path not in self.paths:
            raise SpecError(unknown("path", path, self.paths, where="this trace has"))
        in_steps = column in self.steps.column_names and layer is None
        if not in_steps and column not in self.layers.column_names:
            known = [*self.steps.column_names[5:], *self.layers.column_names[6:]]
            raise SpecError(unknown("measure", column, known))
        held = (self.steps if in_steps else self.layers).schema.field(column).type
        if pa.types.is_string(held) or pa.types.is_dictionary(held):
            raise SpecError(f"column '{column}' holds text, which has no matrix; to_pandas() has it")
        if in_steps:
            return Matrix(*self._indexed_steps.matrix(column, path=path, restart=restart, kind=kind))
        layer = layer or self.layer_names[0]
        if layer not in self.layer_names:
            raise LayerError(unknown("layer", layer, self.layer_names, where="this trace has"))
        return Matrix(*self._indexed_layers.matrix(column, path=path, restart=restart, kind=kind, layer=layer))

    @cached_property
    def _indexed_steps(self) -> Index:
        return Index(self.steps)

    @cached_property
    def _indexed_layers(self) -> Index:
        return Index(self.layers)

    def last_steps(self, *, path: str = ATTACK, restart: int = 0) -> NDArray[np.int64]:
        """Each sample's last step ``[n]``, in the order of their ids; they differ where an attack stops early."""
        steps = self.matrix("step", path=path, restart=restart).values
        return np.asarray(steps[:, -1], dtype=np.int64)

    def result(self, column: str, *, path: str = ATTACK) -> NDArray[Any]:
        """A column of ``steps`` at what the attack has found (`x_adv`), ``[n]``, in the order of the samples' ids.

        That is each sample's best point where the attack keeps one, otherwise the last one of its path: where tokens
        are relaxed, the text that it is rounded to.

        Raises:
            SpecError: there is no such column.
        """
        if column not in self.steps.column_names:
            raise SpecError(unknown("measure", column, self.steps.column_names[5:]))
        rows, ends, sample = self._ends(path)
        flipped, loss = (rows[name].to_numpy(zero_copy_only=False)[ends] for name in ("flipped", "loss"))
        # A loss that is not finite never wins; among equals the first run.
        loss = np.where(np.isnan(loss), -np.inf, loss)
        order = np.lexsort((np.arange(len(ends)), -loss, ~flipped.astype(bool), sample))
        first = np.append(True, np.diff(sample[order]) != 0)
        return np.asarray(rows[column].to_numpy(zero_copy_only=False)[ends[order[first]]])

    def ends(self, column: str, *, path: str = ATTACK) -> NDArray[Any]:
        """A column of ``steps`` at what each run of the attack has found, ``[n, restarts]``; see `result`."""
        rows, ends, sample = self._ends(path)
        values = rows[column].to_numpy(zero_copy_only=False)[ends]
        return np.asarray(values.reshape(len(np.unique(sample)), -1))

    def _ends(self, path: str) -> tuple[pa.Table, NDArray[np.intp], NDArray[np.int64]]:
        """The rows of a path; where among them each run's result is (its best point, or its last); and its sample."""
        rows = self.steps.filter(pc.equal(self.steps["path"], path))
        sample, step, restart = (rows[name].to_numpy() for name in ("sample", "step", "restart"))
        best = pc.equal(rows["kind"], BEST).to_numpy()
        text = pc.equal(rows["kind"], DISCRETE).to_numpy()
        order = np.lexsort((~text, -step, ~best, restart, sample))
        head = np.append(True, (np.diff(sample[order]) != 0) | (np.diff(restart[order]) != 0))[: len(order)]
        return rows, order[head], sample[order[head]]

    def valley(
        self,
        measure: str = "relative_flatness",
        *,
        layer: str | None = None,
        path: str = ATTACK,
        tau: float = TAU,
        restart: int = 0,
    ) -> Valley:
        """Who flipped, who ran into a valley; ``.summary()`` gives fractions and medians with intervals.

        It is of the path, step by step, of one run of the attack; what all its runs found is in `result`.

        Args:
            measure: one of `MEASURES`.
            layer: the layer; the first one when left out.
            path: ``"attack"`` or the name of a control.
            tau: the end must lie at or below ``tau`` times the peak.
            restart: which run of the attack, counted from 0.

        Raises:
            SpecError: there is no such measure.
        """
        if measure not in MEASURES:
            raise SpecError(unknown("measure", measure, MEASURES))
        sharpness = self.matrix(measure, path=path, layer=layer or self.layer_names[0], restart=restart)
        flipped = self.matrix("flipped", path=path, restart=restart).values
        return judge(
            sharpness.values,
            flipped,
            sharpness.sample,
            correct=self.right_at_start(path),
            last=self.last_steps(path=path, restart=restart),
            tau=tau,
            cautions=tuple(map(told, self.cautions)),
        )

    def prompt(self, sample: int, step: int | str = "end", *, path: str = ATTACK) -> AtStep:
        """A language model's prompt at one step: its ``text``, its ``slot``, ``ids`` and ``pieces``.

        Where the attack relaxes tokens it is the text that the step is rounded to.

        Args:
            sample: its number in the data.
            step: a number, or ``"clean"``, ``"flip"``, ``"peak"`` or ``"end"``.
            path: ``"attack"`` or a control.

        Raises:
            RunError: the trace is of images.
            SpecError: there is no such sample or step.
        """
        return texts.prompt(self, sample, step, path)

    def matched(self, loss: float, *, paths: Sequence[str] | None = None) -> dict[str, Matched]:
        """κ of each path where its loss first falls to ``loss`` nats or below: paths compared at equal loss.

        Args:
            loss: in nats, above 0.
            paths: of which; all when left out.

        Returns:
            for each path how many of the samples came so far, κ's median with its interval over these, and the values
            ``kappa``, ``sample`` and ``step``.
        """
        return texts.matched(self, loss, paths)

    def report(self, file: str | Path = "report.html") -> Path:
        """Draw the trace as one self-contained page and return where it is."""
        from flatlens.report import of_trace

        return of_trace.write(self, Path(file))

    def view(self, *, height: int = 900) -> Any:
        """The page of the trace, to play with in a notebook: an object that the notebook shows.

        Args:
            height: of its frame in px.
        """
        from flatlens.report import of_trace

        return of_trace.framed(self, height)

    def _repr_html_(self) -> str:
        """What a notebook shows of it: the picture and the paths' table, without any program."""
        from flatlens.report import of_trace

        return of_trace.still(self)

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write the trace into a new folder as a finished run, with its report, and return where it is.

        ``fl.open`` and the commands ``report``, ``status`` and ``export`` take it; what came as an object, a model for
        example, bears a name there that cannot be loaded.

        Args:
            folder: a new or an empty one.
            force: replace the run that is there.

        Raises:
            RunError: the folder holds something already.
        """
        from flatlens.records import saving

        return saving.save(self, folder, force=force)

    def with_cautions(self, cautions: tuple[Caution, ...]) -> Trace:
        """The same trace with these cautions."""
        return replace(self, cautions=cautions)

    def __repr__(self) -> str:
        """Its cautions first, then what it is of: the tables themselves are ``steps`` and ``layers``."""
        what = " on ".join(str(self.spec[key]) for key in ("attack", "model") if key in self.spec) or "a path"
        samples = pc.count_distinct(self.steps["sample"]).as_py()
        steps = int(pc.max(self.steps["step"]).as_py() or 0)
        those = ("prompt" if self.of_language else "sample") + "s" * (samples != 1)
        long = f"{steps} step" + "s" * (steps != 1)
        said = f"Trace({what}: {samples} {those}, {long}, layers {', '.join(self.layer_names) or 'none'}"
        beside = [path for path in self.paths if path != ATTACK]
        more = f", {self.restarts} restarts" * (self.restarts > 1) + f", controls {', '.join(beside)}" * bool(beside)
        return "\n".join([*(f"Caution: {told(caution)}" for caution in self.cautions), f"{said}{more})"])
