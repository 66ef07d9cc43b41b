"""One HTML file: styles, scripts and data inside, plotly inside or linked, and a policy that allows nothing else."""

from __future__ import annotations

import base64
import hashlib
import html
from importlib.resources import files
from pathlib import Path
from string import Template

from flatlens.errors import ResourceError
from flatlens.files.atomic import clear_leftovers, write_file
from flatlens.files.borders import DamageError, plain_file
from flatlens.report.packing import compressed

PLOTLY = "plotly.min.js"
POLICY = "default-src 'none'; script-src {}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
HOME = '<span class="home">flatlens</span>'
"""What stands beside the mark at the top of a page; where the page is served, a link may take its place."""
_MARK = '<svg viewBox="0 0 40 20" aria-hidden="true"><path d="M1 15C9 15 10 3 15 3S20 18 27 18H39"/></svg>'
BUNDLE = "plotly-cartesian.min.js"
"""plotly.js of the version inside the Python package, without maps, three dimensions and what else no page draws."""


def shell(
    template: str | None,
    *,
    title: str,
    css: str,
    scripts: str = "",
    kind: str = "notice",
    policy: str | None = None,
    without: str = "",
    home: str = HOME,
    **texts: str,
) -> str:
    """A page as text: the head that all pages share, around what is a page's own.

    Args:
        template: the HTML asset of what is its own; None: it is ``body``, one of the texts.
        title: what the browser's tab says; any text.
        css: styles; a policy may name them by their hash, with a line's end before and after.
        scripts: the page's script elements, the program last.
        kind: the class of the page's body.
        policy: what the page forbids itself, where no server says it.
        without: what is said where scripts do not run; any text.
        home: HTML beside the mark at the top.
        texts: HTML for the template's places.
    """
    texts |= {"title": html.escape(title), "brand": f'<div class="brand">{_MARK}{home}</div>'}
    own = texts["body"] if template is None else asset_of(template, **texts)
    return Template(asset("shell.html")).substitute(
        title=texts["title"],
        policy=f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n' if policy else "",
        css=css,
        kind=kind,
        body=own,
        without=f'<noscript><p class="note">{html.escape(without)}</p></noscript>\n' if without else "",
        scripts=scripts,
    )


def home_link(name: str) -> str:
    """The way back to the list of a folder, for `shell`; its name is any text."""
    return f'<a class="home" href="/" title="All runs and sweeps">← <bdi>{html.escape(name)}</bdi></a>'


def with_home(page: bytes, name: str) -> bytes:
    """A page with a link to the list of the folder ``name`` at its top, if it has a place for it."""
    return page.replace(HOME.encode(), home_link(name).encode("utf-8", "backslashreplace"), 1)


def document(
    template: str,
    *,
    title: str,
    css: str,
    data: str,
    script: str,
    kind: str,
    without: str,
    plotly: str | None = None,
    packed: bool = False,
    **texts: str,
) -> str:
    """A page that is one file, as text.

    Args:
        template: the HTML asset.
        title: what the browser's tab says; any text.
        css: styles.
        data: text that cannot end its element (`packing.to_json`, `packing.compressed`).
        script: the page's program.
        kind: the class of the page's body.
        without: what is said where scripts do not run; any text.
        plotly: the relative URL of a plotly.min.js to link; None puts plotly into the page.
        packed: the data are compressed, and the program unpacks plotly itself, where it is in the page.
        texts: HTML for the template's other places.
    """
    program = wrapped(script)
    if plotly is None:
        own = inline(asset(BUNDLE))
        allowed, nonce = f"{hashed(own)} {hashed(program)}", ""
        later = f'<script type="application/octet-stream" id="plotly">{compressed(own)}</script>'
        library = later if packed else f"<script>{own}</script>"
    else:
        # A file has no origin that a policy could name: only scripts that bear the page's own mark run. The mark
        # depends on all that comes from outside, so that nothing from outside can bear it.
        mark = hashlib.sha256((plotly + title + data + "".join(texts.values())).encode()).hexdigest()[:32]
        allowed, nonce = f"'nonce-{mark}'", f' nonce="{mark}"'
        library = f'<script{nonce} src="{html.escape(plotly)}"></script>'
    held = f'<script type="application/{"octet-stream" if packed else "json"}" id="flatlens-data">{data}</script>'
    return shell(
        template,
        title=title,
        css=css,
        kind=kind,
        policy=POLICY.format(allowed),
        without=without,
        scripts=f"{held}\n{library}\n<script{nonce}>{program}</script>\n",
        **texts,
    )


def hashed(script: str) -> str:
    """A script or a style as a policy names it: whatever else is on the page, this one may run."""
    # The parser reads \r\n as \n before it compares.
    digest = hashlib.sha256(script.replace("\r\n", "\n").encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def last_script(text: str) -> str:
    """What the last script element of a page holds: its program."""
    start = text.index(">", text.rindex("<script")) + 1
    return text[start : text.rindex("</script>")]


def wrapped(script: str) -> str:
    """A program as it stands in a page's last script element."""
    return f'\n"use strict";\n(() => {{\n{inline(script)}\n}})();\n'


def asset(*names: str) -> str:
    """Files of this package, one after the other."""
    return "\n".join((files("flatlens.report") / "assets" / name).read_text(encoding="utf-8") for name in names)


def asset_of(name: str, /, **texts: str) -> str:
    """An HTML asset with its places filled: ``texts`` are HTML."""
    return Template(asset(name)).substitute(texts)


def inline(script: str) -> str:
    """A program, escaped so that it cannot end the script element around it."""
    # Inside a script element only these two sequences end or disturb it; both occur in strings at most.
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def save(text: str, file: Path) -> Path:
    """Write a file under a temporary name and rename it when it is complete: a reader never sees half of it.

    Raises:
        ResourceError: the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(file.parent, file.name)
        write_file(file, text.encode("utf-8", "backslashreplace"))  # names of files may be no UTF-8
    except OSError as error:
        raise ResourceError(f"cannot write {file}: {error.strerror or error}") from error
    return file


def is_whole(file: Path) -> bool:
    """Whether a page was not emptied or cut off, as by a full disk; a file that is no page counts as complete."""
    try:
        with plain_file(file).open("rb") as page:
            begin = page.read(9)
            page.seek(-min(64, file.stat().st_size), 2)
            end = page.read().rstrip()
            return begin.strip(b"\0") != b"" and (begin.lower() != b"<!doctype" or end.endswith(b"</html>"))
    except (OSError, DamageError):
        return False


def save_plotly(folder: Path) -> Path:
    """Put plotly.min.js into a folder for pages that link it; one that is there must be plotly's own, or is replaced.

    Raises:
        ResourceError: the file cannot be written.
    """
    file, own = Path(folder) / PLOTLY, asset(BUNDLE)
    try:
        if plain_file(file).read_bytes() == own.encode():
            return file
    except (OSError, DamageError):
        pass  # it is not there, or leads elsewhere
    return save(own, file)
