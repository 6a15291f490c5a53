"""Lean networks: a frozen network that keeps less for its backward pass.

Stock autograd keeps what only the gradient of a weight needs, and what is quickly computed again. In a lean network a
convolution keeps its weight alone, SiLU after GroupNorm keeps what GroupNorm keeps anyway, attention keeps queries,
keys and values, and a mean over pixels nothing. Outputs have the same bits, gradients the same formulas.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from s4s.errors import Error

Pair = tuple[int, int]
Net = TypeVar("Net", bound=nn.Module)


def lean(net: Net) -> Net:
    """Make a network keep less for its backward pass, in place; outputs and input gradients stay the same.

    It matters only where a gradient with respect to the input is asked for. Trainable weights, forward-mode
    differentiation, ``torch.func``, autocast and ``torch.compile`` take the plain path.

    Returns:
        The same network, of a subclass of its own class.
    """
    kind = type(net)
    if not isinstance(net, _Lean):
        net.__class__ = type(kind.__name__, (_Lean, kind), {"__module__": kind.__module__})
    return net


def unlean(net: Net) -> Net:
    """Undo ``lean``, in place."""
    if isinstance(net, _Lean):
        net.__class__ = type(net).__bases__[1]
    return net


class _Lean(nn.Module):
    """Mixed into the class of a lean network."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not reverse_mode() or any(torch.is_autocast_enabled(device) for device in ("cpu", "cuda")):
            return super().forward(*args, **kwargs)
        with _LeanOperations():
            return super().forward(*args, **kwargs)


class _LeanOperations(TorchFunctionMode):
    """Replaces operations while a gradient is recorded. A replacement returns None where it does not apply."""

    def __init__(self) -> None:
        super().__init__()
        self.norms: dict[int, _Norm] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        replacement = OPERATIONS.get(func)
        made = None if replacement is None or not torch.is_grad_enabled() else replacement(self, *args, **kwargs)
        return func(*args, **kwargs) if made is None else made

    def conv(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor | None:
        if isinstance(padding, str) or not _only_input(input, weight, bias):
            return None
        made: Tensor = _Conv.apply(input, weight, bias, _pair(stride), _pair(padding), _pair(dilation), groups)
        return made

    def group_norm(
        self,
        input: Tensor,
        num_groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor | None:
        """The plain operation, which keeps its input; remembered, because its output is what SiLU would keep."""
        if not _only_input(input, weight, bias):
            return None
        h = F.group_norm(input, num_groups, weight, bias, eps)

        def again(x: Tensor) -> Tensor:
            return F.silu(F.group_norm(x, num_groups, weight, bias, eps))

        self.norms[id(h)] = _Norm(weakref.ref(h), input, input._version, again)
        return h

    def silu(self, input: Tensor, inplace: bool = False) -> Tensor | None:
        norm = self.norms.pop(id(input), None)
        if norm is None or inplace or norm.output() is not input or input._version or norm.changed():
            return None
        h = input.detach()
        made: Tensor = _Again.apply(lambda x: F.silu(h), norm.again, norm.input)
        return made

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **others: Any,
    ) -> Tensor | None:
        if dropout_p or others or (attn_mask is not None and attn_mask.requires_grad):
            return None

        def again(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, attn_mask, 0.0, is_causal)

        made: Tensor = _Again.apply(again, again, query, key, value)
        return made

    def pool(self, input: Tensor, kernel_size: Any, *others: Any, **more: Any) -> Tensor | None:
        height, width = _pair(kernel_size)
        if others or more or input.shape[-2] % height or input.shape[-1] % width:
            return None
        made: Tensor = _MeanPool.apply(input, (height, width))
        return made


@dataclass(frozen=True)
class _Norm:
    """A GroupNorm that was computed: its output, its input, and the function that makes SiLU of it from the input."""

    output: weakref.ref[Tensor]
    input: Tensor
    version: int
    again: Callable[[Tensor], Tensor]

    def changed(self) -> bool:
        return self.input._version != self.version


OPERATIONS: dict[Callable[..., Any], Callable[..., Tensor | None]] = {
    F.conv2d: _LeanOperations.conv,
    F.group_norm: _LeanOperations.group_norm,
    F.silu: _LeanOperations.silu,
    F.scaled_dot_product_attention: _LeanOperations.attention,
    F.avg_pool2d: _LeanOperations.pool,
}


class _Conv(torch.autograd.Function):
    """2-D convolution that keeps its weight; the gradient of its input is the transposed convolution."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.size, ctx.geometry = x.shape[-2:], (stride, padding, dilation, groups)
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        first_order("a lean network")
        (slope,), (weight,), (stride, padding, dilation, groups) = slopes, ctx.saved_tensors, ctx.geometry
        short = [
            ctx.size[i]
            + 2 * padding[i]
            - dilation[i] * (weight.shape[2 + i] - 1)
            - 1
            - (slope.shape[2 + i] - 1) * stride[i]
            for i in (0, 1)
        ]
        of_x = F.conv_transpose2d(slope, weight, None, stride, padding, short, groups, dilation)
        return of_x, None, None, None, None, None, None


class _Again(torch.autograd.Function):
    """``make(*inputs)`` now; keeps the inputs and differentiates ``again(*inputs)``, the same value, when asked."""

    @staticmethod
    def forward(ctx: Any, make: Callable[..., Tensor], again: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        ctx.again = again
        return make(*inputs)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        first_order("a lean network")
        needed = ctx.needs_input_grad[2:]
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_(need) for x, need in zip(ctx.saved_tensors, needed, strict=True)]
            value = ctx.again(*inputs)
        of = iter(torch.autograd.grad(value, [x for x in inputs if x.requires_grad], slopes))
        return None, None, *(next(of) if need else None for need in needed)


class _MeanPool(torch.autograd.Function):
    """Mean over whole, separate windows; keeps nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: Pair) -> Tensor:
        ctx.window = window
        return F.avg_pool2d(x, window)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        first_order("a lean network")
        height, width = ctx.window
        share = slopes[0] / (height * width)
        return F.interpolate(share, scale_factor=(float(height), float(width))), None


def _only_input(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> bool:
    return x.requires_grad and not any(p is not None and p.requires_grad for p in (weight, bias))


def reverse_mode() -> bool:
    """Whether autograd records a graph, and nothing else is going on that the functions of this module do not know."""
    return (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and torch.autograd.forward_ad._current_level < 0
        and torch._C._functorch.peek_interpreter_stack() is None
    )


def _pair(value: Any) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def first_order(what: str) -> None:
    """Raise inside the backward pass of a gradient that is to be differentiated again."""
    if torch.is_grad_enabled():
        raise Error(f"{what} has no second derivatives (create_graph=True); take the plain one for them")
