"""What those who measure and those who read agree on: columns, kinds of rows, status, versions. No torch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

SCHEMA_VERSION = 1
"""Raised when an older flatlens could no longer read a run. New columns are no such change: it does not look at them,
and where a run has not got them they are read as null (`fitting`)."""
MEASUREMENT_VERSION = 2
"""Raised when the numbers change for the same specification: what was measured before is then computed anew."""

ATTACK = "attack"
"""The value of ``path`` for the attack itself; a control bears its own name."""

ITERATE, BEST, RETURNED, DISCRETE = "iterate", "best", "returned", "discrete"
"""The ``kind`` of a row: a point of the path; the attack's best point once more, after the path; the point that a
library returned, which is the path's end; or, of the same step as the row before, the text that a relaxed point of
a language model's attack is rounded to."""
BESIDE = (BEST, DISCRETE)
"""Kinds of rows that are no step of the path; they bear the step of a row that is one, which no matrix of samples ×
steps holds them in place of."""
OK, NOT_FINITE = "ok", "not finite"
"""The ``status`` of a row of ``layers``."""

_KEY = [
    ("path", pa.string()),
    ("restart", pa.int32()),
    ("sample", pa.int64()),
    ("step", pa.int32()),
    ("kind", pa.string()),
]
STEPS = pa.schema(
    [
        *_KEY,
        ("label", pa.int32()),
        ("target", pa.int32()),
        ("prediction", pa.int32()),
        ("flipped", pa.bool_()),
        ("loss", pa.float64()),
        ("confidence", pa.float64()),
        ("margin", pa.float64()),
        # The largest logit minus the second: the margin of whatever is predicted, whatever the label.
        ("gap", pa.float64()),
        ("entropy", pa.float64()),
        ("linf", pa.float64()),
        ("l2", pa.float64()),
        # Only at the attack's last step: a fresh pass of the user's own, unfolded model predicts the same.
        ("confirmed", pa.bool_()),
        ("input_grad_norm", pa.float64()),
        ("grad_zero_share", pa.float64()),
        ("grad_cosine", pa.float64()),
        ("dead_share", pa.float64()),
        # Second and third derivative of the loss along the step that led here, in nats per step² and step³.
        ("path_second", pa.float64()),
        ("path_third", pa.float64()),
        # Of language models: how many of the target's tokens greedy decoding gives; how many of the slot's tokens are
        # not those of the start; the slot's own mean negative log-likelihood, in nats; how much higher the loss of the
        # rounded text is than that of the relaxed point; whether the whole prompt's text gives its tokens back.
        ("matched", pa.int32()),
        ("edits", pa.int32()),
        ("slot_nll", pa.float64()),
        ("relaxed_gap", pa.float64()),
        ("retokenises", pa.bool_()),
    ]
)
SOMETIMES = ("edits", "slot_nll", "relaxed_gap", "retokenises")
"""Columns of ``steps`` that some rows of a path have, and others have not: of slots that are text, null elsewhere."""
GGN_ONLY = ("gauss-newton", "fisher-sampled")
"""Methods that know of the Hessian its Gauss–Newton part alone: ``ggn_trace``; the other measures are NaN."""
LAYERS = pa.schema(
    [
        *_KEY,
        ("layer", pa.string()),
        ("method", pa.string()),
        ("exact", pa.bool_()),
        ("status", pa.string()),
        ("trace", pa.float64()),
        ("trace_se", pa.float64()),
        ("ggn_trace", pa.float64()),
        ("top_eigenvalue", pa.float64()),
        ("relative_flatness", pa.float64()),
        ("relative_flatness_se", pa.float64()),
        ("relative_sharpness", pa.float64()),
        ("weight_norm", pa.float64()),
        ("feature_norm_sq", pa.float64()),
        ("confidence_term", pa.float64()),
        # κ / (c · gap²): what is left of κ once the confidence and the scale of the logits are taken out.
        ("scale_free", pa.float64()),
        ("weight_grad_norm", pa.float64()),
        ("effective_rank", pa.float64()),
        # Of the layer's inputs, how many are exactly 0: behind a ReLU, the units that pass no gradient.
        ("zero_inputs", pa.float64()),
        # The head's alone: bounds of the loss's change since the clean input, that change, and how far the head's
        # input has moved.
        ("certificate_bound_kappa", pa.float64()),
        ("certificate_bound_eigenvalue", pa.float64()),
        ("loss_change", pa.float64()),
        ("feature_distance", pa.float64()),
    ]
)


class Table(NamedTuple):
    """A table of measured numbers: its columns, and which of them tells the rows of one pass of a sample apart."""

    schema: pa.Schema
    key: str | None = None


TABLES = {"steps": Table(STEPS), "layers": Table(LAYERS, "layer")}
"""What is measured of each pass, by the name of its file."""

