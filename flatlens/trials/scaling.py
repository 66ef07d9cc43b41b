"""`scaled`: a model whose logits are s times what they were, for trials of what that changes."""

from __future__ import annotations

from flatlens.models.scaled import scaled

__all__ = ["scaled"]
