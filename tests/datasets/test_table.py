"""``table:``: columns as numbers, whatever the file's form, and one line for a table that cannot be."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from flatlens import datasets
from flatlens.datasets.table import regression
from flatlens.errors import DataError

COLUMNS = {
    "id": [10, 11, 12, 13],
    "size": [2.5, None, 4.5, 10.0],
    "old": [True, False, True, True],
    "zone": ["RL", "FV", None, "RL"],
    "price": [1.5, 2.0, 4.0, 8.0],
    "kind": [0, 2, 1, 1],
}


@pytest.fixture(params=["csv", "parquet"])
def file(request, tmp_path):
    return written(tmp_path / f"houses.{request.param}", COLUMNS)


def written(path, columns):
    table = pa.table(columns)
    (pq.write_table if path.suffix == ".parquet" else pyarrow.csv.write_csv)(table, path)
    return path


def test_numbers_stay_empty_ones_become_the_median_and_text_its_place(file):
    found = regression(f"table:{file}?target=price&without=id,kind")
    assert found.names == ("size", "old", "zone") and found.target == "price"
    np.testing.assert_array_equal(found.x, [[2.5, 1, 2], [4.5, 0, 1], [4.5, 1, 0], [10, 1, 2]])
    np.testing.assert_array_equal(found.y, COLUMNS["price"])
    assert found.x.dtype == found.y.dtype == np.float64


def test_whole_targets_are_labels(file):
    found = datasets.load(f"table:{file}?target=kind&without=price")
    assert (found.classes, found.shape, found.y.tolist()) == (3, (4,), COLUMNS["kind"])
    with pytest.raises(DataError, match="target 'price' of .* is no class label .* only condition and immunize"):
        datasets.load(f"table:{file}?target=price")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("", r"has no target; it has the columns id, size, .*; add \?target=COLUMN$"),
        ("?target=prise", "no column 'prise'; .* Did you mean 'price'"),
        ("?target=price&without=idd", "no column 'idd'; .* Did you mean 'id'"),
        ("?target=zone", "the target column 'zone' .* is string; a target needs to be a number$"),
        ("?target=size", "the target column 'size' .* is empty or not finite in 1 rows; remove them$"),
        ("?targets=price", "no option 'targets'"),
        ("?target=price&without=id,size,old,zone,kind", "no columns beside the target"),
    ],
)
def test_a_column_that_cannot_be_is_one_line(file, options, said):
    with pytest.raises(DataError, match=said):
        regression(f"table:{file}{options}")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"a": [1.0, np.inf], "y": [1, 2]}, "column 'a' .* holds infinite values"),
        ({"a": pa.array([None, None], pa.float64()), "y": [1, 2]}, "column 'a' .* is empty; leave it out"),
        ({"a": [[1], [2]], "y": [1, 2]}, r"column 'a' .* is list<.*>; needs numbers or text, or \?without=a"),
        ({"a": pa.array([], pa.float64()), "y": pa.array([], pa.float64())}, "is empty; at least one row"),
    ],
)
def test_a_table_that_cannot_be_is_one_line(columns, said, tmp_path):
    with pytest.raises(DataError, match=said):
        regression(f"table:{written(tmp_path / 'some.parquet', columns)}?target=y")


@pytest.mark.parametrize("name", ["missing.csv", "broken.parquet", "broken.csv", "twice.csv"])
def test_a_file_that_cannot_be_is_one_line(name, tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    (tmp_path / "broken.csv").write_text("a,b\n1\n")
    (tmp_path / "twice.csv").write_text("a,a,y\n1,2,3\n")
    with pytest.raises(DataError) as error:
        regression(f"table:{tmp_path / name}?target=y")
    assert "\n" not in str(error.value) and name in str(error.value)
    with pytest.raises(DataError, match="is a folder; name a file in it"):
        regression(f"table:{tmp_path}?target=y")
