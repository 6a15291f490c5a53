"""A device that is not there: tensors that say they are on it, and an error where they meet others, as a GPU makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

THERE = torch.device("xpu:0")
MAY_MEET = {"__getitem__", "__setitem__", "to", "copy_", "type_as", "index_select"}  # indices may lie on the CPU


class There(Tensor):
    """A tensor of the device; its numbers are in ordinary memory."""


def there(x: Tensor) -> Tensor:
    return x.detach().as_subclass(There)


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors(one)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))


def mapped(value: Any, of: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return of(value)
    if isinstance(value, list | tuple):
        made = [mapped(one, of) for one in value]
        return type(value)(made) if type(value) in (list, tuple) else value
    return value


def _near(value: Any) -> Any:
    """The device's name in a call becomes that of ordinary memory."""
    return torch.device("cpu") if isinstance(value, torch.device) else value


class Elsewhere(TorchFunctionMode):
    """While it is on, tensors made by ``there`` are on the device and may not meet those on the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", str(func))
        if getattr(func, "__self__", None) is Tensor.device:
            return THERE if isinstance(args[0], There) else torch.device("cpu")
        given = [x for x in tensors((args, kwargs))]
        on_it = [isinstance(x, There) for x in given]
        goes = self._goes(name, args, kwargs, on_it)
        if any(on_it) and name not in MAY_MEET and any(not t and x.ndim for x, t in zip(given, on_it, strict=True)):
            raise RuntimeError(f"{name}: expected all tensors to be on the same device")
        with torch._C.DisableTorchFunctionSubclass():
            made = func(*map(_near, args), **{key: _near(value) for key, value in kwargs.items()})
        return mapped(made, lambda x: x.as_subclass(There if goes else Tensor))

    def _goes(self, name: str, args: Any, kwargs: Any, on_it: list[bool]) -> bool:
        """Whether the result is on the device."""
        if name == "cpu":
            return False
        said = [v for v in (*args[1:], *kwargs.values()) if isinstance(v, torch.device)]
        if said:
            return said[0] == THERE
        if name == "to" and len(args) > 1 and isinstance(args[1], Tensor):
            return isinstance(args[1], There)
        return on_it[0] if name in MAY_MEET and on_it else any(on_it)
