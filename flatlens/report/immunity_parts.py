"""What the pages of immunizations share: a card with a figure, tables, pills, and that nothing else is written over."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape
from pathlib import Path

from flatlens.errors import ResourceError
from flatlens.files.borders import DamageError, plain_file
from flatlens.report import html_file, static_svg
from flatlens.report.modules import joined
from flatlens.report.packing import Plain

PROGRAM = "pages/immunity.js"
"""The module that is the page."""
KIND = "of-immunity"
WIDTH, HEIGHT = 680, 330


def save(text: str, file: Path) -> Path:
    """Write a page of this kind over nothing else than one.

    Raises:
        ResourceError: the file cannot be written, or is something else.
    """
    if not may_replace(file):
        raise ResourceError(f"'{file}' is there and is no page of an immunization; move it, or name another --out")
    return html_file.save(text, file)


def may_replace(file: Path) -> bool:
    """Whether nothing is there, or what a full disk left, or a page of an immunization."""
    try:
        text = plain_file(file).read_bytes()
    except FileNotFoundError:
        return True
    except (OSError, DamageError):
        return False
    return f'<body class="{KIND}">'.encode() in text or not text.strip(b"\0")


@cache
def program() -> str:
    """The page's program: the same for every immunization."""
    return joined(PROGRAM) + "\nopenImmunity();"


def key_number(value: str, name: str, aside: str) -> str:
    """A number of the first screen, as HTML; any texts."""
    return f"<li><b>{escape(value)}</b><span>{escape(name)}</span><span>{escape(aside)}</span></li>"


def pill(code: str, text: str) -> str:
    """A caution that opens, as HTML; any texts."""
    return f"<details><summary>{escape(code.replace('-', ' '))}</summary>{escape(text)}</details>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table's inside as HTML, each row under the name in its first cell; any texts."""
    top = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    lines = [
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    ]
    return f"<thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody>"


def card(name: str, title: str, caption: str, figure: Plain, said: str, rows: str) -> str:
    """A figure with its still picture and its numbers, as HTML.

    Args:
        name: of the figure, which is the place's id.
        title: any text.
        caption: any text.
        figure: plotly's plain data.
        said: the figure in words; any text.
        rows: a table's inside, see `table`.
    """
    still = static_svg.svg(figure, width=WIDTH, height=HEIGHT, label=said)
    still = still.replace('id="inside"', f'id="inside-{name}"').replace("url(#inside)", f"url(#inside-{name})")
    return (
        f'<figure class="card"><h2>{escape(title)}</h2><div class="plot" id="{name}" role="group" tabindex="0" '
        f'aria-label="{escape(said)}">{still}</div><figcaption>{escape(caption)}</figcaption>'
        f'<details class="data"><summary>Numbers</summary><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(f"Numbers of: {title}")}"><table>{rows}</table></div></details></figure>'
    )


def table_card(name: str, title: str, rows: str, note: str) -> str:
    """A table on a card of its own, as HTML; ``rows`` is a table's inside, the others any texts."""
    return (
        f'<section class="card" aria-labelledby="{name}-title"><h2 id="{name}-title">{escape(title)}</h2>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}: a table"><table class="figures">'
        f'{rows}</table></div><p class="note">{escape(note)}</p></section>'
    )
