"""From the specification of a run of a language model to its job: the model, the prompts that are asked for."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch

from flatlens.attacks.building import build, points_sha256
from flatlens.datasets import prompts
from flatlens.measure import prepare_language
from flatlens.measure.language_job import LanguageJob
from flatlens.measure.prepare import device_of, dtype_of
from flatlens.models import language
from flatlens.records.schema import MEASUREMENT_VERSION
from flatlens.specs.language import CHUNK
from flatlens.specs.run import RunSpec, demand_named
from flatlens.specs.trust import Trust


class LoadedLanguage(NamedTuple):
    """A spec's job, its defaults filled in, and the identity of what went into it."""

    spec: RunSpec
    job: LanguageJob
    identity: dict[str, object]


def load(spec: RunSpec) -> LoadedLanguage:
    """Load the model and the prompts that a spec names, and prepare the job."""
    demand_named(spec)
    spec = spec.resolved()
    given, places = prepare_language.chosen(_prompts(spec), spec.samples, spec.limit)
    loaded = _model(spec)
    job = prepare_language.prepare(
        loaded.model.to(device_of(spec.device) or "cpu"),
        loaded.tokenizer,
        given,
        attack=build(spec, loaded.model),
        controls=spec.control,
        ids=places,
        chunk=spec.batch_size or CHUNK,
        layers=spec.layer,
        probes=spec.probes,
        **{key: getattr(spec, key) for key in ("slot_len", "init", "slot", "chat", "positions", "stop_after", "seed")},
    )
    encoded = hashlib.sha256("".join(one.sha256 for one in job.encodings).encode()).hexdigest()
    return LoadedLanguage(spec, job, _identity(spec, loaded.sha256) | {"tokens_sha256": encoded, "labels": None})


def sources(spec: RunSpec) -> dict[str, object]:
    """The hashes, as in a run's manifest, of what a run of ``spec`` would be made from."""
    return _identity(spec, _model(spec).sha256)


def _identity(spec: RunSpec, weights: str) -> dict[str, object]:
    return {
        "weights_sha256": weights,
        "data_sha256": _prompts(spec).sha256,
        "points_sha256": points_sha256(spec),
        "measurement_version": MEASUREMENT_VERSION,
    }


def _model(spec: RunSpec) -> language.Language:
    trust = Trust(spec.trust_pickle, spec.trust_remote_code, spec.download)
    return language.load(spec.model, dtype=dtype_of(spec.dtype) or torch.float32, trust=trust)


def _prompts(spec: RunSpec) -> prompts.Prompts:
    return prompts.load(spec.data, prompt=spec.prompt, target=spec.target, system=spec.system)
