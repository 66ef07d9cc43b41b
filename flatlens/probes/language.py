"""What has become of the slot at a point of an attack's path: its distance, its tokens, the gradient by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flatlens.probes import ONE_ROW, Columns, Path
from flatlens.victims.protocol import Forward, Pass

if TYPE_CHECKING:
    from flatlens.victims.tokens import TokenVictim


def distance(here: Pass, path: Path) -> Columns:
    """Norms of the slot's embeddings minus those of the start; NaN of another text, whose slot is of another length."""
    if here.x.shape != path.clean.shape:
        blank = torch.full((len(here.x),), torch.nan, dtype=torch.float64, device=here.x.device)
        return {"linf": blank, "l2": blank}
    delta = (here.x.detach() - path.clean).flatten(1)
    return {"linf": delta.abs().amax(1), "l2": delta.norm(dim=1)}


class Slot:
    """The slot as text: how far it is from its start, how likely it is, and whether it survives tokenisation.

    Args:
        victim: whose prompt it is.
        start: the slot's tokens at the start, ``[n, S]``.

    Attributes:
        tokens: the slot's at the last pass; None where it was no text.
    """

    table: str = "steps"
    late: bool = False

    def __init__(self, victim: TokenVictim, start: Tensor) -> None:
        self._victim, self._start = victim, start
        self.tokens: Tensor | None = None

    def __call__(self, here: Pass, path: Path) -> Mapping[str, Columns]:
        """``edits``, ``slot_nll`` (nats) and ``retokenises``, of a slot of tokens; else NaN."""
        self.tokens = here.tokens
        blank = torch.full((len(here.x),), torch.nan, dtype=torch.float64)
        edits = nll = exact = blank
        if isinstance(here, Forward) and here.tokens is not None:
            same = here.tokens.shape == self._start.shape
            edits = (here.tokens != self._start).sum(1).double() if same else blank
        # Of the prompt itself a slot of any length; controls are at other prompts.
        if isinstance(here, Forward) and here.tokens is not None and (same or here.encoding is self._victim.encoding):
            nll = torch.tensor([self._victim.slot_nll(here)], dtype=torch.float64)
            exact = self._victim.encoding.exact(here.tokens).double()
        return {ONE_ROW: {"edits": edits, "slot_nll": nll, "retokenises": exact}}


class Tokens:
    """The slot's tokens, a row each; of a slot that is no text the nearest ones. Empty slots have no rows."""

    table: str = "tokens"
    late: bool = False

    def __init__(self, victim: TokenVictim) -> None:
        self._victim = victim

    def __call__(self, here: Pass, path: Path) -> Mapping[str, Columns]:
        """``token``, ``nearest_distance`` (mean row norms; 0 of text) and ``changed`` since the step before."""
        if here.tokens is None:
            tokens, away = self._victim.nearest(here.x)
        else:
            tokens, away = here.tokens, torch.zeros(here.tokens.shape, dtype=torch.float64)
        before = None if path.previous is None else path.previous.x
        if before is None or before.shape != here.x.shape:
            changed = torch.zeros(tokens.shape, dtype=torch.bool)
        else:
            changed = (before.detach() != here.x.detach()).any(-1)
        return {
            str(i): {"token": tokens[:, i], "nearest_distance": away[:, i].double(), "changed": changed[:, i]}
            for i in range(tokens.shape[1])
        }


class TokenGradients:
    """The attack's gradient by each of the slot's embeddings, once it was taken."""

    table: str = "tokens"
    late: bool = True

    def __call__(self, here: Pass, path: Path) -> Mapping[str, Columns]:
        """``grad_norm`` in nats per unit of the embedding, and ``grad_dot``, its product with the embedding."""
        if here.gradient is None:
            blank = torch.full(here.x.shape[:2], torch.nan, dtype=torch.float64)
            norm = dot = blank
        else:
            gradient = here.gradient.detach().double()
            norm, dot = gradient.norm(dim=-1), (gradient * here.x.detach().double()).sum(-1)
        return {str(i): {"grad_norm": norm[:, i], "grad_dot": dot[:, i]} for i in range(here.x.shape[1])}
