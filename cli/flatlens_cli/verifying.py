"""This machine's numbers against dense Hessians and PyHessian, as a table."""

from __future__ import annotations

import typer

from flatlens_cli import options, terminal
from flatlens_cli.terminal import FAILED


def verify(model: options.Model = None, data: options.Data = None, json: options.Json = False) -> None:
    """This machine's numbers against dense Hessians and PyHessian: one sample, every layer, in float64.

    The last line is the verdict. Exit code 0: fine; 1: not.
    """
    with terminal.stdout_kept_clean(json):
        from flatlens.peers.verify import verdict, verify

        checks = verify(model or "flatlens:digits-cnn", data)
        found = verdict(checks)
    if json:
        facts = {"model": model or "flatlens:digits-cnn", "checks": [check._asdict() for check in checks]}
        terminal.emit(facts | {"fine": found.fine, "verdict": found.text})
        _end(found.fine)
        return
    rows = [("layer", "measure", "method", "flatlens", "dense", "rel. error", "PyHessian", "off by", "s", "s", "s")]
    for c in checks:
        off = f"{c.deviation:+.1f} se" if c.stderr else f"{c.deviation:+.0e}"
        rows.append(
            (
                c.layer,
                c.measure,
                c.method,
                f"{c.flatlens:.6g}",
                "" if c.dense is None else f"{c.dense:.6g}",
                "" if c.error is None else f"{c.error:.0e}",
                f"{c.pyhessian:.4g}" + (f" ± {c.stderr:.2g}" if c.stderr else ""),
                off,
                f"{c.seconds:.3f}",
                "" if c.seconds_dense is None else f"{c.seconds_dense:.2f}",
                f"{c.seconds_pyhessian:.2f}",
            )
        )
    terminal.show(terminal.columns(rows, header=True))
    terminal.say("Seconds: flatlens, dense, PyHessian. se: standard errors of PyHessian's estimate.")
    terminal.say(f"verdict  {found.text}")
    _end(found.fine)


def _end(fine: bool) -> None:
    if not fine:
        raise typer.Exit(FAILED)
