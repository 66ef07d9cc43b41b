"""The controls of a language model's attack, for one prompt: with its steps, candidates and lengths."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from flatlens import attacks
from flatlens.attacks.protocol import Walks

if TYPE_CHECKING:
    from flatlens.measure.language_job import LanguageJob


def made(name: str, job: LanguageJob, index: int) -> Walks:
    """The control ``name`` beside the attack on prompt ``index``."""
    kind = attacks.find(name, of_language=True)
    own = job.attack.describe()
    wanted: dict[str, Any] = {
        "prompt": job.prompts.prompts[index],
        "chat": job.settings["chat"],
        "slot": job.settings["slot"],
        "steps": job.length,
        **{key: own[key] for key in ("candidates", "topk", "swaps", "step_size", "ball") if own.get(key) is not None},
    }
    known = {field.name for field in dataclasses.fields(kind)}
    control: Walks = kind(**{key: value for key, value in wanted.items() if key in known})
    return control
