"""The ledger of κ: its parts add up, and its medians are those of an independent computation."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

import flatlens as fl
from flatlens.errors import LayerError, SpecError
from flatlens.records.ledger import CONFIDENCE, DISPERSION, FEATURES, PARTS, WHOLE, ledger, ledgers


@pytest.fixture(scope="module")
def trace() -> fl.Trace:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fl.CautionWarning)
        data = fl.datasets.load("flatlens:digits").take(range(25))
        return fl.trace(
            "flatlens:digits-cnn", torch.from_numpy(data.x), torch.from_numpy(data.y),
            attack=fl.attacks.PGD(eps=0.3, steps=8), controls=["line-to-other-class"], layers=["head", "conv2"],
        )  # fmt: skip


def changed(trace: fl.Trace, column: str, row: int, value: float) -> fl.Trace:
    values = trace.layers[column].to_numpy().copy()
    values[row] = value
    at = trace.layers.schema.get_field_index(column)
    return replace(trace, layers=trace.layers.set_column(at, trace.layers.schema.field(at), pa.array(values)))


@pytest.mark.parametrize("layer", ["head", "conv2"])
def test_the_parts_add_up(trace: fl.Trace, layer: str) -> None:
    for found in ledgers(trace, layer=layer).values():
        for move in (found.rise, found.fall, found.steps):
            total = move(WHOLE)
            assert np.isfinite(total).all()
            np.testing.assert_allclose(sum(move(part) for part in PARTS), total, rtol=0, atol=1e-12)
        # All steps together are the whole way.
        way = found.rise(WHOLE) + found.fall(WHOLE)
        np.testing.assert_allclose(found.steps(WHOLE).sum(1), way, atol=1e-12)


def test_it_is_what_the_table_says(trace: fl.Trace) -> None:
    found = ledger(trace, path="line-to-other-class")
    kappa, c, a = (trace.matrix(n, path=found.path, layer="head").values for n in (WHOLE, CONFIDENCE, FEATURES))
    peak, rows = kappa.argmax(1), np.arange(len(kappa))
    assert found.peak_step.tolist() == peak.tolist()
    for part, values in ((WHOLE, kappa), (CONFIDENCE, c), (FEATURES, a), (DISPERSION, kappa / (c * a))):
        rise = np.log10(values[rows, peak] / values[:, 0])
        fall = np.log10(values[:, -1] / values[rows, peak])
        np.testing.assert_allclose(found.rise(part), rise, atol=1e-12)
        moves = found.moves()[part]
        assert moves.rise.value == pytest.approx(np.median(rise), abs=1e-12) and moves.rise.n == 25
        assert moves.fall.value == pytest.approx(np.median(fall), abs=1e-12)
        among = np.arange(25) < 9
        assert found.moves(among)[part].fall.value == pytest.approx(np.median(fall[:9]), abs=1e-12)
        bands = found.step_bands()[part]
        assert bands.position.tolist() == list(range(1, 9))
        np.testing.assert_allclose(bands.median, np.median(np.diff(np.log10(values), axis=1), axis=0), atol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0])
@pytest.mark.parametrize("column", [WHOLE, CONFIDENCE, FEATURES])
def test_what_has_no_logarithm_is_left_out(trace: fl.Trace, column: str, value: float) -> None:
    found = ledger(changed(trace, column, 0, value))
    assert all(np.isnan(found.decades[part][0, 0]) for part in (WHOLE, *PARTS))
    assert np.isfinite(found.decades[WHOLE][1:]).all()
    assert found.moves()[CONFIDENCE].rise.n == 24


def test_a_subnormal_confidence_overflows_nothing(trace: fl.Trace) -> None:
    found = ledger(changed(changed(trace, CONFIDENCE, 0, 5e-324), WHOLE, 0, 1e-320))
    assert found.decades[DISPERSION][0, 0] == pytest.approx(
        np.log10(1e-320) - np.log10(5e-324) - found.decades[FEATURES][0, 0]
    )


def test_it_refuses_what_there_is_not(trace: fl.Trace) -> None:
    with pytest.raises(SpecError, match="no path"):
        ledger(trace, path="line")
    with pytest.raises(LayerError, match="no layer"):
        ledger(trace, layer="fx")
