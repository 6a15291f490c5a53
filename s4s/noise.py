"""Starting noise: the same bits for a sample everywhere; a mean and scale where it is not ``N(0, sigma_max^2)``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s4s.errors import Error
from s4s.values import doubles, whole

Numbers = float | Sequence[Any] | Tensor
MOST = 2**64 - 1  # of seeds and indices: each is one of the two words of a generator's key


def noise(seed: int, indices: Iterable[int], shape: tuple[int, ...]) -> Tensor:
    """Standard normal starting noise, float64 [len(indices), *shape].

    Sample ``i`` comes from a Philox counter generator keyed by ``(seed, i)``: the same values whatever the batch,
    the number of shards, the device or the machine. ``solver.x_T(noise)`` is the start made of it: ``sigma[0]`` times
    it, unless the solver says otherwise.
    """
    if not isinstance(shape, Iterable) or not isinstance(indices, Iterable):
        raise Error(f"shape = {shape!r} and indices = {indices!r} must be whole numbers in a row, such as (3, 32, 32)")
    shape = tuple(whole(n, "shape") for n in shape)
    size = math.prod(shape)
    rows = [philox(seed, i).standard_normal(size) for i in indices]
    return torch.from_numpy(np.stack(rows) if rows else np.empty((0, size))).reshape(-1, *shape)


def philox(seed: int, index: int, apart: int = 0, counter: Sequence[int] | None = None) -> np.random.Generator:
    """The generator of ``(seed, index)``, whole numbers from 0 to 2^64 - 1: every pair has draws of its own.

    ``apart``, of 32 bits, and ``counter`` keep draws for different uses apart. The key is of one unsigned type: numpy
    makes floats of mixed numbers, which tell large seeds no longer apart.
    """
    words = whole(seed, "seed", 0, MOST) ^ (apart << 32), whole(index, "index", 0, MOST)
    return np.random.Generator(np.random.Philox(key=np.array(words, dtype=np.uint64), counter=counter))


@dataclass(frozen=True, eq=False)
class Start:
    """The distribution of ``x_T`` where it is not ``N(0, sigma_max^2)``: ``mean + scale * noise``, in EDM coordinates.

    Args:
        mean, scale: numbers, or arrays that broadcast against one sample; the scale is the standard deviation.

    Raises:
        Error: not numbers, or a scale that is not positive.
    """

    mean: Numbers
    scale: Numbers

    def __post_init__(self) -> None:
        for key in ("mean", "scale"):
            value = doubles(getattr(self, key), f"{key} of the starting noise").detach().cpu()
            if not value.isfinite().all() or (key == "scale" and not (value > 0).all()):
                raise Error(f"{key} of the starting noise must be {'positive' if key == 'scale' else 'finite'}")
            object.__setattr__(self, key, value)

    def x_T(self, normal: Tensor) -> Tensor:
        """Standard normal noise [B, ...] -> ``x_T``, in its dtype and on its device."""
        mean, scale = (torch.as_tensor(value).to(normal) for value in (self.mean, self.scale))
        try:
            made = mean + scale * normal
        except RuntimeError:
            made = normal[:0]
        if made.shape != normal.shape:
            shapes = f"{list(mean.shape)} and {list(scale.shape)}"
            raise Error(
                f"mean and scale of the starting noise, {shapes}, do not fit samples of shape {list(normal.shape[1:])}"
            )
        return made

    def same(self, other: Start | None) -> bool:
        """Whether the two are equal to the bit."""
        return other is not None and self.to_dict() == other.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {key: torch.as_tensor(getattr(self, key)).tolist() for key in ("mean", "scale")}


def noise_from_dict(data: Any) -> Start:
    """Inverse of ``Start.to_dict``."""
    if not isinstance(data, dict) or {*data} != {"mean", "scale"}:
        raise Error("'noise' must be an object with 'mean' and 'scale'")
    return Start(**data)
