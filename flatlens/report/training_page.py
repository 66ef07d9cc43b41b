"""A training -> one HTML file: what it reached in one sentence, its epochs as figures and as a table, its alarms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from flatlens.errors import ResourceError
from flatlens.files.borders import DamageError, plain_file
from flatlens.report import html_file, packing, static_svg
from flatlens.report.drawn_training import FIGURES, figure
from flatlens.report.modules import joined
from flatlens.report.packing import Plain
from flatlens.report.roles import colours, styles
from flatlens.specs.defences import in_words, uses_eps
from flatlens.specs.values import radius, shown
from flatlens.version import __version__

PROGRAM = "pages/training.js"
"""The module that is the page."""
MOST_ROWS = 2000
"""Epochs in the table; the others are in the file of the rows."""
WIDTH, HEIGHT = 860, 300
_KIND = "of-training"
_HEADS = {
    "epoch": "epoch", "loss": "loss", "accuracy": "right, trained on, %", "watched_accuracy": "clean, %",
    "fgsm_accuracy": "FGSM, %", "pgd_accuracy": "PGD-10, %", "flatness_mean": "κ, mean", "flatness_median": "κ, median",
    "weight_gradient": "‖∂L/∂W‖", "input_gradient": "mean ‖∂ℓ/∂x‖", "zero_gradients": "gradient 0, %", "lr": "lr",
    "seconds": "seconds",
}  # fmt: skip
_SHARES = ("accuracy", "watched_accuracy", "fgsm_accuracy", "pgd_accuracy", "zero_gradients")


def write(rows: Mapping[str, Any], record: Mapping[str, Any], file: Path) -> Path:
    """Draw a training and return where its page is; a page of an earlier training there is replaced.

    Args:
        rows: of ``NAME.training.parquet``: column -> its values ``[epochs]``, NaN where an epoch was not looked at.
        record: of ``NAME.json``.
        file: where to.

    Raises:
        ResourceError: the file cannot be written, or is something else than a training's page.
    """
    if not _may_replace(file):
        raise ResourceError(f"'{file}' is there and is no page of a training; move it, or name another --out")
    return html_file.save(document(rows, record), file)


def is_there(file: Path) -> bool:
    """Whether a whole page of a training is there."""
    return html_file.is_whole(file) and _may_replace(file)


def _may_replace(file: Path) -> bool:
    """Whether nothing is there, or what a full disk left, or a page of a training."""
    try:
        text = plain_file(file).read_bytes()
    except FileNotFoundError:
        return True
    except (OSError, DamageError):
        return False
    return f'<body class="{_KIND}">'.encode() in text or not text.strip(b"\0")


def document(rows: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """The page as text."""
    alarms = [alarm for alarm in record.get("alarms") or () if isinstance(alarm, Mapping)]
    made = {name: found for name in FIGURES if (found := figure(name, rows, alarms)) is not None}
    name = f"{shown(record.get('model', '?'))} · {_training(record.get('recipe') or {})}"
    left_out = "" if "kappa" in made else " This model has no head with a closed-form κ."
    every = _every(rows)
    return html_file.document(
        "training.html",
        title=f"{name} · flatlens",
        css=styles() + "\n" + html_file.asset("shell.css", "run.css", "training.css"),
        data=packing.compressed(packing.to_json({"colours": colours(), "figures": packing.figure(made)})),
        script=program(),
        kind=_KIND,
        without="The figures stand without a script; values under the pointer need one.",
        packed=True,
        what=escape(name),
        sentence=_sentence(record),
        below=escape(_below(record) + left_out),
        alarms="".join(_pill(str(a.get("code", "")), str(a.get("text", ""))) for a in alarms),
        numbers=_numbers(record),
        figures="".join(_card(name, found) for name, found in made.items()),
        table=_table(rows),
        note=escape(
            f"{len(rows['epoch']):,} epochs{every}. – is what was not looked at. κ: relative flatness of the head. "
            "The same rows are in the file beside the weights whose name ends in .training.parquet."
        ),
        footer=escape(f"flatlens {__version__}: this file needs no network."),
    )


@cache
def program() -> str:
    """The page's program: the same for every training."""
    return joined(PROGRAM) + "\nopenTraining();"


def _card(name: str, made: Plain) -> str:
    kind = FIGURES[name]
    said = _said(name, made)
    still = static_svg.svg(made, width=WIDTH, height=HEIGHT, label=said)
    still = still.replace('id="inside"', f'id="inside-{name}"').replace("url(#inside)", f"url(#inside-{name})")
    return (
        f'<figure class="card {"hero" if name == "accuracy" else ""}"><h2>{escape(kind.title)}</h2>'
        f'<div class="plot" id="{name}" role="group" tabindex="0" aria-label="{escape(said)}">{still}</div>'
        f"<figcaption>{escape(kind.caption)}</figcaption></figure>"
    )


