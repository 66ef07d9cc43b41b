"""What the user has allowed to run code. Nothing, unless it is said."""

from __future__ import annotations

from typing import NamedTuple


class Trust(NamedTuple):
    """What may run code while a model is loaded.

    Attributes:
        pickle: pickled weights given by ``ckpt:``, and files of ``torch.export``.
        remote_code: Python files that lie beside the weights of an ``hf:`` model.
    """

    pickle: bool = False
    remote_code: bool = False


NOTHING = Trust()
