"""One forward pass of a training, with what losses and penalties need of it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from flatlens.errors import LayerError
from flatlens.victims.checks import first_input
from flatlens.victims.layers import as_logits, survey, tied


class Pass(NamedTuple):
    """A forward pass, with its graph.

    Attributes:
        x: inputs ``[n, …]``.
        y: labels ``[n]``.
        logits: ``[n, K]``.
        features: the head's inputs ``[n, d]``; None where nobody asked for them.
        head: the head; None where nobody asked.
    """

    x: Tensor
    y: Tensor
    logits: Tensor
    features: Tensor | None = None
    head: nn.Linear | None = None


def forward(model: nn.Module, x: Tensor, y: Tensor, head: nn.Linear | None = None) -> Pass:
    """Run the model, in the mode it is in."""
    if head is None:
        return Pass(x, y, as_logits(model(x)))
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(
        lambda _, args, given: seen.append(first_input(args, given)), with_kwargs=True
    )
    try:
        logits = as_logits(model(x))
    finally:
        hook.remove()
    if len(seen) != 1:
        raise LayerError(f"the head is called {len(seen)} times in a forward pass; its flatness needs one call")
    return Pass(x, y, logits, seen[0], head)


def head_of(model: nn.Module, example: Tensor) -> nn.Linear:
    """The Linear layer whose output is the logits, by value.

    Args:
        model: it is left in the mode it is in.
        example: a few inputs ``[n, …]``.

    Raises:
        LayerError: there is none, it is called more than once, or its weight is shared.
    """
    was = model.training
    model.eval()  # else the statistics of batch norms would move
    try:
        seen = survey(model, example)
    finally:
        model.train(was)
    if seen.head is None:
        raise LayerError(
            "--penalty fam: this model has no head whose flatness has a closed form: no Linear layer's output equals "
            "the logits; leave fam out"
        )
    if seen.calls[seen.head] != 1:
        raise LayerError(f"--penalty fam: the head '{seen.head}' is called {seen.calls[seen.head]} times in a pass")
    if others := tied(model, seen.head):
        raise LayerError(f"--penalty fam: the head '{seen.head}' shares its weight with '{others[0]}'; leave fam out")
    found = model.get_submodule(seen.head)
    assert isinstance(found, nn.Linear)
    return found