def _said(name: str, made: Plain) -> str:
    """A figure in words: each line's first and last value."""
    unit = " %" if FIGURES[name].scale == "percent" else ""
    ends = [f"{trace['name']} {trace['y'][0]:.3g}{unit} to {trace['y'][-1]:.3g}{unit}" for trace in made["data"]]
    return f"{FIGURES[name].title}: {'; '.join(ends)}. The table below has every number."


def _sentence(record: Mapping[str, Any]) -> str:
    """The result, with the worst case in its colour, and how many alarms there are; HTML."""
    worst = record.get("worst_accuracy") or {}
    said = f"Right: <em>{_percent(record.get('accuracy'))}</em> clean, "
    said += f'<em class="said-attack">{_percent(worst.get("value"))}</em> [{_interval(worst)}] in the worst case'
    before, after = _kappas(record)
    if before is not None and after is not None:
        more = "sharper" if after > before else "flatter"
        said += f"; at clean inputs the head is {more} than before: κ {before:.3g} → {after:.3g}"
    alarms = len(record.get("alarms") or ())
    return said + (f"; {alarms} alarm{'s' if alarms > 1 else ''}." if alarms else ".")


def _below(record: Mapping[str, Any]) -> str:
    worst, robust = record.get("worst_accuracy") or {}, record.get("robustness") or {}
    where = f", {robust.get('norm')}, eps {radius(float(robust['eps']))}" if _is_number(robust.get("eps")) else ""
    kept, epochs = record.get("epoch"), (record.get("recipe") or {}).get("epochs")
    best = f" The weights are those of epoch {kept}, the best." if _is_number(kept) and kept != epochs else ""
    return (
        f"On {shown(record.get('test', '?'))}; the worst case of PGD-20, APGD-CE, APGD-T and Square{where}, on "
        f"{worst.get('n', '?')} samples, with its 95 % interval.{best} One training: another seed would end elsewhere."
    )


def _numbers(record: Mapping[str, Any]) -> str:
    worst, gap = record.get("worst_accuracy") or {}, (record.get("loss_gap") or {}).get("mean") or {}
    before, after = _kappas(record)
    found = [
        (_percent(record.get("accuracy")), "right, clean", f"of {record.get('test_samples', '?')}"),
        (_percent(worst.get("value")), "right, worst case", _interval(worst)),
        (_three(after), "κ of the head, after", f"before {_three(before)}"),
        (_three(gap.get("value")), "loss gap, nats", "small logits, small gap"),
    ]
    return "".join(f"<li><b>{escape(a)}</b><span>{escape(b)}</span><span>{escape(c)}</span></li>" for a, b, c in found)


def _kappas(record: Mapping[str, Any]) -> tuple[float | None, float | None]:
    kappa = record.get("kappa") or {}
    found = [(kappa.get(at) or {}).get("value") for at in ("before", "after")]
    return (found[0] if _is_number(found[0]) else None), (found[1] if _is_number(found[1]) else None)


def _training(recipe: Mapping[str, Any]) -> str:
    eps: Any = recipe.get("eps")
    told = uses_eps(recipe) and _is_number(eps)
    strong = f", {recipe.get('norm') or 'linf'}, eps {radius(float(eps))}" if told else ""
    return f"{in_words(recipe)}{strong}, {_epochs(recipe)} of {shown(recipe.get('data', '?'))}"


def _epochs(recipe: Mapping[str, Any]) -> str:
    many = recipe.get("epochs", "?")
    return f"{many} epoch" if many == 1 else f"{many} epochs"


def _every(rows: Mapping[str, Any]) -> str:
    looked = int(np.isfinite(np.asarray(rows["watched_accuracy"], dtype=float)).sum())
    return f", {looked:,} of them looked at" if looked < len(rows["epoch"]) else ""


def _table(rows: Mapping[str, Any]) -> str:
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in _HEADS.values())
    columns = [list(rows[name])[:MOST_ROWS] for name in _HEADS]
    lines = []
    for values in zip(*columns, strict=True):
        first, *rest = (_cell(name, value) for name, value in zip(_HEADS, values, strict=True))
        lines.append(f'<tr><th scope="row">{first}</th>{"".join(f"<td>{text}</td>" for text in rest)}</tr>')
    return f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"


def _cell(name: str, value: Any) -> str:
    if name == "epoch":
        return f"{value}"
    return f"{100 * value:.1f}" if name in _SHARES and _is_number(value) else _three(value)


def _pill(code: str, text: str) -> str:
    return f"<details><summary>{escape(code.replace('-', ' '))}</summary>{escape(text)}</details>"


def _percent(value: Any) -> str:
    return f"{100 * value:.1f} %" if _is_number(value) else "–"


def _interval(share: Mapping[str, Any]) -> str:
    ends: Sequence[Any] = (share.get("low"), share.get("high"))
    return "–".join(f"{100 * end:.1f}" for end in ends) if all(map(_is_number, ends)) else "n = 0"


def _three(value: Any) -> str:
    return f"{value:.3g}" if _is_number(value) else "–"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
