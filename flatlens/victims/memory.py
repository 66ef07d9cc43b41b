"""How many samples fit: what a pass keeps for its backward pass, and what a device can spare."""

from __future__ import annotations

import torch
from torch import Tensor

from flatlens.models.guard import is_out_of_memory as is_out_of_memory
from flatlens.victims.protocol import Victim

BUDGET = 1 << 30
"""Bytes of saved activations that a batch may take on the CPU: larger batches are not faster there."""
LARGEST = 256


def bytes_per_sample(victim: Victim, x: Tensor, y: Tensor) -> int:
    """Bytes that one sample's forward pass keeps alive: what autograd saves, seen on two samples."""
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        # Weights are saved too, but are there anyway; the batch's share has the batch in front.
        if tensor.dim() and tensor.shape[0] == len(x[:2]):
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    few = victim.place(x[:2])
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        here = victim(few, y[:2].to(victim.device))
    del here
    return max(sum(seen.values()) // len(few), few[0].numel() * few.element_size())


def batch_that_fits(per_sample: int, device: torch.device) -> int:
    """The largest power of two of samples within the budget, 1 … `LARGEST`."""
    budget = BUDGET
    if device.type == "cuda":
        budget = torch.cuda.mem_get_info(device)[0] // 4
    fits = max(1, min(LARGEST, budget // (2 * per_sample)))  # the backward pass needs as much again
    return 1 << (fits.bit_length() - 1)


def keep_freed_memory() -> None:
    """Have the C library keep what a step frees for the next step, instead of faulting it in anew: a tenth of the time.

    glibc gives back to the system what is freed at the end of its heap beyond a threshold, which is twice the size of
    the largest block that it has ever mapped and freed, up to 32 MiB (``mallopt(3)``, M_MMAP_THRESHOLD). One such
    block, never written to, costs nothing. Elsewhere nothing happens.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)
