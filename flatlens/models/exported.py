"""``export:FILE.pt2``: programs of ``torch.export``, whose Linear and convolution layers are given back as modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from flatlens.errors import ModelError, one_line
from flatlens.files.archives import check
from flatlens.specs.trust import Trust
from flatlens.specs.uris import Uri

_FIX = "export it with torch.export.export(model.eval(), (x,), dynamic_shapes=({0: torch.export.Dim('n')},))"


def make(uri: Uri, shape: tuple[int, ...], classes: int, trust: Trust) -> tuple[nn.Module, str]:
    """The program as a module, its normalisation being part of it, and where it comes from.

    Reading such a file can run code (its constants may be pickled, its expressions are evaluated), so that it has to
    be trusted.

    Raises:
        ModelError: not trusted, missing, damaged, or exported for one size of a batch only.
    """
    uri.only([])
    file = uri.file
    if not uri.path or not file.is_file():
        what = "is a folder" if file.is_dir() else "is not there"
        raise ModelError(f"file '{uri.path}' {what}; export:FILE.pt2 needs a file of torch.export.save")
    check(file, ModelError, stored=True)
    if not trust.pickle:
        raise ModelError(
            f"'{file}' is a program of torch.export, which can run code when it is read; if you know who made it, "
            "trust it with --trust-pickle"
        )
    try:
        program = torch.export.load(file)
        module = program.module()
    except Exception as error:  # a damaged file raises whatever its bytes provoke
        raise ModelError(
            f"'{file}' is no program of torch.export, or is damaged or cut off ({one_line(error)}); save it again"
        ) from error
    if not isinstance(module, fx.GraphModule):
        raise ModelError(f"'{file}' holds no graph; {_FIX}")
    _check_inputs(module, file.name)
    for name in ("train", "eval"):  # which torch.export replaces by functions that refuse
        module.__dict__.pop(name, None)
    _restore_layers(module)
    for part in module.modules():
        part.training = False
    return module, f"torch.export program {uri.path}"


def _check_inputs(module: fx.GraphModule, name: str) -> None:
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise ModelError(f"'{name}' takes {len(inputs)} inputs; one is needed, images or features")
    value = inputs[0].meta.get("val")
    if isinstance(value, torch.Tensor) and value.dim() and not isinstance(value.shape[0], torch.SymInt):
        raise ModelError(f"'{name}' is for batches of {value.shape[0]} only; {_FIX}")


def _restore_layers(module: fx.GraphModule) -> None:
    """Each use of a weight by ``linear`` or ``conv`` becomes the call of a module, where its parts allow it.

    A program knows operators only, but layers are named, and tapped, as modules.
    """
    for node in list(module.graph.nodes):
        if node.op == "call_function" and (layer := _layer(module, node)) is not None:
            name, made = layer
            module.set_submodule(name, made)
            with module.graph.inserting_before(node):
                call = module.graph.call_module(name, (node.args[0],))
            call.meta = dict(node.meta)
            node.replace_all_uses_with(call)
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _layer(module: fx.GraphModule, node: fx.Node) -> tuple[str, nn.Module] | None:
    """Name and module for a node that is one, or None."""
    kinds: dict[Any, Any] = {
        torch.ops.aten.linear.default: None,
        torch.ops.aten.conv1d.default: nn.Conv1d,
        torch.ops.aten.conv2d.default: nn.Conv2d,
    }
    if node.target not in kinds or node.kwargs:
        return None
    weight, bias = node.args[1], node.args[2] if len(node.args) > 2 else None
    if not isinstance(weight, fx.Node) or weight.op != "get_attr" or len(weight.users) != 1:
        return None
    name, _, end = str(weight.target).rpartition(".")
    if not name or end != "weight":
        return None
    if bias is not None and not (isinstance(bias, fx.Node) and bias.target == f"{name}.bias" and len(bias.users) == 1):
        return None
    holder = module.get_submodule(name)
    named = {"weight"} | ({"bias"} if bias is not None else set())
    if {key for key, _ in holder.named_parameters()} != named or any(True for _ in holder.buffers()):
        return None
    values = holder.get_parameter("weight")
    if (kind := kinds[node.target]) is None:
        made: nn.Module = nn.Linear(values.shape[1], values.shape[0], bias=bias is not None, device="meta")
    else:
        axes = values.dim() - 2
        given: dict[str, Any] = dict(zip(("stride", "padding", "dilation", "groups"), node.args[3:], strict=False))
        groups = int(given.pop("groups", 1))
        sizes = {key: tuple(v * axes if len(v) == 1 else v) for key, v in given.items()}
        made = kind(
            values.shape[1] * groups, values.shape[0], tuple(values.shape[2:]), groups=groups, bias=bias is not None,
            device="meta", **sizes,
        )  # fmt: skip
    for key in named:
        setattr(made, key, holder.get_parameter(key))
    return name, made
