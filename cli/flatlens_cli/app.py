"""The command ``flatlens``: its commands, and how an error becomes one line and an exit code.

0 done · 1 some of the work failed, what was finished is saved · 2 usage · 130 interrupted
"""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

import flatlens
from flatlens.errors import FlatlensError, PassError, UsageError, one_line
from flatlens.specs.values import shortened
from flatlens_cli import (
    doctor,
    examples,
    exporting,
    listing,
    reporting,
    sweeping,
    terminal,
    tracing,
    training,
    verifying,
    viewing,
)
from flatlens_cli.options import FAILED, INTERRUPTED, USAGE

_HELP = "Exact, per-sample loss-landscape flatness at every step of an adversarial attack."
_START = "Begin with `flatlens demo`: a finished report in seconds, offline."

app = typer.Typer(
    help=f"{_HELP}\n\n{_START}",
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    # What an error looks like is decided here, and not by whether rich can draw a box around it.
    pretty_exceptions_enable=False,
)
for _module in (tracing, reporting, viewing, sweeping, exporting, listing, verifying, training, doctor):
    for _command in _module.COMMANDS:
        app.command(_command.__name__, epilog=examples.of(_command.__name__))(_command)


@app.callback(invoke_without_command=True)
def flatlens_(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", metavar="")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; allowed anywhere.", metavar="")
    ] = False,
) -> None:
    """Print the version, or the help when there is no command."""
    if version:
        terminal.say(f"flatlens {flatlens.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        terminal.say(context.get_help())


def main() -> None:
    """Run the command that was typed, and exit with its code."""
    code = run(sys.argv[1:])
    terminal.flush()
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run a command.

    Returns:
        The exit code. Errors are printed, one line each.
    """
    debug = "--debug" in arguments
    try:
        result = app([word for word in arguments if word != "--debug"], prog_name="flatlens", standalone_mode=False)
    except typer.TyperException as error:
        return _failed(error, _parsing(error), error.exit_code, debug=debug)
    except PassError as error:
        return _failed(error, str(error), FAILED, debug=debug)
    except UsageError as error:
        return _failed(error, str(error), USAGE, debug=debug)
    except FlatlensError as error:
        return _failed(error, str(error), FAILED, debug=debug)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        # Whatever is typed may be no place at all: too long a name, links in a circle, a folder that one may not read.
        what = _place(error)
        return _failed(error, what, USAGE, debug=debug)
    except Exception as error:
        what = f"internal: {one_line(error, kind=True)}"
        return _failed(error, what if debug else f"{what}; run again with --debug", FAILED, debug=debug)
    return result if isinstance(result, int) else 0


def _place(error: OSError) -> str:
    named = "" if error.filename is None else f" '{shortened(os.fsdecode(error.filename))}'"
    return f"cannot use{named or ' what was named'}: {error.strerror or error}; name another place"


def _failed(error: Exception, message: str, code: int, *, debug: bool) -> int:
    if debug:
        terminal.complain("".join(traceback.format_exception(error)).rstrip("\n"), lines=True)
    terminal.complain("error: " + " ".join(line.strip() for line in message.split("\n")).strip())
    return code


def _parsing(error: typer.TyperException) -> str:
    """The parser's message in the form of ours: the value, and what would work."""
    if (option := getattr(error, "option_name", None)) and (near := getattr(error, "possibilities", None)):
        return f"no option '{option}'. Did you mean '{difflib.get_close_matches(option, near, 1, 0.0)[0]}'?"
    message = " ".join(error.format_message().split()).rstrip(".")
    message = message[:1].lower() + message[1:]
    if message.endswith("?"):
        return message
    context = getattr(error, "ctx", None)
    return f"{message}; `{context.command_path if context else 'flatlens'} --help` lists what there is"
