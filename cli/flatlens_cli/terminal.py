"""What people and programs see: results on stdout, everything about the work on stderr.

Colour and width are rich's decision: none without a terminal, none with ``NO_COLOR``. Text may be anybody's (names of
folders, models and layers, what an error said), and could steer a terminal: all of it passes `visible`.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import math
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, cast

FAILED, USAGE, INTERRUPTED = 1, 2, 130
"""Exit codes, beside 0."""
_NO_WIDTH = 10_000

if TYPE_CHECKING:
    from rich.console import RenderableType


def visible(text: str, *, lines: bool = False) -> str:
    r"""Text in which all that a terminal would obey, or not show, is written out: ``\x1b``, ``\u202e``, ``\n``.

    Args:
        text: anybody's.
        lines: whether its line breaks may break lines.
    """
    if text.isprintable():
        return text
    keep = " \n" if lines else " "
    return "".join(c if c.isprintable() or c in keep or _is_space(c) else _written_out(c) for c in text)


def _is_space(c: str) -> bool:
    return unicodedata.category(c) == "Zs"


def _written_out(c: str) -> str:
    return c.encode("unicode_escape").decode("ascii")


def show(what: RenderableType, *, err: bool = False) -> None:
    """Print something rich on stdout, or on stderr."""
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    console = Console(file=stream, highlight=False, emoji=False, markup=False)
    with _whether_read_or_not(stream):
        if console.is_terminal:
            console.print(what)
        else:
            # A file or a pipe has no width: one line stays one line, for grep and for pasting.
            console.width = _NO_WIDTH
            with console.capture() as printed:
                console.print(what)
            stream.write("".join(f"{line.rstrip()}\n" for line in printed.get().splitlines()))
        stream.flush()


def columns(rows: Sequence[Sequence[str]], *, header: bool = False) -> RenderableType:
    """Aligned columns without lines between them; the first column, and a header, stand out."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=header, pad_edge=False, padding=(0, 2, 0, 0))
    first, *rest = rows
    for i, title in enumerate(first):
        table.add_column(
            Text(visible(title), style="bold") if header else "", style="" if i else "cyan", overflow="fold"
        )
    for row in rest if header else rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    return table


def note(line: str) -> RenderableType:
    """A remark that stands back."""
    from rich.text import Text

    return Text(visible(line), style="dim")


def heading(line: str, *, first: bool) -> RenderableType:
    """A title above a group of lines, with an empty line before all but the first."""
    from rich.text import Text

    return Text(visible(line) if first else f"\n{visible(line)}", style="bold")


def say(line: str) -> None:
    """Print a line on stdout."""
    _print(visible(line), sys.stdout)


def complain(line: str, *, lines: bool = False) -> None:
    """Print a line, or several, on stderr."""
    _print(visible(line, lines=lines), sys.stderr)


def emit(result: object) -> None:
    """Print the result as one JSON object on stdout; what is not finite becomes null."""
    text = json.dumps(plain(result), ensure_ascii=False, allow_nan=False)
    if not text.isprintable():  # JSON has a way of its own to write such characters out
        text = "".join(c if c.isprintable() or _is_space(c) else json.dumps(c)[1:-1] for c in text)
    _print(text, sys.stdout)


def _print(text: str, stream: IO[str]) -> None:
    with _whether_read_or_not(stream):
        print(text, file=stream, flush=True)


@contextlib.contextmanager
def stdout_bytes() -> Iterator[IO[bytes]]:
    """Stdout for bytes, such as an exported table; on a terminal, which might obey them, they are made visible."""
    with _whether_read_or_not(sys.stdout):
        yield cast("IO[bytes]", _Shown(sys.stdout)) if sys.stdout.isatty() else sys.stdout.buffer
        sys.stdout.flush()


class _Shown:
    """A stream of bytes before a terminal."""

    closed = False

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def write(self, content: bytes) -> int:
        self._stream.write(visible(self._decoder.decode(bytes(content)), lines=True))
        return len(content)

    def flush(self) -> None:
        self._stream.flush()


def flush() -> None:
    """Write out what is left, so that a closed pipe is not complained of at the interpreter's end."""
    for stream in (sys.stdout, sys.stderr):
        with _whether_read_or_not(stream):
            stream.flush()


def plain(value: Any) -> Any:
    """``value`` as JSON knows it: numpy's scalars as Python's, NaN and ±inf as None, paths as text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def live() -> Iterator[Callable[[RenderableType], None]]:
    """Something rich on stdout that is drawn anew in its place; drawn one after the other without a terminal."""
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        yield show
        return
    with Live(console=console, auto_refresh=False, transient=True) as place:
        yield lambda what: place.update(what, refresh=True)


@contextlib.contextmanager
def stdout_kept_clean(wanted: bool) -> Iterator[None]:
    """Send what a user's own model prints to stderr, so that stdout holds the JSON object alone."""
    with contextlib.redirect_stdout(sys.stderr) if wanted else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _whether_read_or_not(stream: IO[str]) -> Iterator[None]:
    """Work that is done is done, also when nobody reads about it to the end (``flatlens attacks | head -1``)."""
    try:
        yield
    except BrokenPipeError:
        # What is still buffered goes where no error comes from.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def several(n: int, what: str) -> str:
    """A count with its noun: ``1 cell``, ``3 cells``."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
