"""Files that are fetched by network, when that is allowed: there whole or not at all, hashed and recorded."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

import torch.hub

from flatlens.errors import DiskError, ModelError, one_line
from flatlens.files.atomic import disk, write_json
from flatlens.files.locks import file_lock
from flatlens.files.places import cache

FLAG = "--download"
NO_NAME = "'{}' is no folder, and no name of a model such as owner/model"


def fetch(file: Path, download: Callable[[Path], object], source: str) -> Path:
    """``file``, fetched unless it is there by now; its source and SHA-256 are said on stderr and kept beside it.

    It is written in a folder of its own beside its place, and renamed when it is whole: an interrupted download
    leaves no file by that name, and its remains are removed, at the latest by the next one. Whoever else fetches the
    same file is waited for.

    Args:
        file: where it shall lie.
        download: writes a file to the path that it is given.
        source: where it comes from, for people.

    Returns:
        ``file``.

    Raises:
        ModelError: nothing came, or the download broke off.
        DiskError: the folder cannot be written.
    """
    with disk(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(file.with_name(f".{file.name}.lock"), root=file.parent):
        if file.is_file():
            return file
        room = file.with_name(f".{file.name}.download")
        try:
            shutil.rmtree(room, ignore_errors=True)  # of one that was killed
            room.mkdir()
            part = room / file.name
            download(part)
            if not part.is_file() or not part.stat().st_size:
                raise ModelError(f"'{file.name}' could not be downloaded from {source}: nothing came; try again later")
            # The record first: whoever finds the file finds its record, too.
            record(file.with_name(f"{file.name}.json"), part, source)
            part.replace(file)
        except (DiskError, ModelError):
            raise
        except Exception as error:  # the network, the far side, and the library's own client
            raise ModelError(_broke_off(file.name, source, error)) from error
        finally:
            shutil.rmtree(room, ignore_errors=True)
    return file


def fetch_url(url: str, file: Path) -> Path:
    """`fetch` by torch's own client, which holds a file to the hash in its name (``resnet18-f37072fd.pth``)."""
    found = torch.hub.HASH_REGEX.search(file.name)
    prefix = found[1] if found else None
    return fetch(file, lambda part: torch.hub.download_url_to_file(url, str(part), prefix, progress=False), url)


def fetch_of_hub(name: str, files: Sequence[str]) -> Path:
    """The first of these files that a model on the Hugging Face hub has, by the hub's own client, into its cache.

    Raises:
        ModelError: it has none of them, or the download broke off.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    for one in files:
        try:
            found = Path(huggingface_hub.hf_hub_download(name, one))
        except EntryNotFoundError:
            continue
        except Exception as error:  # the network, the far side, and the client
            raise ModelError(_broke_off(name, "huggingface.co", error)) from error
        record_of_hub(found, name)
        return found
    raise ModelError(f"'{name}' on huggingface.co has no {' or '.join(files)}; name another model")


def fetch_folder_of_hub(name: str, more: Sequence[str] = ()) -> None:
    """All that a model of transformers is loaded from, without pickles, into the cache of the Hugging Face hub.

    Nothing is asked where its configuration and all parts of its weights are there.

    Args:
        name: ``owner/model``.
        more: patterns of other files that it needs.

    Raises:
        ModelError: the download broke off, or that is no name.
    """
    import huggingface_hub

    if _is_whole(name):
        return
    try:
        folder = huggingface_hub.snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.safetensors", *more])
    except Exception as error:  # the network, the far side, and the client
        raise ModelError(_broke_off(name, "huggingface.co", error)) from error
    for file in sorted(Path(folder).glob("*.safetensors")):
        record_of_hub(file, name)


def _is_whole(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    try:
        index = try_to_load_from_cache(name, "model.safetensors.index.json")
        parts = {"model.safetensors"}
        if isinstance(index, str):
            parts = {str(part) for part in json.loads(Path(index).read_bytes())["weight_map"].values()}
        return all(isinstance(try_to_load_from_cache(name, part), str) for part in ("config.json", *parts))
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError):
        return False  # a damaged list of the parts: all is fetched again
    except ValueError as error:
        raise ModelError(NO_NAME.format(name)) from error


def _broke_off(name: str, source: str, error: Exception) -> str:
    return (
        f"'{name}' could not be downloaded from {source} ({one_line(error, kind=True)}); nothing half is left "
        "by its name: try again, or fetch it yourself"
    )


def record(beside: Path, file: Path, source: str) -> None:
    """Write down where a file came from, its size and SHA-256, and say it in one line on stderr."""
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    with disk(beside):
        beside.parent.mkdir(parents=True, exist_ok=True)
        write_json(beside, {"file": file.name, "source": source, "sha256": sha256, "bytes": file.stat().st_size})
    print(f"downloaded {file.name} from {source}, SHA-256 {sha256}", file=sys.stderr)


def record_of_hub(file: Path, name: str) -> None:
    """The same of a file that a hub's own client has put into its cache, where nothing of others should lie.

    Args:
        file: in the hub's cache.
        name: of the model.
    """
    record(cache() / "downloads" / f"{quote(name, safe='')}-{file.name}.json", file, f"huggingface.co/{name}")
