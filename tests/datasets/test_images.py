"""Data that are images: folders, tables of encoded bytes, data sets of torchvision; and every way to be wrong."""

from __future__ import annotations

import io
import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flatlens import datasets
from flatlens.errors import DataError
from flatlens.measure import run as execute
from flatlens.specs.run import RunSpec
from tests.assets import package
from tests.expected import cautioned

Image = package("PIL.Image", "pip install pillow")
RANDOM = np.random.default_rng(0)


def refused(uri: str) -> str:
    with pytest.raises(DataError) as caught:
        datasets.load(uri)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pixels(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def encoded(array: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind)
    return stream.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header says that it is huge."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


# ---- folders ------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Two images of cats, one of a dog, and none of an emu: 6 × 5 pixels, in colour."""
    root = tmp_path / "images"
    for name in ("cat", "dog", "emu", ".hidden"):
        (root / name).mkdir(parents=True)
    (root / "cat" / "notes.txt").write_text("no image")
    (root / "cat" / "more").mkdir()
    for name in ("cat/a.png", "cat/more/b.PNG", "dog/c.bmp", ".hidden/d.png"):
        Image.fromarray(pixels(5, 6, 3)).save(root / name)
    return root


def test_a_folder_of_images(folder, tmp_path):
    data = datasets.load(f"imagefolder:{folder}")
    assert data.shape == (3, 5, 6) and data.labels == ("cat", "dog", "emu") and data.y.tolist() == [0, 0, 1]
    first = np.asarray(Image.open(folder / "cat" / "a.png"))
    assert np.array_equal(data.x[0], first.transpose(2, 0, 1).astype(np.float32) / np.float32(255))
    run = execute.run(RunSpec(model="flatlens:mlp?width=4", data=f"imagefolder:{folder}", steps=2), tmp_path / "run")
    assert run.manifest["labels"] == ["cat", "dog", "emu"]


def test_grey_images_have_one_channel(folder):
    for file in folder.rglob("*.*"):
        if file.is_file() and file.suffix != ".txt":
            Image.fromarray(pixels(5, 6)).save(file)
    assert datasets.load(f"imagefolder:{folder}").shape == (1, 5, 6)
    Image.fromarray(pixels(5, 6, 4)).save(folder / "cat" / "a.png")
    assert datasets.load(f"imagefolder:{folder}").shape == (3, 5, 6)


def test_a_folder_of_several_sizes(folder):
    Image.fromarray(pixels(8, 20, 3)).save(folder / "dog" / "c.bmp")
    assert refused(f"imagefolder:{folder}") == (
        f"'{folder}/dog/c.bmp' has 20 × 8 pixels and '{folder}/cat/a.png' 6 × 5; "
        f"make them alike with imagefolder:{folder}?size=5"
    )
    data = datasets.load(f"imagefolder:{folder}?size=4")
    assert data.shape == (3, 4, 4)
    whole = Image.open(folder / "dog" / "c.bmp").resize((10, 4), Image.Resampling.BICUBIC)
    assert np.allclose(data.x[2], np.asarray(whole).transpose(2, 0, 1)[:, :, 3:7] / 255)


def test_a_folder_without_images(tmp_path):
    assert refused(f"imagefolder:{tmp_path}/no").startswith(f"folder '{tmp_path}/no' is not there; imagefolder:FOLDER")
    assert refused("imagefolder:").startswith("folder '' ")
    Image.fromarray(pixels(5, 6)).save(tmp_path / "a.png")
    assert refused(f"imagefolder:{tmp_path}").startswith(f"folder '{tmp_path}' has no images; it needs one folder for")
    assert refused(f"imagefolder:{tmp_path}/a.png").startswith(f"folder '{tmp_path}/a.png' is a file; ")
    (tmp_path / "cat").mkdir()
    Image.fromarray(pixels(5, 6)).save(tmp_path / "cat" / "a.png")
    assert refused(f"imagefolder:{tmp_path}?size=0").startswith("size=0 in ")
    assert refused(f"imagefolder:{tmp_path}?sise=9").startswith("no option 'sise'; ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no image, or is damaged; needs one of: PNG, JPEG, "),
        (b"not an image", "is no image, or is damaged; needs one of: PNG, JPEG, "),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 5\n", "is no image, or is damaged; needs one of: "),
        (encoded(pixels(5, 6, 3))[:-40], "is damaged or cut off ("),
        (encoded(pixels(5, 6, 3), "JPEG")[:-20], "is damaged or cut off ("),
        (bomb(12_000, 9_000), "says that it has 12000 × 9000 pixels, as a decompression bomb does; at most 67,108,864"),
        (bomb(60_000, 60_000), "has far too many pixels, as a decompression bomb does; at most 67,108,864 are read"),
        (encoded(pixels(5, 6).astype(np.uint16)), "has more than 8 bits a channel; convert it, or give arrays by npz:"),
    ],
)
def test_an_image_that_cannot_be_read(folder, content, message):
    (folder / "dog" / "c.bmp").write_bytes(content)
    said = refused(f"imagefolder:{folder}")
    assert message in said and f"{folder}/dog/c.bmp" in said


