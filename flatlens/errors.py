"""The errors that flatlens raises, and the one way to say "did you mean".

    FlatlensError
    ├── UsageError            what was asked for cannot be done; says what would work
    │   ├── SpecError         a value of a run's or sweep's specification
    │   ├── AttackError       an attack, its parameters, or what it returned
    │   ├── DataError         data: missing, truncated, of the wrong type, shape or range
    │   ├── ModelError        a model: cannot be loaded, or is not a deterministic classifier
    │   │   └── PassError     a model that failed in the middle of the work; what was finished is saved
    │   ├── LayerError        a layer that does not exist or cannot be probed
    │   └── RunError          a run folder: not one, or of another specification
    └── ResourceError         memory, disk or permission; what was finished is saved
        └── DiskError         the disk is full, not writable, or the folder is gone

Every message is one line that names the value and what would work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class FlatlensError(Exception):
    """Base of all errors that flatlens raises on purpose."""


class UsageError(FlatlensError, ValueError):
    """What was asked for cannot be done; the message says what would work."""


class SpecError(UsageError):
    """A value of a run's or sweep's specification is wrong."""


class AttackError(UsageError):
    """An attack, its parameters, or what it returned is wrong."""


class AttackFailedError(AttackError, RuntimeError):
    """Somebody's attack raised an error of its own while it was recorded."""


class DataError(UsageError):
    """Data are missing, truncated, of the wrong type or shape, or out of range."""


class ModelError(UsageError):
    """A model cannot be loaded, or is not a deterministic classifier that returns logits."""


class PassError(ModelError):
    """A model failed at a pass in the middle of the work; what was finished before is saved."""


class LayerError(UsageError):
    """A layer does not exist or cannot be probed.

    Attributes:
        refused: layers that exist but cannot be probed, and why: a line each.
    """

    def __init__(self, message: str, layer: str | None = None, refused: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.refused: dict[str, str] = dict(refused or ({} if layer is None else {layer: message}))

    @classmethod
    def of(cls, refused: Mapping[str, str]) -> LayerError:
        """One error for all of them, in the words of the first."""
        return cls(next(iter(refused.values())), refused=refused)


class RunError(UsageError):
    """A folder is no run, or holds a run of another specification."""


class LayerPassError(LayerError, PassError):
    """A layer that, at a pass in the middle of the work, is not what it was when it was tried."""


class StaleRunError(RunError):
    """A run cannot be gone on with: it is damaged, or was begun with other settings, weights or data."""


class LoggerError(UsageError):
    """A tracker of experiments that is not installed, or could not write."""


class ResourceError(FlatlensError):
    """Memory, disk or permission ran out; what was finished is saved."""


class DiskError(ResourceError):
    """The disk is full or not writable, or a results folder was removed: no other work of it can go on either."""


_LONGEST = 300
"""Characters of a message of somebody else's code that are shown."""
_LONGEST_OWN = 1000
"""Characters of a message of ours, which may list names."""


def one_line(error: BaseException, *, kind: bool = False) -> str:
    """An error's message in one line, for a message, a table or a terminal.

    Nothing is taken for granted of the error, which may be of anybody's code: its message may be empty, have many
    lines or a million characters, hold what no terminal shows, or raise an error when it is asked for.

    Args:
        error: any error.
        kind: whether the name of its type comes first: ``ValueError: …``.

    Returns:
        The message, cut after 300 characters (after 1,000 if it is flatlens' own); the name of the type alone where
        there is no message.
    """
    name, text = type(error).__name__, " ".join(_text(error).split())
    longest = _LONGEST_OWN if isinstance(error, FlatlensError) else _LONGEST
    said = text if len(text) <= longest else f"{text[:longest]}…"
    return (f"{name}: {said}" if kind else said) if said else name


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as worse:
        text = f"(its message cannot be shown: {type(worse).__name__})"
    return "".join(c if c.isprintable() or c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


def unknown(kind: str, name: object, known: Iterable[str], *, where: str = "known") -> str:
    """One line for a name that does not exist, with all that do and the nearest match.

    Args:
        kind: what the name should have been, for example ``"layer"``.
        name: what was typed.
        known: the names that exist.
        where: how the list is introduced, for example ``"this model has"``.

    Returns:
        ``no layer 'fx'; this model has: conv1, conv2, fc. Did you mean 'fc'?``
    """
    names = list(known)
    shown = ", ".join(names[:24]) + (f", … ({len(names)} in all)" if len(names) > 24 else "")
    near = nearest(str(name), names)
    hint = f" Did you mean '{near}'?" if near else ""
    return f"no {kind} '{name}'; {where}: {shown or 'none'}.{hint}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name that was probably meant: what differs in case alone comes first; None if nothing is near."""
    import difflib  # here: most runs have nothing to guess

    plain: dict[str, str] = {}
    for one in known:
        plain.setdefault(one.casefold(), one)
    near = difflib.get_close_matches(name.casefold(), list(plain), n=1, cutoff=0.5)
    return plain[near[0]] if near else None
