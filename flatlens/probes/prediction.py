"""What the model says at a point, and how far the point is from the clean input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from flatlens.probes import Path
from flatlens.victims.precision import wide
from flatlens.victims.protocol import Pass


def prediction(here: Pass, path: Path) -> dict[str, Tensor]:
    """Prediction, flip, loss (nats), confidence, margin and gap (logits) and entropy (nats), in float64."""
    logits = wide(here.logits.detach())
    y = here.y.to(logits.device)
    log_p = torch.log_softmax(logits, 1)
    p = log_p.exp()
    predicted = logits.argmax(1)
    flipped = predicted != y if path.target is None else predicted == path.target.to(logits.device)
    return {
        "prediction": predicted,
        "flipped": flipped,
        "loss": F.nll_loss(log_p, y, reduction="none"),
        "confidence": p.amax(1),
        "margin": margin(logits, y),
        "gap": gap(logits),
        "entropy": -torch.where(p > 0, p * log_p, 0.0).sum(1),
    }


def margin(logits: Float[Tensor, "n k"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """z_y − max_{j≠y} z_j: negative where the label has lost."""
    own = logits.gather(1, y.unsqueeze(1))
    return (own - logits.scatter(1, y.unsqueeze(1), -torch.inf).amax(1, keepdim=True)).squeeze(1)


def gap(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """The largest logit minus the second largest: 0 where two classes tie, and no label is asked for."""
    first, second = logits.topk(2, dim=1).values.unbind(1)
    return first - second


def perturbation(here: Pass, path: Path) -> dict[str, Tensor]:
    """Norms of x − clean, in units of the input."""
    delta = (here.x.detach() - path.clean).flatten(1)
    return {"linf": delta.abs().amax(1), "l2": delta.norm(dim=1)}
