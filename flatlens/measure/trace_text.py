"""`trace_text` and `curvature_text`: attacks on a language model's prompts, or given texts, at each target position."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from flatlens import attacks
from flatlens.attacks import building
from flatlens.attacks.language.recorded import recorded_text
from flatlens.attacks.language.yardsticks import Given
from flatlens.attacks.protocol import stated
from flatlens.attacks.recording import Recorded
from flatlens.datasets import prompts as named
from flatlens.datasets.prompts import Prompt, Prompts
from flatlens.errors import ModelError
from flatlens.measure import given, prepare_language
from flatlens.measure.language_job import LanguageJob
from flatlens.models import OBJECT, language
from flatlens.progress import Report
from flatlens.records import cautions, saving
from flatlens.records.schema import Embeddings
from flatlens.records.trajectory import Trace
from flatlens.specs.catalogue import TEXT_ATTACKS
from flatlens.specs.language import BENIGN
from flatlens.specs.run import RunSpec
from flatlens.specs.settings import demand_probes
from flatlens.victims.layers import HEAD
from flatlens.wording import python_words, warn


def trace_text(
    model: Any,
    tokenizer: Any = None,
    prompts: Sequence[Prompt] | str = BENIGN,
    *,
    attack: Any = "gcg",
    controls: Sequence[str] | str | None = None,
    slot_len: int = 20,
    init: str | None = None,
    slot: str = "suffix",
    chat: str = "auto",
    positions: str = "target",
    stop_after: int | None = None,
    layers: Sequence[str] | str = "head",
    probes: int = 16,
    seed: int = 0,
    batch_size: int | None = None,
    out: str | Path | None = None,
    force: bool = False,
    progress: Report | None = None,
) -> Trace:
    """Run an attack on a language model, and measure every step at every position of the target.

    Args:
        model: a causal language model of transformers, in eval mode; used as it is, and left as it was. Or the name of
            one: ``lm:FOLDER``, which brings its tokenizer.
        tokenizer: the model's own.
        prompts: what is said, and the targets; or a name: ``prompts:FILE.jsonl``, ``flatlens:benign-targets``.
        attack: one of `flatlens.attacks` for language models (``GCG``, ``Embedding``, ``Simplex``, ``RandomSwap``), or
            its name; ``path:FILE`` replays strings (`flatlens.datasets.strings`); a function
            ``attack(model, tokenizer, prompt)`` is run as it is, and its iterates are recorded: ``lambda model,
            tokenizer, p: nanogcg.run(model, tokenizer, p.messages, p.target, config)``.
        controls: names of the paths to walk beside it, see ``flatlens attacks``; ``"all"``.
        slot_len: S, tokens of the slot that is changed.
        init: the slot's text at the start: one token, which is repeated, or S of them; ``" x"`` or what is one token.
        slot: ``suffix``, after the prompt, or ``prefix``, before it.
        chat: ``auto`` uses the tokenizer's chat template where there is one; ``none`` the plain text.
        positions: ``target``; ``all`` measures beside it the average over all positions of the paper's own code.
        stop_after: ends a path after so many steps on which it stays flipped; never when left out.
        layers: layers beside the head, by their names in ``model.named_modules()``, ``all``, ``last:N`` or globs: the
            trace of their Gauss–Newton matrix, estimated by random probes. The head is always measured.
        probes: how many, for layers beside the head: 16 give about 10 %, four times as many half of that.
        seed: of all noise.
        batch_size: candidates that are evaluated together; 32 when left out.
        out: a new folder to save the trace and its report in.
        force: replace the run that is in that folder.
        progress: called after every step.

    Raises:
        ModelError: the model is no causal language model whose logits are its head's output.
        LayerError: a layer does not exist or cannot be probed.
        DataError: a prompt that cannot be encoded.
        AttackError: no attack on language models.
        RunError: the folder holds something already.

    Warns:
        CautionWarning: for each of the trace's ``cautions``.
    """
    if out is not None:
        saving.demand_free(Path(out), force=force)
    with python_words():
        net, tokens, called = _model(model, tokenizer)
        texts = _prompts(prompts)
        asked = attack if isinstance(attack, str) else "gcg"
        names = given.names("control", controls, None, ())
        said: dict[str, Any] = {
            "slot_len": slot_len, "init": init, "slot": slot, "chat": chat, "positions": positions,
            "stop_after": stop_after, "seed": seed, "batch_size": batch_size, "probes": probes,
            "layer": given.names("layer", layers, None, (HEAD,)),
        }  # fmt: skip
        # What a value may be is checked where every run's is.
        soft = {} if isinstance(attack, str) or getattr(attack, "discrete", True) else {"attack": _kind(attack)}
        checked: dict[str, Any] = {
            "model": f"{OBJECT}:model",
            "data": f"{OBJECT}:prompts",
            "control": names,
            "attack": asked,
            **soft,
        }
        spec = RunSpec(**{**checked, **said}).resolved()
        made = _attack(attack, spec)
        settings = {key: getattr(spec, key) for key in said if key not in ("batch_size", "layer")}
        job = prepare_language.prepare(
            net,
            tokens,
            texts,
            attack=made,
            controls=spec.control,
            chunk=spec.batch_size or 32,
            layers=spec.layer,
            **settings,
        )
        result = traced(job, progress)
    result = replace(result, spec=_describe(job, called, texts.uri, spec.control))
    result = result.with_cautions((*job.cautions(result.manifest["notes"], 0), *cautions.of_trace(result)))
    if out is not None:
        result.save(out, force=force)
    warn(result.cautions)
    return result


def curvature_text(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt] | str,
    *,
    chat: str = "auto",
    layers: Sequence[str] | str = "head",
    probes: int = 16,
    seed: int = 0,
) -> Trace:
    """The curvature at given texts, without an attack: is this prompt in a flat place?

    Args:
        model: as for `trace_text`.
        tokenizer: the model's own.
        prompts: the texts, each with the answer at whose tokens it is measured.
        chat: ``auto`` or ``none``.
        layers: layers beside the head, as for `trace_text`.
        probes: random probes for them, at least 8.
        seed: of the probes.

    Returns:
        a trace of one step, whose slot is the whole of what the user says.

    Raises:
        ModelError: the model is no causal language model whose logits are its head's output.
        LayerError: a layer does not exist or cannot be probed.
        DataError: a prompt that cannot be encoded.
        SpecError: too few probes.
    """
    with python_words():
        demand_probes(probes)
        net, tokens, called = _model(model, tokenizer)
        texts = _prompts(prompts)
        job = prepare_language.prepare(
            net, tokens, texts, attack=Given(), chat=chat, slot_len=1, whole=True,
            layers=given.names("layer", layers, None, (HEAD,)), probes=probes, seed=seed,
        )  # fmt: skip
        result = traced(job, None)
    return replace(result, spec=_describe(job, called, texts.uri, ()))


def traced(job: LanguageJob, progress: Report | None) -> Trace:
    """All prompts of a job, measured, as a trace that is on no disk; its manifest has the ``notes``."""
    pieces = [piece for _, piece in job.pieces(range(job.batches), progress)]
    kept = [piece.embeddings for piece in pieces if piece.embeddings is not None]
    same = len({one.x.shape[1:] for one in kept}) == 1
    tables = {name: pa.concat_tables([piece.tables()[name] for piece in pieces]) for name in pieces[0].tables()}
    notes = sum((Counter(piece.notes) for piece in pieces), Counter[str]())
    return Trace(
        tables["steps"],
        tables["layers"],
        {},
        manifest=job.provenance() | {"notes": dict(notes)},
        positions=tables.get("positions"),
        tokens=tables.get("tokens"),
        prompts=tuple(job.texts()),
        embeddings=Embeddings(*(np.concatenate(column) for column in zip(*kept, strict=True))) if same else None,
    )


def _model(model: Any, tokenizer: Any) -> tuple[Any, Any, str]:
    if isinstance(model, str):
        loaded = language.load(model)
        return loaded.model, tokenizer or loaded.tokenizer, model
    language.check_model(model)
    if tokenizer is None or not callable(tokenizer):
        raise ModelError("the tokenizer is missing; give the model's own, of transformers")
    return model, tokenizer, f"{OBJECT}:{type(model).__name__}"


def _attack(attack: Any, spec: RunSpec) -> Any:
    """What walks: an attack by its name, one of flatlens' own, or somebody's function, to be recorded."""
    if isinstance(attack, str):
        return building.build(spec, None) if spec.foreign else attacks.find(attack, of_language=True)()
    if isinstance(attack, Recorded) and attack.own is not None:
        return recorded_text(attack.own, seed=attack.seed)
    return recorded_text(attack) if inspect.isfunction(attack) else attack


def _kind(attack: Any) -> str:
    """The name of the attack whose controls fit a soft one."""
    name = stated(attack).name
    return name if name in TEXT_ATTACKS else "embedding"


def _prompts(prompts: Sequence[Prompt] | str) -> Prompts:
    if isinstance(prompts, str):
        return named.load(prompts)
    listed = [prompts] if isinstance(prompts, Prompt) else list(prompts)
    return named.gathered(listed, f"{OBJECT}:{len(listed)} prompts")


def _describe(job: LanguageJob, model: str, data: str, controls: Sequence[str]) -> Mapping[str, Any]:
    known = {key: value for key, value in job.attack.describe().items() if value is not None}
    settings = {key: value for key, value in job.settings.items() if value is not None and key != "chunk"}
    return {
        "model": model,
        "data": data,
        "attack": job.attack.name,
        **known,
        "control": list(controls),
        "layer": [HEAD, *job.layers],
        **({"probes": job.probes} if job.layers else {}),
        "batch_size": job.batch_size,
        **settings,
        "dtype": str(job.parts.head.weight.dtype).removeprefix("torch."),
    }
