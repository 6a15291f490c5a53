"""The time that the networks of a pipeline are told: a number for all rows, and a gradient for each of them."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

from torch import Tensor, nn

NAMES = ("timestep", "timesteps", "t")  # of the argument
AFFINE = 0.02  # relative; half precision rounds what a network is told by less

Change = Callable[[Tensor, int], Tensor]
"""Of what a network is told and the rows it is told for, to what it is told instead."""


def pipeline_slope(told: Mapping[float, float]) -> float:
    """How what the network is told moves with the pipeline's time, from three times; 0 where that is no line.

    Args:
        told: time -> what the network was told, at equal distances.
    """
    (a, low), (_, middle), (b, high) = sorted(told.items())
    slope = (high - low) / (b - a)
    return slope if abs(middle - (low + high) / 2) <= AFFINE * abs(high - low) else 0.0


@contextmanager
def moved(pipe: Any, times: Tensor, slope: float) -> Iterator[None]:
    """While this lasts, the gradient of what the pipeline's networks are told reaches ``times`` [B], row by row.

    A pipeline has one time for all rows. They keep its value, and each gets the slope of its own time beside it;
    networks that are asked with rows repeated, as for guidance, have them in the same order each time.
    """
    own = slope * (times - times.detach())
    if not own.requires_grad:
        yield
        return
    with hooked(pipe, partial(_with_slope, own)):
        yield


def _with_slope(own: Tensor, told: Tensor, rows: int) -> Tensor:
    if rows % len(own):
        return told
    if told.ndim == 0 or len(told) != rows:
        told = told.reshape(-1)[:1].expand(rows)
    return told + own.repeat(rows // len(own)).reshape(-1, *[1] * (told.ndim - 1)).to(told)


@contextmanager
def hooked(pipe: Any, change: Change) -> Iterator[None]:
    """While this lasts, every network of the pipeline is told something else when this thread asks it."""
    parts = {part: _place(_forward(part)) for part in vars(pipe).values() if isinstance(part, nn.Module)}
    thread = threading.get_ident()
    handles = [
        part.register_forward_pre_hook(partial(_changed, change, place, thread), with_kwargs=True)
        for part, place in parts.items()
        if place is not None
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _forward(part: nn.Module) -> Callable[..., Any]:
    """Of a compiled network, that of the network."""
    network: nn.Module = getattr(part, "_orig_mod", part)
    return type(network).forward


def _changed(
    change: Change, place: tuple[str, int], thread: int, net: nn.Module, args: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments of a call of the network with another time; None leaves them."""
    name, k = place
    told = options.get(name, args[k] if k < len(args) else None)
    if threading.get_ident() != thread or not (isinstance(told, Tensor) and told.is_floating_point()):
        return None
    first = next(value for value in (*args, *options.values()) if isinstance(value, list) or _is_batch(value))
    new = change(told, len(told) if told.ndim and len(told) > 1 else len(first))
    return (args, options | {name: new}) if name in options else ((*args[:k], new, *args[k + 1 :]), options)


def _is_batch(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 1


@lru_cache
def _place(forward: Callable[..., Any]) -> tuple[str, int] | None:
    """Name and position of the time among the arguments of a network, None of what is told none."""
    names = [*inspect.signature(forward).parameters][1:]
    return next(((name, names.index(name)) for name in NAMES if name in names), None)
