"""A fit takes derivatives whatever the caller has switched off: hosts call everything under ``inference_mode``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from s4s.errors import Error
from s4s.learn.teacher import TeacherSet
from s4s.solver import Solver

P = ParamSpec("P")
T = TypeVar("T")

NO_GRADIENT = (
    "the network's weights were made under torch.inference_mode, and radius > 0 needs gradients through them: "
    "load the network outside of it, or leave the radius out"
)


def with_derivatives(function: Callable[P, T]) -> Callable[P, T]:
    """``function`` with gradients on, and with solvers and teacher sets that were made without as ordinary tensors.

    Raises:
        Error: weights of the network were made under ``inference_mode``, and a gradient has to go through them.
    """

    @wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> T:
        with torch.inference_mode(False), torch.enable_grad():
            _load_forward_mode()
            try:
                return function(*map(_ordinary, args), **{k: _ordinary(v) for k, v in options.items()})
            except RuntimeError as error:
                if "Inference tensors cannot be saved for backward" not in str(error):
                    raise
                raise Error(NO_GRADIENT) from error

    return run


def _ordinary(value: Any) -> Any:
    """Solvers or a teacher set whose tensors can take part in derivatives; anything else as it is."""
    if isinstance(value, Solver) and any(array.is_inference() for array in value.arrays.values()):
        return value.replace(**{key: array.clone() for key, array in value.arrays.items()})
    if isinstance(value, list | tuple):
        return [_ordinary(one) for one in value]
    if isinstance(value, TeacherSet):
        return replace(value, y=_cloned(value.y), condition=_cloned(value.condition))
    return value


def _cloned(tensor: Any) -> Any:
    return tensor.clone() if isinstance(tensor, Tensor) and tensor.is_inference() else tensor


@cache
def _load_forward_mode() -> None:
    """Have torch load its forward mode, without the warning about its own scripting that it prints while it does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jacfwd(torch.sin)(torch.zeros(1))
