"""`flatlens view`: the runs and sweeps of a folder in a browser, on this machine alone."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from flatlens_cli import options, terminal


def view(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A folder with runs and sweeps in it, nested or not; a run's or a sweep's own.",
            metavar="DIR",
            show_default=False,
        ),
    ],
    port: Annotated[
        int | None,
        typer.Option(
            "--port", parser=options.whole, help="Port to listen on.", metavar="N", show_default="one that is free"
        ),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open it in the browser, or only print its address.")
    ] = True,
) -> None:
    """Look through the runs and sweeps of a folder in a browser; those under way are shown as they go.

    It prints its address, which holds a secret, and serves this machine alone until Ctrl-C. Nothing is written.
    """
    from flatlens.viewer import app

    with app.serve(folder, port or 0) as server:
        terminal.say(server.address)
        terminal.complain(f"showing '{folder}', to this machine alone; Ctrl-C ends it")
        if browser:
            _open(server.address)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.2)


def _open(address: str) -> None:
    """In the user's browser, where there is one; the address has been printed in any case."""
    import webbrowser

    with contextlib.suppress(webbrowser.Error, OSError):
        webbrowser.open(address)
