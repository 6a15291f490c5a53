"""Tensors between two steps of a host: whether they share memory, and whether they are still what a step returned."""

from __future__ import annotations

import torch
from torch import Tensor


def shares(a: Tensor, b: Tensor) -> bool:
    """Whether writing to one may change the other."""
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def version(tensor: Tensor) -> int:
    """How often a tensor was changed in place; tensors of inference mode do not count it."""
    return 0 if tensor.is_inference() else tensor._version


def same(sample: Tensor, returned: Tensor | None, changes: int) -> bool:
    """Whether a sample is what the last step returned: the object itself, or one of its values."""
    if sample is returned:
        return version(sample) == changes
    if returned is None or sample.shape != returned.shape:
        return False
    return torch.allclose(sample, returned.to(sample), rtol=0, atol=0, equal_nan=True)
