"""Memory of a gradient through the sampler: steps that are computed again instead of kept.

Autograd keeps the activations of every step, so memory grows with the number of evaluations. ``recompute(denoise)``
keeps a step's state alone and computes the activations again in the backward pass (gradient checkpointing, Chen et al.
2016, arXiv:1604.06174), unless they fit into a budget. It goes well with ``lean(net)``, which keeps less of each step.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from s4s.errors import Error
from s4s.learn.lean import first_order, reverse_mode
from s4s.solver import Denoise

PLENTY = 0.5  # share of the free memory that ``plenty`` gives to activations
MALLOPT = {-1: 2**31 - 1, -3: 2**25}  # glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, bytes; more it may refuse
NEGLIGIBLE = 256  # of one evaluation's activations in what is free: more than any learned solver has evaluations


class SavedBytes(saved_tensors_hooks):
    """Counts, in a ``with`` block, what autograd keeps: each storage once, parameters not, freed ones no more.

    ``now`` is what is kept at present, ``peak`` the most that ever was. To count what ``recompute`` keeps in the
    backward pass, have that in the block too.
    """

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._holders: Counter[int] = Counter()
        super().__init__(self._pack, lambda held: held.tensor)

    def __enter__(self) -> Self:  # type: ignore[override]
        super().__enter__()
        return self

    def _pack(self, tensor: Tensor) -> _Held:
        held = _Held(tensor.detach())  # not the tensor: an output would hold its own graph alive
        if not isinstance(tensor if tensor._base is None else tensor._base, nn.Parameter):
            storage = tensor.untyped_storage()
            self._add(storage._cdata, storage.nbytes(), 1)
            held.release = lambda: self._add(storage._cdata, storage.nbytes(), -1)
        return held

    def _add(self, key: int, size: int, holders: int) -> None:
        before = self._holders[key]
        self._holders[key] = after = before + holders
        if not after:
            del self._holders[key]
        self.now += size * (bool(after) - bool(before))
        self.peak = max(self.peak, self.now)


class _Held:
    """What autograd holds in place of a tensor; alive as long as the graph needs it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.release: Callable[[], None] = lambda: None

    def __del__(self) -> None:
        self.release()


def recompute(denoise: Denoise, budget: float | None = 0) -> Denoise:
    """The same denoiser, whose activations are computed again in the backward pass: twice the forward passes.

    Gradients are the same. Without a gradient to record it does nothing, and forward-mode differentiation and
    ``torch.func`` go past it.

    Args:
        denoise: the frozen network. It must be a function of its arguments: called twice, it gives the same.
        budget: bytes of activations that may be kept at a time; evaluations that fit are not computed again. The size
            of one is measured at the first, which is kept if anything may be. None: ``plenty`` of where the states are.

    Raises:
        Error: a negative budget; in the backward pass, a network that is not frozen, or a second derivative.
    """
    if budget is not None and not budget >= 0:
        raise Error(f"budget = {budget} bytes must not be negative")
    saved, row, step = SavedBytes(), 0.0, _Step(denoise)

    def again(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal row
        if not reverse_mode() or not (x.requires_grad or sigma.requires_grad):
            return denoise(x, sigma)
        room = plenty(x.device) if budget is None else budget - saved.now
        if budget is None and 0 < row * len(x) < room / NEGLIGIBLE:
            return denoise(x, sigma)
        if room < 2 * row * len(x) or not room:  # what it takes, and what a recomputed one takes later
            made: Tensor = _Recomputed.apply(step, x, sigma)
            return made
        before = saved.now
        with saved:
            D = denoise(x, sigma)
        row = (saved.now - before) / len(x)
        return D

    return again


class _Step:
    """A denoiser, checked once for being frozen."""

    def __init__(self, denoise: Denoise) -> None:
        self.denoise, self.checked = denoise, False

    def check(self, D: Tensor, inputs: list[Tensor]) -> None:
        """Raise if a gradient would reach anything but the inputs: ``recompute`` would lose it."""
        nodes, seen = [D.grad_fn], set()
        while nodes and not self.checked:
            node = nodes.pop()
            leaf = getattr(node, "variable", None)
            if leaf is not None and not any(leaf is x for x in inputs):
                raise Error(
                    f"recompute: a tensor {list(leaf.shape)} inside the network needs a gradient; freeze it first"
                )
            if node is not None and node not in seen:
                seen.add(node)
                nodes += [parent for parent, _ in node.next_functions]
        self.checked = True


class _Recomputed(torch.autograd.Function):
    """``denoise(x, sigma)`` that keeps its arguments only."""

    @staticmethod
    def forward(ctx: Any, step: _Step, x: Tensor, sigma: Tensor) -> Tensor:
        ctx.save_for_backward(x, sigma)
        ctx.step, ctx.autocast = step, _autocast(x.device.type)
        return step.denoise(x, sigma)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        first_order("recompute")
        needed = ctx.needs_input_grad[1:]
        with torch.enable_grad(), ctx.autocast or nullcontext():
            inputs = [x.detach().requires_grad_(need) for x, need in zip(ctx.saved_tensors, needed, strict=True)]
            D = ctx.step.denoise(*inputs)
        ctx.step.check(D, inputs)
        asked = [x for x in inputs if x.requires_grad]
        of = iter(torch.autograd.grad(D, asked, slopes, allow_unused=True))
        return None, *(next(of) if need else None for need in needed)


def _autocast(kind: str) -> torch.autocast | None:
    """The autocast that is on, to be entered again."""
    if kind not in ("cpu", "cuda") or not torch.is_autocast_enabled(kind):
        return None
    return torch.autocast(kind, torch.get_autocast_dtype(kind))


def keep_freed() -> bool:
    """Have this process keep the memory it frees for its next step, where it is glibc that manages it (Linux).

    glibc gives large blocks back to the system at once, and every step of a sampler or a fit faults its activations
    in again, page by page. Now only blocks above 32 MiB go back. A setting of the whole process, so the command line
    makes it and importing s4s does not.

    Returns:
        Whether it took effect.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    return mallopt is not None and all([mallopt(option, value) for option, value in MALLOPT.items()])


def peak_bytes(device: str = "cpu") -> int | None:
    """The most memory that this process has had, libraries included; on a GPU, the most that tensors had there.

    None where the system does not say.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def plenty(device: torch.device) -> float:
    """Bytes that activations may take without a second thought: half of what is free; no limit where unknown."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return PLENTY * (torch.cuda.mem_get_info(device)[0] + unused)
    if device.type == "cpu" and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return PLENTY * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return float("inf")
