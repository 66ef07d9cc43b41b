"""Models of other packages: entry points of the group ``flatlens.models``, used as ``NAME:rest?option=value``.

An entry point is a factory ``factory(shape=…, classes=…, **options) -> torch.nn.Module``; ``rest``, where there is
one, is handed over as ``name``, and the options as text.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from flatlens.errors import ModelError, one_line

if TYPE_CHECKING:
    from torch import nn

    from flatlens.specs.uris import Uri

GROUP = "flatlens.models"


def found() -> dict[str, metadata.EntryPoint]:
    """Name -> entry point, of the packages that are installed; none of them is imported."""
    return {point.name: point for point in metadata.entry_points(group=GROUP)}


def described() -> dict[str, str]:
    """Name -> one line about it."""
    return {
        name: f"{point.value}, of the package {point.dist.name if point.dist else 'unknown'}: {name}:[NAME]"
        for name, point in found().items()
    }


def make(uri: Uri, shape: tuple[int, ...], classes: int) -> nn.Module:
    """What the factory returns for what ``uri`` names.

    Raises:
        ModelError: the package cannot be imported, or its factory raises, lacks an option, or returns no model.
    """
    from flatlens.models import factories

    point = found()[uri.scheme]
    try:
        factory = point.load()
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"the plug-in '{uri.scheme}' ({point.value}) cannot be imported: {one_line(error, kind=True)}"
        ) from error
    named = {"name": uri.path} if uri.path else {}
    return factories.call(factory, uri, {"shape": shape, "classes": classes}, named | uri.options)
