"""The server's own pages: the list, the frame around a run under way, and one line about what cannot be shown."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from html import escape
from typing import Any

from flatlens.report import html_file, packing
from flatlens.report.modules import joined
from flatlens.report.roles import styles
from flatlens.version import __version__
from flatlens.viewer.rows import Row

WITHOUT_SCRIPT = 2_000
"""Rows of the list that are there before a script has run, or without one."""


def listing(root: str, rows: Sequence[Row], left_out: int) -> tuple[str, str]:
    """The page that lists runs and sweeps, and its policy.

    Args:
        root: what the folder is called.
        rows: of `flatlens.viewer.rows`.
        left_out: how many more there are.
    """
    return _page(
        "list",
        "opened",
        {"root": root, "rows": rows, "left_out": left_out},
        title=f"{root} · flatlens",
        without="Without a script the list is as it was when it was opened, and cannot be sorted or compared.",
        root=escape(root),
        count=f"{len(rows):,}",
        rows="".join(_static(row) for row in rows[:WITHOUT_SCRIPT]),
        footer=escape(f"flatlens {__version__}: shown by this machine, to this machine alone."),
    )


def live(root: str, row: Row) -> tuple[str, str]:
    """The page around a run that is not finished: how far it is, and its picture so far, which is kept up to date."""
    return _page(
        "live",
        "follow",
        row,
        title=f"{_name(row)} · {row['state']} · flatlens",
        without="Without a script there is no picture here before the run is finished.",
        home=html_file.home_link(root),
        name=escape(_name(row)),
        said=escape(_far(row)),
    )


def notice(said: str) -> tuple[str, str]:
    """One line about what cannot be shown, and its policy."""
    css = _css()
    body = f"<main><h1>flatlens</h1><p>{escape(said)}</p></main>\n"
    text = html_file.shell(None, title="flatlens", css=css, body=body)
    style = html_file.hashed(_styled(css))
    return text, f"default-src 'none'; style-src {style}; img-src data:; base-uri 'none'; form-action 'none'"


def _page(kind: str, begin: str, data: Any, **texts: str) -> tuple[str, str]:
    """A page and its policy; ``begin`` is the function of its program that starts it."""
    css, script = _css(), _program(f"pages/{kind}.js", begin)
    held = f'<script type="application/json" id="listing">{packing.to_json(data)}</script>'
    scripts = f"{held}\n<script>{script}</script>\n"
    text = html_file.shell(f"{kind}.html", kind=f"of-{kind}", css=css, scripts=scripts, **texts)
    allowed = (
        f"default-src 'none'; script-src {html_file.hashed(script)}; style-src {html_file.hashed(_styled(css))}; "
        "connect-src 'self'; frame-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return text, allowed


def _styled(text: str) -> str:
    """The content of an element, in whose template it stands on lines of its own."""
    return f"\n{text}\n"


@cache
def _css() -> str:
    return styles() + "\n" + html_file.asset("shell.css", "run.css", "list.css").strip("\n")


@cache
def _program(entry: str, begin: str) -> str:
    return html_file.wrapped(f"{joined(entry)}\n{begin}();")


def _name(row: Row) -> str:
    return str(row.get("name") or row.get("label") or row["place"])


def _far(row: Row) -> str:
    if row["kind"] == "sweep":
        return f"{row['state']}: {row.get('done', 0):,} of {row.get('total', 0):,} cells"
    if row["state"] in ("running", "interrupted"):
        return f"{row['state']}: {row['done']:,} of {row['total']:,} batches"
    return str(row.get("error") or row["state"])


def _static(row: Row) -> str:
    """A row of the list without a script."""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["when"]))
    cells: list[Any] = [row.get("model", ""), row.get("data", ""), row.get("attack", ""), _far(row), when]
    link = f'<a href="{escape(row["href"])}">{escape(_name(row))}</a>'
    return f'<tr><th scope="row">{link}</th>{"".join(f"<td>{escape(str(cell))}</td>" for cell in cells)}</tr>'
