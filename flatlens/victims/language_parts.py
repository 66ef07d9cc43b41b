"""What flatlens uses of a causal language model: its body, its embedding and its head, each found by value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from flatlens.errors import ModelError
from flatlens.victims.encoding import Encoding


@dataclass(frozen=True)
class Parts:
    """What flatlens uses of a language model.

    Attributes:
        model: the user's.
        body: gives hidden states ``[n, L, d]``.
        embed: gives the rows of tokens, scaled where the model scales them.
        head: the Linear layer whose output is the logits.
        scale: what ``embed`` multiplies its weight's rows by.
        name: of the head, as in ``model.named_modules()``.
    """

    model: Any
    body: nn.Module
    embed: nn.Module
    head: nn.Linear
    scale: float
    name: str

    @cached_property
    def row_norm(self) -> float:
        """The mean norm of the embedding's rows, scaled."""
        return float(self.weight.float().norm(dim=1).mean()) * self.scale

    @cached_property
    def row_squares(self) -> Tensor:
        """‖w‖² of the embedding's rows, unscaled, ``[V]``."""
        return self.weight.square().sum(1)

    @property
    def weight(self) -> Tensor:
        """The rows of the embedding, unscaled and on no graph, ``[V, d]``."""
        weight: Tensor = getattr(self.embed, "weight")  # noqa: B009 (typed as Tensor | Module)
        return weight.detach()


def parts_of(model: Any) -> Parts:
    """The body, the embedding and the head of a causal language model of transformers, each found by value.

    Raises:
        ModelError: it has none such, or its logits are not its head's output.
    """
    embed, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ModelError(
            f"the head of the model is a {type(head).__name__}, no Linear layer (quantised?); give it in float32"
        )
    if not isinstance(embed, nn.Module) or getattr(embed, "weight", None) is None:
        raise ModelError(
            f"the embedding of the model is a {type(embed).__name__} without a weight; it cannot be attacked"
        )
    body = model.get_decoder() if hasattr(model, "get_decoder") else getattr(model, model.base_model_prefix, None)
    if not isinstance(body, nn.Module) or body is model:
        raise ModelError(f"the model is a {type(model).__name__}, whose body cannot be told from its head")
    name = next(key for key, module in model.named_modules() if module is head)
    return Parts(model, body, embed, head, _scale(embed), name)


def _scale(embed: nn.Module) -> float:
    weight: Tensor = embed.weight  # type: ignore[assignment]
    ids = torch.linspace(0, len(weight) - 1, min(64, len(weight)), device=weight.device).long()
    with torch.no_grad():
        rows, plain = embed(ids).double(), weight[ids].double()
    scale = float((rows * plain).sum() / plain.square().sum())
    if not torch.allclose(rows, scale * plain, rtol=1e-2 if weight.dtype != torch.float32 else 1e-5, atol=1e-6):
        raise ModelError("the embedding of the model does more than look up rows and scale them; it cannot be attacked")
    return scale


def demand_room(model: Any, encoding: Encoding, classes: int) -> None:
    """Refuse a prompt that the model has no place for, and a tokenizer of another model.

    Raises:
        ModelError: it is one.
    """
    tokenizer = encoding.tokenizer
    if len(tokenizer) > classes:
        raise ModelError(
            f"the tokenizer has {len(tokenizer):,} tokens and the model {classes:,}: they are not of each other"
        )
    room, length = places(model), encoding.length
    if room is not None and length > room:
        raise ModelError(
            f"prompt, slot and target are {length:,} tokens, and the model has places for {room:,}: shorten the prompt "
            "or --slot-len"
        )


def places(model: Any) -> int | None:
    """How many tokens the model has places for; None where it does not say."""
    config = getattr(model.config, "text_config", None) or model.config
    found: int | None = getattr(config, "max_position_embeddings", None)
    return found
