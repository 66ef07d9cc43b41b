"""The one wrapper around the user's model: whatever goes wrong in it becomes one line that names the pass.

Models that cannot be measured, such as those without weights, are refused here before any pass is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from flatlens.errors import FlatlensError, LayerError, LayerPassError, ModelError, PassError, ResourceError, one_line
from flatlens.specs.catalogue import CONTROLS

_QUANTIZED = (
    "torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized", "torch.nn.quantized",
    "torchao.", "bitsandbytes.",
)  # fmt: skip
_NO_GRADIENT = (
    "its output has no gradient with respect to its input: something in it detaches, runs under torch.no_grad, or "
    "leaves the input out; remove that, or record an attack that needs no gradient (fl.attacks.recorded)"
)


class Where:
    """Which pass of the work is being made: the pass of a path of a batch, both counted from 1."""

    def __init__(self) -> None:
        self.path: str | None = None
        self.restart = 0
        self.batch = 1
        self.passes = 0
        self.dtype: torch.dtype | None = None

    def begin(self, path: str, restart: int) -> None:
        """A path begins."""
        self.path, self.restart, self.passes = path, restart, 0

    def end(self) -> None:
        """The path is over; passes from here on are of no path."""
        self.path = None

    def __str__(self) -> str:
        if self.path is None:
            return "while it is tried, before the attack"
        which = f"the {'control ' if self.path in CONTROLS else ''}{self.path}"
        run = f"run {self.restart + 1} of " if self.restart else ""
        return f"at pass {self.passes}: step {max(0, self.passes - 1)} of batch {self.batch} of {run}{which}"

    def error(self, what: str) -> ModelError:
        """``what`` went wrong here."""
        return (ModelError if self.path is None else PassError)(f"the model fails {self}: {what}")

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Errors of the model in this block become a line that names the pass; out of memory and Ctrl-C go through."""
        try:
            yield
        except (KeyboardInterrupt, PassError):
            raise
        except ModelError as error:
            raise self.error(_without_subject(str(error))) from error
        except LayerError as error:
            if self.path is None:
                raise
            raise LayerPassError(f"the model fails {self}: {error}") from error
        except FlatlensError:
            raise
        except BaseException as error:
            if is_out_of_memory(error):
                raise
            raise self.error(_NO_GRADIENT if _unused(error) else one_line(error, kind=True)) from error

    def check(self, logits: Tensor, n: int, classes: int, *, gradient: bool) -> None:
        """Whether a pass gave what the others did: ``[n, classes]`` of one dtype, with a gradient if it is needed.

        Raises:
            ModelError: it has not. Values that are not finite are a finding, and no error.
        """
        if tuple(logits.shape) != (n, classes):
            raise self.error(f"it returns shape {tuple(logits.shape)}, and returned ({n}, {classes}) when it was tried")
        self.dtype = self.dtype or logits.dtype
        if logits.dtype != self.dtype:
            now, before = (str(kind).removeprefix("torch.") for kind in (logits.dtype, self.dtype))
            raise self.error(f"it returns {now}, and returned {before} before")
        if gradient and self.path is not None and not logits.requires_grad:
            raise self.error(_NO_GRADIENT)


@contextmanager
def net(what: str, *, memory: bool = True) -> Iterator[None]:
    """Errors of the model's code outside of a pass, in a copy, a hook or a check, become one line; our own go through.

    Args:
        what: for messages: ``"while it is checked"``.
        memory: also say that memory ran out; otherwise that goes through.

    Raises:
        ResourceError: memory ran out.
        ModelError: the model's code has raised something else.
        FlatlensError: as it was raised.
        KeyboardInterrupt: as it was raised.
    """
    try:
        yield
    except (KeyboardInterrupt, FlatlensError):
        raise
    except BaseException as error:
        if is_out_of_memory(error):
            if not memory:
                raise
            raise ResourceError(
                f"out of memory {what}; give fewer or smaller inputs at a time (--batch-size), or a smaller model"
            ) from error
        if isinstance(error, Exception) and not in_model(error):
            raise
        raise ModelError(f"the model fails {what}: {one_line(error, kind=True)}") from error


def in_model(error: BaseException, model: nn.Module | None = None) -> bool:
    """Whether an error was raised within the call of a model: of this one, or of any."""
    parts = None if model is None else {id(part) for part in model.modules()}
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        called = frame.f_code is nn.Module._call_impl.__code__
        if called and (parts is None or id(frame.f_locals.get("self")) in parts):
            return True
        trace = trace.tb_next
    return False


def check_kind(model: object) -> None:
    """Refuse by name what cannot be measured, before anything is tried.

    Raises:
        ModelError: it is no module, TorchScript, quantised, on the meta device, lazy, or has complex weights.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model is a {type(model).__name__}; give a torch.nn.Module, made and in eval mode")
    for name, part in model.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise ModelError(
                f"{_part(name, 'TorchScript')}, whose layers cannot be probed; give the nn.Module that it was made "
                "from, with its state_dict"
            )
        if type(part).__module__.startswith(_QUANTIZED):
            raise ModelError(
                f"{_part(name, f'quantised ({type(part).__name__})')}, which has no gradient; give the float model "
                "that it was made from"
            )
    for kind, tensors in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in tensors:
            _check_tensor(f"{kind} '{name}'", tensor)


def _check_tensor(name: str, tensor: Tensor) -> None:
    if is_lazy(tensor):
        raise ModelError(
            f"{name} of the model is lazy: it has no values yet; call the model once on a batch before it is measured"
        )
    if tensor.is_meta:
        raise ModelError(
            f"{name} of the model is on the meta device: it has no values; load the weights "
            "(load_state_dict(weights, assign=True), or to_empty(device='cpu') first)"
        )
    if tensor.is_quantized or str(tensor.dtype).startswith(("torch.float8", "torch.float4")):
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ModelError(f"{name} of the model is quantised ({kind}); give the float model that it was made from")
    if tensor.is_complex():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ModelError(
            f"{name} of the model is complex ({kind}), and Hessians here are of real weights; hold real and imaginary "
            "parts as two real parameters (torch.view_as_real)"
        )


def _part(name: str, what: str) -> str:
    return f"layer '{name}' of the model is {what}" if name else f"the model is {what}"


def _without_subject(text: str) -> str:
    return "it " + text.removeprefix("the model ") if text.startswith("the model ") else text


def _unused(error: BaseException) -> bool:
    words = ("appears to not have been used in the graph", "does not require grad and does not have a grad_fn")
    return isinstance(error, RuntimeError) and any(text in one_line(error, kind=True) for text in words)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    # What the CPU's allocator says differs between systems.
    text = one_line(error, kind=True).lower()
    spoken = any(words in text for words in ("not enough memory", "can't allocate memory"))
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or spoken
