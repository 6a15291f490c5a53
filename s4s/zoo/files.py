"""What published files of learned solvers hold: tensors and plain values, read as data; nothing in them is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error
from s4s.models import checkpoint
from s4s.models.nvidia import Layer, read_predictor, tensors
from s4s.models.source import opened

MOST_BYTES = 64 << 20


def torch_file(path: Path | str) -> Mapping[str, Any]:
    """The dictionary of a file of ``torch.save``."""
    path = Path(path)
    with opened(path, MOST_BYTES) as (file, size):
        top = checkpoint.load(path, file, size)
    if not isinstance(top, dict):
        raise Error(f"{path}: holds no dictionary of tensors")
    return top


def layers(path: Path | str, *wanted: tuple[str, str]) -> list[Layer]:
    """The layers of a pickle, each under a key and of a class."""
    path = Path(path)
    with opened(path, MOST_BYTES) as (file, _):
        data = file.read()
    if data[:2] == b"PK":
        raise Error(f"{path}: a torch archive, as DyWeight's for FLUX: a flow from time 1, told times above it, which "
                    "have no noise level")  # fmt: skip
    try:
        top = read_predictor(memoryview(data))
    except Error as error:
        raise Error(f"{path}: {error}") from error
    for key, kind in wanted:
        if type(top.get(key)) is not Layer or top[key].class_name != kind:
            raise Error(f"{path}: holds no {kind} under {key!r}")
    return [top[key] for key, _ in wanted]


def numbers(path: Path | str, layer: Layer, **shapes: tuple[int | None, ...]) -> list[Tensor]:
    """Parameters and buffers of a layer, float64, by their names and shapes; None is any size, the same everywhere.

    Raises:
        Error: one is missing, of another shape, or not finite.
    """
    found = tensors(layer)
    made = []
    for name, shape in shapes.items():
        value = found[name].read().double() if name in found else torch.full((1,), torch.nan)
        fits = len(value.shape) == len(shape) and all(b in (None, a) for a, b in zip(value.shape, shape, strict=True))
        if not fits or not value.isfinite().all():
            raise Error(f"{path}: '{name}' is missing, or not the numbers that a {layer.class_name} has")
        made.append(value)
    return made


def plain(value: Any) -> Any:
    """A value that a record may hold, else None."""
    return value if type(value) in (str, int, float, bool) else None