POSITIONS = pa.schema(
    [
        *_KEY,
        ("position", pa.int32()),
        ("token", pa.int32()),
        ("piece", pa.string()),
        ("nll", pa.float64()),
        # 0 where greedy decoding gives the target's token.
        ("rank_of_target", pa.int32()),
        # What greedy decoding gives there, and what it looks like.
        ("greedy", pa.int32()),
        ("greedy_piece", pa.string()),
        ("margin", pa.float64()),
        ("confidence_term", pa.float64()),
        ("feature_norm_sq", pa.float64()),
        ("weight_variance", pa.float64()),
        ("trace", pa.float64()),
        ("relative_flatness", pa.float64()),
        ("top_eigenvalue", pa.float64()),
    ]
)
"""The head's curvature at each position of a language model's target; ``layers`` holds their mean."""
TOKENS = pa.schema(
    [
        *_KEY,
        ("slot", pa.int32()),
        # Of a slot that is no text: the nearest one, and its distance in mean norms of the embedding's rows.
        ("token", pa.int32()),
        ("piece", pa.string()),
        ("nearest_distance", pa.float64()),
        ("changed", pa.bool_()),
        # Of the attack's gradient by this token's embedding: its norm, and its product with the embedding.
        ("grad_norm", pa.float64()),
        ("grad_dot", pa.float64()),
    ]
)
"""The tokens of a language model's slot."""
TEXT_TABLES = {"positions": Table(POSITIONS, "position"), "tokens": Table(TOKENS, "slot")}
"""What is measured beside `TABLES` of a language model."""

KEY = tuple(name for name, _ in _KEY)
"""What a row of ``steps`` is of; a row of ``layers`` is of a layer, too."""

SPECTRUM = pa.schema(
    [("at", pa.string()), ("eigenvalue", pa.float64()), ("weight", pa.float64()), ("samples", pa.int32())]
)
"""Spectral density of the whole network: weights at eigenvalues, at ``clean``, ``flip`` and ``end``."""

PEERS = pa.schema(
    [
        ("sample", pa.int64()),
        ("at", pa.string()),
        ("step", pa.int32()),
        ("layer", pa.string()),
        ("method", pa.string()),
        ("exact", pa.bool_()),
        ("trace", pa.float64()),
        ("trace_se", pa.float64()),
        ("top_eigenvalue", pa.float64()),
        ("peer_trace", pa.float64()),
        ("peer_trace_se", pa.float64()),
        ("peer_probes", pa.int32()),
        # Of largest modulus, which may be a negative one.
        ("peer_top_eigenvalue", pa.float64()),
    ]
)
"""What PyHessian says of one layer and single samples, at ``clean``, ``flip`` and ``end``, beside flatlens' numbers."""

CONDITION = pa.schema(
    [
        ("path", pa.string()),
        ("restart", pa.int32()),
        ("step", pa.int32()),
        ("n", pa.int64()),
        ("ridge", pa.float64()),
        ("condition_number", pa.float64()),
        ("effective", pa.float64()),
        ("rank", pa.int32()),
        ("lambda_max", pa.float64()),
        ("lambda_min", pa.float64()),
    ]
)
"""The Hessian of a linear probe on the head's features at each step, of all samples together. No κ of flatness."""
TRAINING = "training"
"""The value of ``path`` of a training, whose steps are epochs."""
CONDITION_EPOCHS = pa.schema(
    [
        CONDITION.field("path"),
        ("epoch", pa.int32()),
        *(CONDITION.field(name) for name in CONDITION.names[3:]),
    ]
)
"""The same at each epoch of a training, the untrained network's as epoch 0."""

MEASURES = {
    "relative_flatness": "κ, relative flatness (Petzka et al. 2021)",
    "trace": "Tr H, trace of the Hessian",
    "top_eigenvalue": "λ_max, largest eigenvalue of the Hessian",
    "relative_sharpness": "‖W‖² · Tr H, relative sharpness (Walter et al. 2025)",
    "ggn_trace": "Tr GGN, trace of the Gauss–Newton matrix",
}
"""What a valley can be looked for in: column of ``layers`` -> its name for people. High = sharp for all."""


class Caution(NamedTuple):
    """Something that makes an evaluation misleading: a short code, and one sentence with its figure."""

    code: str
    message: str


class Images(NamedTuple):
    """Inputs of the attack's path at chosen steps, ordered by sample, then step.

    Where the attack's result is not the last iterate of its first run (it keeps a best point, or was restarted), the
    result follows as one more entry at the last step.

    ``x`` ``[m, …]`` float32, ``sample`` ``[m]``, ``step`` ``[m]``, ``probabilities`` ``[m, K]`` float32.
    """

    x: NDArray[np.float32]
    sample: NDArray[np.int64]
    step: NDArray[np.int32]
    probabilities: NDArray[np.float32]


class Gradients(NamedTuple):
    """What the attack looks at: its gradient by the input at clean, flip, peak and end, by sample, then step.

    ``values`` ``[m, …]`` float32, ``sample`` ``[m]``, ``step`` ``[m]``, ``own`` ``[m]``: 1 where it is of the attack's
    own objective, as the attack took it; 0 where it took none, and the gradient is the loss's.
    """

    values: NDArray[np.float32]
    sample: NDArray[np.int64]
    step: NDArray[np.int32]
    own: NDArray[np.uint8]


class Embeddings(NamedTuple):
    """A language model's slot where it is no text, at clean, flip, peak and end, by sample, then step.

    ``x`` ``[m, S, d]`` float32, ``sample`` ``[m]``, ``step`` ``[m]``.
    """

    x: NDArray[np.float32]
    sample: NDArray[np.int64]
    step: NDArray[np.int32]
