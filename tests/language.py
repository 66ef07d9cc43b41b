"""Language models for tests: the tiny one that comes with flatlens, and random ones of transformers' own classes."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch

from flatlens.models import language


@functools.cache
def _loaded(dtype: torch.dtype) -> language.Language:
    return language.load(f"lm:{language.TINY}", dtype=dtype)


def tiny(dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """A model of one's own, and its tokenizer."""
    loaded = _loaded(dtype)
    return copy.deepcopy(loaded.model), loaded.tokenizer


def random_llama(*, tied: bool = False, dtype: torch.dtype = torch.float64, **more: Any) -> Any:
    """A Llama of random weights whose vocabulary is the tiny one's."""
    from transformers import LlamaConfig, LlamaForCausalLM

    _, tokenizer = tiny()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=tied, **more,
    )  # fmt: skip
    torch.manual_seed(1)
    return LlamaForCausalLM(config).to(dtype).eval()
