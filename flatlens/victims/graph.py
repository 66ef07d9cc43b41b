"""Reading an autograd graph: who uses a tensor, and what lies between a place and the end."""

from __future__ import annotations

import re
from typing import NamedTuple

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

Place = tuple[Node, int]
"""One output of a node: where a tensor stands in the graph."""


class Use(NamedTuple):
    """A node that reads a tensor, as which of its inputs, and which output of the node read from that is."""

    node: Node
    position: int
    output: int


class Graph:
    """All that a tensor was computed from.

    Args:
        end: the tensor, for example the logits of a pass whose graph is alive.
    """

    def __init__(self, end: Tensor) -> None:
        self._uses: dict[Node, list[Use]] = {}
        seen: set[Node] = set()
        waiting = [get_gradient_edge(end).node] if end.requires_grad else []
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            for position, (before, output) in enumerate(node.next_functions):
                if before is not None:
                    self._uses.setdefault(before, []).append(Use(node, position, output))
                    waiting.append(before)
        self.nodes = seen

    def uses(self, place: Place) -> list[Use]:
        """Who reads the tensor that stands there."""
        node, output = place
        return [use for use in self._uses.get(node, ()) if use.output == output]

    def between(self, start: Place) -> dict[Node, set[int]]:
        """The nodes on the ways from a place to the end, and through which of its inputs those ways reach each."""
        found: dict[Node, set[int]] = {}
        waiting = self.uses(start)
        while waiting:
            node, position, _ = waiting.pop()
            if node not in found:
                found[node] = set()
                waiting = waiting + self._uses.get(node, [])
            found[node].add(position)
        return found


def place(tensor: Tensor | GradientEdge) -> Place:
    """Where a tensor that requires a gradient stands."""
    edge = tensor if isinstance(tensor, GradientEdge) else get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def kind(node: Node) -> str:
    """What a node does: ``Addmm`` for torch's ``AddmmBackward0``; a function of the user's keeps its whole name."""
    return re.sub(r"Backward\d+$", "", node.name().rpartition("::")[2])


def kinds(text: str) -> frozenset[str]:
    """A set of kinds from their names, in words."""
    return frozenset(text.split())
