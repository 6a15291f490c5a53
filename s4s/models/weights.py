"""Network weights as safetensors: tensors plus the constructor's arguments, no code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from torch import nn

from s4s.errors import Error
from s4s.files import write_tensors

Net = TypeVar("Net", bound=nn.Module)


def save(net: nn.Module, path: Path, **record: Any) -> None:
    """Write a network with ``net.config`` (its constructor's arguments) and a record of how it was made."""
    metadata = {
        "class": type(net).__name__,
        "config": json.dumps(net.config),
        "record": json.dumps(record, sort_keys=True),
    }
    tensors = {key: value.contiguous() for key, value in net.state_dict().items()}
    write_tensors(path, tensors, metadata)


def load(path: Path, make: Callable[..., Net]) -> Net:
    """Rebuild a network saved by ``save``: evaluation mode, frozen.

    Raises:
        Error: missing or truncated file, or weights of another class.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise Error(f"{path}: cannot read the weights ({error}); train or import them again") from error
    expected = getattr(make, "__name__", str(make))
    if metadata.get("class") != expected:
        raise Error(f"{path}: holds weights of {metadata.get('class')!r}, needs {expected!r}")
    net = make(**json.loads(metadata["config"]))
    net.load_state_dict(tensors)
    return net.eval().requires_grad_(False)
