"""What `flatlens immunize` says of whole networks: what an immunization destroyed, and where fine-tuning ends."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatlens_cli import terminal

if TYPE_CHECKING:
    from rich.console import RenderableType

_NOTE = (
    "Measured on samples that were held out. The harmful task's least-squares accuracy does not depend on "
    "conditioning: where it has fallen, features were destroyed, and no linear probe finds them again. Whoever "
    "fine-tunes all weights may: --fine-tune shows it."
)


def text(told: dict[str, Any], out: Path) -> RenderableType:
    """The summary for people."""
    from rich.console import Group
    from rich.padding import Padding

    before, after, model = told["before"], told["after"], told["model"]

    def share(name: str) -> str:
        return f"{100 * before[name]:.1f} → {100 * after[name]:.1f} %"

    def kappa(task: str, name: str) -> str:
        values = (one[task][name] for one in (before, after))
        return " → ".join("infinite" if value is None else f"{value:.4g}" for value in values)

    def ratio(name: str, wanted: str) -> str:
        return "none" if told[name] is None else f"{told[name]:.4g} ({wanted} is wanted)"

    rows = [
        ("model", f"{model['uri']}, all weights, inputs of {model['layer'] or 'the model'}"),
        ("method", f"{told['method']} with the useful task's loss, {terminal.several(told['epochs'], 'epoch')}"),
        ("primary", f"{share('primary_accuracy')} right by its own head, {share('primary_probe')} by least squares"),
        ("harmful", f"{share('harmful_probe')} right by least squares: what is lost"),
        ("κ harmful", f"{kappa('harmful', 'condition_number')}, i = {ratio('i', 'above 1')}"),
        ("κ primary", f"{kappa('primary', 'condition_number')}, ii = {ratio('ii', 'below 1')}"),
        ("effective", f"harmful {kappa('harmful', 'effective')}, of rank {kappa('harmful', 'rank')}"),
        ("RIR", "none" if told["rir"] is None else f"{told['rir']:.4g}, with a ridge of {told['ridge']:g}"),
        ("written", str(out)),
        *([("load it by", model["loads_by"])] if model["loads_by"] else []),
    ]
    parts = [terminal.columns(rows)]
    if tuned := told.get("fine_tuning"):
        parts.append(Padding(fine_tuned(tuned, "immunization"), (1, 0, 0, 0)))
    return Group(*parts, Padding(terminal.note(_NOTE), (1, 0, 0, 0)))


def fine_tuned(told: dict[str, Any], what: str) -> RenderableType:
    """Where the whole network ends, fine-tuned on the harmful task: as it was → immunized by ``what``."""
    epochs = terminal.several(told["epochs"], "epoch")
    header = (
        f"whole network fine-tuned, {epochs}",
        f"harmful: without {what} → with it",
        "after 1 epoch",
        "primary, own head frozen",
    )
    rows = []
    for optimizer in told["rates"]["identity"]:
        cells = []
        for task, when in (("harmful", "end"), ("harmful", "first"), ("primary", "end")):
            plain, immune = (told["accuracy"][who][optimizer][task][when] for who in ("identity", "immunized"))
            cells.append(f"{100 * plain:.1f} → {100 * immune:.1f} %")
        rows.append((f"{optimizer}, mean of {len(told['seeds'])} seeds", *cells))
    return terminal.columns([header, *rows], header=True)
