"""Attacks on language models: tokens or embeddings beside the prompt are changed until it says the target.

Each yields its start first, then every iterate, and is Markov in its point and the step: noise is keyed by the step, so
that a path that was broken off goes on to the same bits.
"""

from __future__ import annotations

from torch import Tensor

from flatlens.errors import AttackError
from flatlens.victims.protocol import Batch, Pass, Reached


def begin(batch: Batch, *, tokens: bool) -> Reached:
    """Where a path begins, or goes on: its step and its point.

    Args:
        batch: of one prompt.
        tokens: whether the point is the slot's tokens, else its embeddings.

    Raises:
        AttackError: the batch is of images.
    """
    if batch.tokens is None:
        raise AttackError("this attack is of language models; give it to fl.trace_text")
    if batch.reached is not None:
        return batch.reached
    return Reached(0, batch.tokens if tokens else batch.x)


def log_likelihood(here: Pass) -> Tensor:
    """S, the mean log p of the target's tokens, ``[n]``: what an attack on a language model ascends. It is −loss."""
    return -here.loss


def counted(name: str, value: int, most: int | None = None) -> None:
    """Raise AttackError unless a setting is a whole number from 1 on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
        upto = "" if most is None else f" to {most}"
        raise AttackError(f"{name} = {value}: needs a whole number from 1{upto or ' on'}")