def test_without_pillow(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert refused(f"imagefolder:{folder}") == "images need the package 'PIL': pip install 'flatlens[images]'"


# ---- tables of encoded images -------------------------------------------------------------------

FEATURES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog", "emu"]}}


def table(n: int = 4, features: bool = True, **columns: pa.Array) -> pa.Table:
    images = [{"bytes": encoded(pixels(5, 6, 3)), "path": None} for _ in range(n)]
    made = pa.table({"image": images, "label": pa.array([i % 2 for i in range(n)])} | columns)
    kept = {b"huggingface": json.dumps({"info": {"features": FEATURES}}).encode()}
    return made.replace_schema_metadata(kept if features else None)


def saved(folder: Path, made: pa.Table, names: tuple[str, ...] = ("data-00000-of-00001.arrow",)) -> Path:
    """As ``save_to_disk`` of datasets does."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        with (folder / name).open("wb") as file, pa.ipc.new_stream(file, made.schema) as writer:
            writer.write_table(made)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder


@cautioned("low-accuracy")
def test_a_folder_of_arrow_files(tmp_path):
    made = table()
    data = datasets.load(f"hf:{saved(tmp_path / 'a', made, ('one.arrow', 'two.arrow'))}")
    assert data.shape == (3, 5, 6) and data.y.tolist() == [0, 1, 0, 1] * 2 and data.labels == ("cat", "dog", "emu")
    first = np.asarray(Image.open(io.BytesIO(made["image"][0].as_py()["bytes"])))
    assert np.array_equal(data.x[0], first.transpose(2, 0, 1).astype(np.float32) / np.float32(255))
    plain = saved(tmp_path / "b", table(features=False))
    assert datasets.load(f"hf:{plain}").labels is None
    (plain / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))
    assert datasets.load(f"hf:{plain}").labels == ("cat", "dog", "emu")
    run = execute.run(RunSpec(model="flatlens:cnn?width=2", data=f"hf:{plain}", steps=2, limit=2), tmp_path / "run")
    assert run.manifest["labels"] == ["cat", "dog", "emu"]


def test_the_splits_of_a_folder(tmp_path):
    for i, split in enumerate(("test", "train")):
        saved(tmp_path / "a" / split, table(2 + i))
    assert refused(f"hf:{tmp_path}/a") == f"folder '{tmp_path}/a' has the splits test, train; add ?split=train"
    assert len(datasets.load(f"hf:{tmp_path}/a?split=test")) == 2
    assert refused(f"hf:{tmp_path}/a?split=tst").startswith("no split 'tst'; ")
    assert "leads out of the folder" in refused(f"hf:{tmp_path}/a?split=../a/test")


def test_a_folder_of_parquet_files(tmp_path):
    (tmp_path / "data").mkdir()
    for i, split in enumerate(("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")):
        pq.write_table(table(2 + i), tmp_path / "data" / f"{split}.parquet")
    assert len(datasets.load(f"hf:{tmp_path}?split=train")) == 5
    assert datasets.load(f"hf:{tmp_path}?split=test&size=3").shape == (3, 3, 3)
    assert refused(f"hf:{tmp_path}") == f"folder '{tmp_path}' has the splits test, train; add ?split=test"
    bare = table().select(["label"]).append_column("photo", pa.array([encoded(pixels(5, 6)) for _ in range(4)]))
    pq.write_table(bare, tmp_path / "all.parquet")
    assert datasets.load(f"hf:{tmp_path}?split=all&image=photo").shape == (1, 5, 6)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (table().drop_columns(["label"]), "has no label column; it has: image; name it: hf:"),
        (table().drop_columns(["image"]), "has no image column; it has: label; name it: hf:"),
        (table(label=pa.array(["a"] * 4)), "is string; labels are whole numbers"),
        (table(label=pa.array([1, None, 1, 0])), "has 1 empty labels; fill or remove them"),
        (table(label=pa.array([0, 1, 2, 3])), "has label 3 at index 3; labels go from 0 to 2, as 3 class names"),
        (table(label=pa.array([-1, 1, 2, 1])), "has label -1 at index 0; labels go from 0 to 2"),
        (table(image=pa.array([{"path": "/etc/passwd"}] * 4)), ", row 0 holds no bytes (a link to a file is not"),
        (table(image=pa.array([1, 2, 3, 4])), ", row 0 holds no bytes"),
        (
            table(image=pa.array([bomb(60_000, 60_000)] * 4)),
            ", row 0' has far too many pixels, as a decompression bomb",
        ),
        (table(image=pa.array([encoded(pixels(5, 6))[:-40]] * 4)), ", row 0' is damaged or cut off ("),
        (table(0, image=pa.array([], pa.binary()), label=pa.array([], pa.int64())), "is empty; at least one sample is"),
    ],
)
def test_a_wrong_table(tmp_path, made, message):
    assert message in refused(f"hf:{saved(tmp_path / 'a', made)}")


def test_a_folder_that_is_no_table(tmp_path):
    assert refused(f"hf:{tmp_path}/no").startswith(f"folder '{tmp_path}/no' is not there, and nothing is downloaded")
    assert refused(f"hf:{tmp_path}").startswith(f"folder '{tmp_path}' has no Arrow or Parquet files; save it with")
    root = saved(tmp_path / "a", table())
    file = root / "data-00000-of-00001.arrow"
    whole = file.read_bytes()
    for cut in (0, 9, len(whole) // 2):
        file.write_bytes(whole[:cut])
        assert refused(f"hf:{root}").startswith(f"'{file}' is no Arrow or Parquet file, or is damaged or cut off (")
    file.unlink()
    assert refused(f"hf:{root}").startswith(f"file '{file}' is not there, which 'state.json' names")
    for wrong in ("{", "[]", '{"_data_files": [{}]}', '{"_data_files": []}'):
        (root / "state.json").write_text(wrong)
        assert refused(f"hf:{root}").startswith(f"'{root}/state.json' lists no files")
    for path in ("../x.arrow", "/etc/passwd", "a/../../x", "C:\\x", "..\\x"):
        (root / "state.json").write_text(json.dumps({"_data_files": [{"filename": path}]}))
        assert refused(f"hf:{root}") == (
            f"'{root}/state.json' names the file {path!r}, which leads out of its folder; copy it again"
        )


# ---- torchvision --------------------------------------------------------------------------------


def test_wrong_names_for_torchvision(tmp_path):
    package("torchvision", "pip install --no-deps torchvision==0.28.0")
    assert refused("torchvision:MNST?root=/").startswith("no data of torchvision 'MNST'; there are: MNIST, Fash")
    assert refused("torchvision:MNIST") == "'torchvision:MNIST' says no folder; write torchvision:MNIST?root=FOLDER"
    assert refused(f"torchvision:MNIST?root={tmp_path}/no").startswith(f"folder '{tmp_path}/no' is not there; ")
    for name in ("MNIST", "CIFAR10"):
        assert refused(f"torchvision:{name}?root={tmp_path}").startswith(
            f"folder '{tmp_path}' holds no {name}, or it is damaged ("
        )
