"""Reading images with Pillow: a file's bytes, many of one size, and a folder of them for each class."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flatlens.errors import DataError, one_line
from flatlens.extras import need
from flatlens.specs.uris import Uri

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# Only what needs no other program: Pillow hands EPS files to Ghostscript.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_GREY = ("1", "L", "LA")
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
MOST_PIXELS = 2**26
"""An image of more is taken for a decompression bomb."""


class LabelledImages(NamedTuple):
    """Unsigned bytes ``[N, C, H, W]``, labels int64 ``[N]``, and the names of the classes where they are known."""

    x: NDArray[np.uint8]
    y: NDArray[np.int64]
    labels: tuple[str, ...] | None


class ImageSource(NamedTuple):
    """An image to be read: its file, or its bytes, and how it is called in messages."""

    name: str
    file: Path | bytes


def folder(uri: Uri) -> LabelledImages:
    """``imagefolder:FOLDER``: one folder of images for each class, in the order of their names.

    With ``size=N`` the shorter side is resized to N pixels (bicubic) and the middle N × N are kept.

    Raises:
        DataError: no such folder, no images, or images that are damaged or of several sizes.
    """
    uri.only(["size"])
    root = uri.file
    if not uri.path or not root.is_dir():
        what = "is a file" if root.is_file() else "is not there"
        raise DataError(f"folder '{uri.path}' {what}; imagefolder:FOLDER needs one folder of images for each class")
    classes = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    found = [
        (ImageSource(str(file), file), label)
        for label, entry in enumerate(classes)
        for file in sorted(entry.rglob("*"))
        if file.suffix.lower() in ENDINGS and file.is_file() and not file.name.startswith(".")
    ]
    if not found:
        kinds = ", ".join(ending[1:] for ending in ENDINGS)
        raise DataError(f"folder '{root}' has no images; it needs one folder for each class, with files of: {kinds}")
    x = read([source for source, _ in found], size=size_of(uri), fix=uri.text)
    return LabelledImages(
        x, np.array([label for _, label in found], dtype=np.int64), tuple(entry.name for entry in classes)
    )


def size_of(uri: Uri) -> int | None:
    """The option ``size``, in pixels."""
    return uri.whole("size", 224, low=1, high=8192) if "size" in uri.options else None


def read(sources: Sequence[ImageSource], *, size: int | None, fix: str) -> NDArray[np.uint8]:
    """All images, ``[N, C, H, W]``: of one channel if all of them are grey, else of three.

    Args:
        sources: where they are, at least one.
        size: side of the square that is kept of each, in pixels; as they are when left out.
        fix: the data's name, to which the message about several sizes adds ``?size=``.

    Raises:
        DataError: an image cannot be read, has too many pixels, or another size than the first.
    """
    image = need("PIL.Image", "images", "images", DataError)
    sizes, modes = zip(*(_header(image, source) for source in sources), strict=True)
    if size is None and len(set(sizes)) > 1:
        other = next(i for i, found in enumerate(sizes) if found != sizes[0])
        joined = "&" if "?" in fix else "?"
        raise DataError(
            f"'{sources[other].name}' has {_times(sizes[other])} pixels and '{sources[0].name}' {_times(sizes[0])}; "
            f"make them alike with {fix}{joined}size={min(min(found) for found in sizes)}"
        )
    mode = "L" if set(modes) <= set(_GREY) else "RGB"
    width, height = (size, size) if size is not None else sizes[0]
    x = np.empty((len(sources), 1 if mode == "L" else 3, height, width), dtype=np.uint8)
    for i, source in enumerate(sources):
        pixels = np.asarray(_decoded(image, source, mode, size))
        x[i] = pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)
    return x


def _header(image: Any, source: ImageSource) -> tuple[tuple[int, int], str]:
    """Width and height in pixels, and Pillow's mode; nothing is decoded yet."""
    with _opened(image, source) as picture:
        size, mode = picture.size, picture.mode
    if size[0] * size[1] > MOST_PIXELS:
        raise DataError(
            f"image '{source.name}' says that it has {_times(size)} pixels, as a decompression bomb does; "
            f"at most {MOST_PIXELS:,} are read"
        )
    if mode in _DEEP:
        raise DataError(f"image '{source.name}' has more than 8 bits a channel; convert it, or give arrays by npz:FILE")
    return size, mode


def _opened(image: Any, source: ImageSource) -> Any:
    file = source.file if isinstance(source.file, Path) else io.BytesIO(source.file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", image.DecompressionBombWarning)  # the pixels are counted here
            return image.open(file, formats=_FORMATS)
    except image.DecompressionBombError as error:
        raise DataError(
            f"image '{source.name}' has far too many pixels, as a decompression bomb does; "
            f"at most {MOST_PIXELS:,} are read"
        ) from error
    except Exception as error:  # damaged bytes raise whatever they provoke
        raise DataError(f"'{source.name}' is no image, or is damaged; needs one of: {', '.join(_FORMATS)}") from error


def _decoded(image: Any, source: ImageSource, mode: str, size: int | None) -> Any:
    with _opened(image, source) as picture:
        try:
            pixels = picture.convert(mode)
        except Exception as error:
            raise DataError(
                f"image '{source.name}' is damaged or cut off ({one_line(error)}); copy it again"
            ) from error
    if size is None:
        return pixels
    scale = size / min(pixels.size)
    width, height = (max(size, round(side * scale)) for side in pixels.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = pixels.resize((width, height), image.Resampling.BICUBIC)
    return resized.crop((left, top, left + size, top + size))


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"
