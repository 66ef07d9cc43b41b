"""The command ``flatlens``: its commands, and how an error becomes one line and an exit code.

0 done · 1 some of the work failed, what was finished is saved · 2 usage · 130 interrupted
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, NamedTuple

import typer

import flatlens
from flatlens.errors import FlatlensError, PassError, UsageError, one_line
from flatlens.specs.values import shortened
from flatlens_cli import examples, terminal
from flatlens_cli.terminal import FAILED, INTERRUPTED, USAGE

_HELP = "Exact, per-sample loss-landscape flatness at every step of an adversarial attack."
_START = "Begin with `flatlens demo`: a finished report in seconds, offline."


class Verb(NamedTuple):
    """A command: the module that its function lies in, and the first line of that function's docstring."""

    module: str
    summary: str


VERBS = {
    "demo": Verb(
        "tracing", "The built-in model and data under PGD, with controls: a finished report in seconds, offline."
    ),
    "trace": Verb("tracing", "Run an attack; at every step measure loss, prediction and the flatness of layers."),
    "report": Verb(
        "reporting",
        "Draw a run's report again, several runs on one page, a sweep, finished or not, or an immunization.",
    ),
    "view": Verb(
        "viewing", "Look through the runs and sweeps of a folder in a browser; those under way are shown as they go."
    ),
    "sweep": Verb("sweeping", "Many runs from one file, on all cores or on a cluster; what is finished is never lost."),
    "status": Verb("sweeping", "What of a sweep is done, running, failed, and why; or how far a run is."),
    "export": Verb(
        "exporting", "One tidy table over the finished runs of a sweep: a row per run, path, sample, step and layer."
    ),
    "layers": Verb("listing", "The layers of a model that can be probed: how, whether exactly, and at what cost."),
    "models": Verb("listing", "The models that come with flatlens, and how others are named."),
    "datasets": Verb("listing", "The data that come with flatlens, and how others are named."),
    "attacks": Verb("listing", "The attacks, and the controls that are walked beside them."),
    "defences": Verb("listing", "The axes of a defended training with their options, and the recipes over them."),
    "verify": Verb(
        "verifying",
        "This machine's numbers against dense Hessians and PyHessian: one sample, every layer, in float64.",
    ),
    "train": Verb(
        "training",
        "Train a model, standard or with a defence; what it reaches is written beside the weights, with a page of it.",
    ),
    "robustness": Verb(
        "robustness",
        "What several attacks leave of a model's accuracy: the worst case, its interval, and whether to believe it.",
    ),
    "autopsy": Verb(
        "autopsy",
        "Why samples withstand an attack on the cross-entropy: no gradient, saturation, a weak search, or none found.",
    ),
    "detect": Verb(
        "detect",
        "Curvature as a detector of attacks, beside entropy, top-2 gap and the features' length, attack by attack.",
    ),
    "condition": Verb(
        "condition",
        "The condition number of the Hessian of a probe on a model's features: how fast it can be learnt.",
    ),
    "immunize": Verb(
        "immunize",
        "Append a linear map to a model's features, so that a harmful task is slow to learn on them; and say how slow.",
    ),
    "pairs": Verb(
        "pairs",
        "Immunize every ordered pair of a data set's classes; a heat map of which can be had against which.",
    ),
    "reproduce": Verb(
        "reproducing", "Try the papers' claims, with controls, and say for each what came out: a verdict by rule."
    ),
    "claims": Verb("reproducing", "The papers' claims that can be tried, a line each."),
    "doctor": Verb("doctor", "Versions, devices, optional parts, what is missing and how to get it."),
}
"""The commands, in the order of the help."""


def application(typed: str | None = None) -> typer.Typer:
    """The command line.

    Args:
        typed: the command that is wanted, or "" for none: the others are there by name and summary alone. Reading the
            options of all commands would take longer than all else that ``flatlens --help`` does. None: all in full.
    """
    app = typer.Typer(
        help=f"{_HELP}\n\n{_START}",
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
        # What an error looks like is decided here, and not by whether rich can draw a box around it.
        pretty_exceptions_enable=False,
    )
    app.callback(invoke_without_command=True)(_root)
    for name, verb in VERBS.items():
        if typed in (None, name):
            command = getattr(import_module(f"flatlens_cli.{verb.module}"), name)
            app.command(name, epilog=examples.of(name))(command)
        else:
            app.command(name, help=verb.summary)(_by_name_alone)
    return app


def _by_name_alone() -> None:
    raise AssertionError("a command that was not typed is never run")


def _root(
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
    words = [word for word in arguments if word != "--debug"]
    # A shell that completes may ask for any command's options.
    typed = None if "_FLATLENS_COMPLETE" in os.environ else next((w for w in words if not w.startswith("-")), "")
    try:
        result = application(typed)(words, prog_name="flatlens", standalone_mode=False)
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
        import traceback

        terminal.complain("".join(traceback.format_exception(error)).rstrip("\n"), lines=True)
    terminal.complain("error: " + " ".join(line.strip() for line in message.split("\n")).strip())
    return code


def _parsing(error: typer.TyperException) -> str:
    """The parser's message in the form of ours: the value, and what would work."""
    import difflib

    if (option := getattr(error, "option_name", None)) and (near := getattr(error, "possibilities", None)):
        return f"no option '{option}'. Did you mean '{difflib.get_close_matches(option, near, 1, 0.0)[0]}'?"
    message = " ".join(error.format_message().split()).rstrip(".")
    message = message[:1].lower() + message[1:]
    if message.endswith("?"):
        return message
    context = getattr(error, "ctx", None)
    return f"{message}; `{context.command_path if context else 'flatlens'} --help` lists what there is"
