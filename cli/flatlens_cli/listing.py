"""What there is: attacks, models, data, and the layers of a model."""

from __future__ import annotations

from typing import Any

import typer

from flatlens.errors import UsageError
from flatlens.specs.catalogue import Entry
from flatlens_cli import options, terminal


def attacks(json: options.Json = False) -> None:
    """The attacks, and the controls that are walked beside them."""
    from flatlens.attacks import ATTACKS, CONTROLS, SCHEMES
    from flatlens.specs.catalogue import TEXT_ATTACKS, TEXT_CONTROLS

    _show(
        json,
        {
            "attacks": {name: entry.summary for name, entry in ATTACKS.items()},
            **{f"options of {name}": _options(entry) for name, entry in ATTACKS.items() if entry.options},
            "of others": dict(SCHEMES),
            "controls": {name: entry.summary for name, entry in CONTROLS.items()},
            "on language models": {name: entry.summary for name, entry in TEXT_ATTACKS.items()},
            "controls of language models": {name: entry.summary for name, entry in TEXT_CONTROLS.items()},
            "norms": {
                "linf": "largest change of one input value",
                "l2": "Euclidean length of the change",
                "l1": "sum of the absolute changes",
            },
            "objectives": {
                "ce": "cross-entropy of the label, or log p(target)",
                "dlr": "difference of logits ratio (Croce & Hein 2020)",
                "margin": "by how many logits the label has lost, or the target has won",
            },
        },
    )


def defences(json: options.Json = False) -> None:
    """The axes of a defended training with their options, and the recipes over them."""
    from flatlens.specs.defences import AXES, RECIPES

    if json:
        found: dict[str, Any] = {
            axis: {
                name: {
                    "summary": entry.summary,
                    "options": {k: {"default": o.default, "about": o.about} for k, o in entry.options.items()},
                }
                for name, entry in entries.items()
            }
            for axis, entries in AXES.items()
        }
        named = {name: {"summary": recipe.summary, **recipe.axes} for name, recipe in RECIPES.items()}
        terminal.emit(found | {"defence": named})
        return
    groups: dict[str, dict[str, str]] = {}
    for axis, entries in AXES.items():
        rows = groups[f"--{axis.replace('_', '-')} NAME?option=value"] = {}
        for name, entry in entries.items():
            rows[name] = entry.summary
            for option, known in entry.options.items():
                rows[f"  {name}?{option}={known.default}"] = known.about
    recipes: dict[str, str] = {}
    for name, recipe in RECIPES.items():
        chosen = " ".join(f"--{axis.replace('_', '-')} {value}" for axis, value in recipe.axes.items())
        recipes[name] = f"{recipe.summary}: {chosen}"
    _show(False, groups | {"--defence NAME": recipes})


def models(json: options.Json = False) -> None:
    """The models that come with flatlens, and how others are named."""
    from flatlens.models import BUILT_IN, OPTIONS, SCHEMES, plugins

    others = plugins.described()
    groups = {"schemes": dict(SCHEMES), "built-in": dict(BUILT_IN), "all take": dict(OPTIONS)}
    _show(json, groups | ({"plug-ins": others} if others or json else {}))


def datasets(json: options.Json = False) -> None:
    """The data that come with flatlens, and how others are named."""
    from flatlens.datasets import BUILT_IN, SCHEMES
    from flatlens.specs.language import PROMPTS, SHIPPED

    groups = {"schemes": dict(SCHEMES), "built-in": dict(BUILT_IN)}
    _show(json, groups | {"for language models": {**PROMPTS, **SHIPPED}})


def layers(
    context: typer.Context,
    model: options.Model = None,
    data: options.Data = None,
    trust_pickle: options.TrustPickle = None,
    trust_remote_code: options.TrustRemoteCode = None,
    download: options.Download = None,
    json: options.Json = False,
) -> None:
    """The layers of a model that can be probed: how, whether exactly, and at what cost.

    Passes are backward passes of a batch that each step takes more. The cost is that in time, in attack steps: 1
    doubles the time of an attack; the median of several timings, with the least and the largest.
    """
    if model is None:
        raise UsageError("--model is missing; `flatlens models` lists what there is")
    with terminal.stdout_kept_clean(json):
        from flatlens.measure.plan import layer_table

        trust = {"trust_pickle": bool(trust_pickle), "trust_remote_code": bool(trust_remote_code)}
        found = layer_table(model, data, download=bool(download), **trust)
    if json:
        terminal.emit({"model": model, "layers": [row._asdict() for row in found]})
        return
    rows = [("layer", "kind", "shape", "method", "exact", "passes", "cost")]
    for row in found:
        name = f"{row.name} = head" if row.is_head else row.name
        exact = "–" if row.exact is None else "yes" if row.exact else "no"
        passes = "–" if row.passes is None else str(row.passes)
        cost = "–" if row.cost is None else f"{row.cost:.2g} ({row.cost_low:.2g} … {row.cost_high:.2g})"
        rows.append((name, row.kind, " × ".join(map(str, row.shape)), row.method or "–", exact, passes, cost))
    terminal.show(terminal.columns(rows, header=True))


def _options(entry: Entry) -> dict[str, str]:
    """Each option of an attack: what it is, its default, its range."""
    return {
        name: f"{option.about}; {option.default:g} by default, {option.range()}"
        for name, option in entry.options.items()
    }


def _show(json: bool, groups: dict[str, dict[str, str]]) -> None:
    if json:
        terminal.emit(groups)
        return
    width = max(len(name) for entries in groups.values() for name in entries)
    for i, (title, entries) in enumerate(groups.items()):
        terminal.show(terminal.heading(title, first=i == 0))
        terminal.show(terminal.columns([(f"  {name:<{width}}", text) for name, text in entries.items()]))
