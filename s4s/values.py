"""Numbers as people have them: arrays in any order of memory, whole numbers of other types, levels, outputs."""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s4s.errors import Error

NEAR = 0.01  # relative; how far levels may lie outside a process's own


def doubles(value: Any, what: str) -> Tensor:
    """Numbers in a list, a tensor or an array as a float64 tensor.

    Raises:
        Error: ``what`` holds text, or is not rectangular.
    """
    try:
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "fiu":
                raise TypeError(f"numpy array of {value.dtype}")
            value = np.array(value, dtype=np.float64, order="C")  # torch takes no strides below 0
        return torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise Error(f"{what} is not a rectangular array of numbers ({error})") from error


def whole(value: Any, what: str, least: int | None = 1, most: int | None = None) -> int:
    """A whole number of Python, numpy or torch as an ``int``; ``Error`` for anything else and outside the bounds."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except (TypeError, RuntimeError):
        number = None
    low = number is not None and least is not None and number < least
    if number is None or low or (most is not None and number > most):
        ends = "" if least is None else f" of at least {least}" if most is None else f" from {least} to {most}"
        raise Error(f"{what} = {value!r:.60} must be a whole number{ends}")
    return number


def wholes(value: Any, what: str, fewest: int = 1) -> list[int]:
    """One whole number or several, rising, each once; ``Error`` where too few, or another thing is among them."""
    found = sorted({whole(one, what) for one in (value if isinstance(value, Iterable) else [value])})
    if len(found) < fewest:
        raise Error(f"{what} holds no number of evaluations")
    return found


def amount(value: Any, what: str) -> float:
    """A number of Python, numpy or torch that is 0 or more as a ``float``; ``Error`` for anything else."""
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise Error(f"{what} = {value!r} must be a finite number")
    if number < 0:
        raise Error(f"{what} = {value!r} must not be negative")
    return number


def require_device(name: Any) -> torch.device:
    """A device by its name; ``Error`` where it is none, or is not here."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        raise Error(f"device {name!r} is not here: {str(error).splitlines()[0]}") from error
    return device


def require_function(value: Any, what: str, such: str) -> None:
    """Raise unless a value can be called; ``such`` is an example of what is meant."""
    if not callable(value):
        raise Error(f"{what} must be a function, such as {such}, got a {type(value).__name__}")


def require_title(progress: Any) -> None:
    """Raise unless a bar's title is text, or None for no bar."""
    if not (progress is None or isinstance(progress, str)):
        raise Error(f"progress = {progress!r:.60} must be text, which stands before the bar, or None")


def require_dtype(dtype: Any) -> None:
    """Raise unless states can be of a dtype."""
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise Error(f"dtype = {dtype!r:.60} must be one of torch's for floating point numbers, such as torch.float32")


def require_floats(value: Any, what: str) -> None:
    """Raise unless a state is a tensor of floating point numbers."""
    if not (isinstance(value, Tensor) and value.is_floating_point()):
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise Error(f"{what} must be a tensor of floating point numbers, got {kind}")


@contextmanager
def dtype_in_words(x: Tensor) -> Iterator[None]:
    """One line of ours for torch's error that a network's weights are of another dtype than the state it gets."""
    try:
        yield
    except RuntimeError as error:
        text, dtype = " ".join(str(error).split()), str(x.dtype).removeprefix("torch.")
        if not re.search(r"same dtype|same datatype|scalar type|type.*should be the same", text):
            raise
        raise Error(f"the network does not take states of {dtype}: give x_T in the dtype of its weights, such as "
                    f"x_T.float() for float32 ({text})") from error  # fmt: skip


def plain(value: Any) -> Any:
    """What JSON does not know in a record, as it does: numpy's numbers, arrays and tensors; text for the rest."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray | Tensor) else str(value)


def without_variance(output: Tensor, sample: Tensor) -> Tensor:
    """What a network predicts of a sample [B, C, ...]: of twice the channels, with a variance last, the first half."""
    require_floats(output, "the network's output")
    if output.shape == sample.shape:
        return output
    if output.ndim > 1 and output.shape[1] == 2 * sample.shape[1] and output.shape[0] == sample.shape[0]:
        return output.chunk(2, 1)[0]
    raise Error(f"the network's output has shape {list(output.shape)}, the sample {list(sample.shape)}")


def require_known(levels: Tensor, denoise: Any) -> None:
    """Raise unless levels [N] are within those that a denoiser made by ``Process.denoiser`` knows."""
    process = getattr(denoise, "process", None)
    if process is not None:
        low, high = levels.detach().aminmax()
        require_between(low.item(), high.item(), *process.levels)


def require_between(low: float, high: float, lowest: float, highest: float) -> None:
    """Raise unless levels, the lowest and the highest of them, are within those of a process."""
    if low < lowest * (1 - NEAR) or high > highest * (1 + NEAR):
        raise Error(f"noise levels {high:.6g} to {low:.6g} go beyond those of the process, {highest:.6g} to "
                    f"{lowest:.6g}: the network would be told times it does not know; take a grid of this process, or "
                    "give the process a wider range if the network has one")  # fmt: skip


def check_levels(sigma: Tensor, *, strictly: bool) -> None:
    """Raise unless the levels [N+1] fall (strictly, or never rise) and are positive, the last possibly 0."""
    if not sigma.isfinite().all():
        raise Error("noise levels must be numbers: one is NaN or infinite")
    step = sigma.diff()
    bad = (step >= 0) if strictly else (step > 0)
    if bad.any():
        i = int(bad.nonzero()[0])
        a, b = sigma[i].item(), sigma[i + 1].item()
        raise Error(f"noise levels must fall: sigma[{i}] = {a:.6g} is followed by sigma[{i + 1}] = {b:.6g}")
    if not (sigma[:-1] > 0).all() or sigma[-1] < 0:
        raise Error("noise levels must be positive; only the last may be 0")


def record_text(record: Any, **options: Any) -> str:
    """A record as JSON, its keys in order.

    Raises:
        Error: JSON has no such keys, or it holds itself.
    """
    try:
        return json.dumps(record, sort_keys=True, default=plain, **options)
    except (TypeError, ValueError, RecursionError) as error:
        raise Error(f"the record cannot be saved as JSON: {error}") from error


def require_record(name: Any, provenance: Any) -> None:
    """Raise unless the name and the record of solvers are such as a file holds."""
    if not isinstance(name, str) or not isinstance(provenance, Mapping):
        raise Error(f"'name' must be a string and 'provenance' an object, got a {type(name).__name__} and a "
                    f"{type(provenance).__name__}")  # fmt: skip


def dumps(data: dict[str, Any]) -> str:
    """JSON with one key a line and one matrix row a line, so that solver files diff well."""
    lines = []
    for key, value in data.items():
        if key in ("weight", "null"):
            body = "[\n" + ",\n".join("    " + json.dumps(row) for row in value) + "\n  ]"
        elif key == "provenance":
            body = record_text(value, indent=2).replace("\n", "\n  ")
        else:
            body = json.dumps(value)
        lines.append(f"  {json.dumps(key)}: {body}")
    return "{\n" + ",\n".join(lines) + "\n}\n"
