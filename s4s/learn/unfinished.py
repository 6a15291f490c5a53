"""An unfinished fit on disk: all that its next round depends on, in one file, so that a killed fit goes on."""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from s4s.errors import Error, Notice
from s4s.files import at_home, replacing
from s4s.learn.teacher import TeacherSet
from s4s.version import __version__

HEAD = b'{"__metadata__":{"record":'  # of the header of a state's file, after its length in 8 bytes
SAME = 1e-3  # relative; losses of one fit on two machines differ by less, those of two networks by more


@dataclass(frozen=True)
class State:
    """Where a fit stands between two rounds: its tensors by name, and everything else as JSON."""

    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, Any]


class Unfinished:
    """The file of one fit.

    Args:
        path: where it is; None keeps nothing.
        identity: JSON-able; what makes it this fit and no other. Its ``start_loss`` stands for the network and the
            distance, which have no names of their own, and is compared to within rounding.

    Raises:
        Error: the file is there and no fit has written it, so that saving would destroy something else.
    """

    def __init__(self, path: str | os.PathLike[str] | None, identity: Mapping[str, Any]) -> None:
        self.path = None if path is None else at_home(path)
        self.identity = json.loads(json.dumps(identity))
        _require_free(self.path)

    def beside(self, name: str) -> Unfinished:
        """The file of a further part of the same fit."""
        return Unfinished(self.path and self.path.with_name(f"{self.path.name}.{name}"), self.identity)

    def load(self) -> State | None:
        """The state to go on from; None, with a ``Notice``, if the file is damaged or of another fit."""
        if self.path is None or not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                record = json.loads(file.metadata()["record"])
                # copies lie where arithmetic on them rounds as it would have without a file between
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            changed = self._changed(record["identity"])
            if not changed:
                return State(tensors, record["numbers"])
            reason = f"of a fit with another {', '.join(changed)}"
        except (OSError, SafetensorError, ValueError, TypeError, KeyError):
            reason = "damaged or truncated"
        warnings.warn(f"{self.path}: {reason}; this fit starts anew", Notice, stacklevel=2)
        return None

    def save(self, state: State) -> None:
        """Write the state, whole or not at all."""
        if self.path is not None:
            record = {"identity": self.identity, "numbers": state.numbers}
            with replacing(self.path) as temporary:
                tensors = {name: tensor.cpu().clone() for name, tensor in state.tensors.items()}
                save_file(tensors, temporary, {"record": json.dumps(record)})

    def remove(self) -> None:
        """Forget it: the fit is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _changed(self, found: Mapping[str, Any]) -> list[str]:
        keys = sorted({*found, *self.identity} - {"start_loss"})
        changed = [key.replace("_", " ") for key in keys if found.get(key) != self.identity.get(key)]
        same = math.isclose(found["start_loss"], self.identity["start_loss"], rel_tol=SAME)
        return changed if changed or same else ["network or distance"]


def identity_of(teacher: TeacherSet) -> dict[str, Any]:
    """What makes a fit another one although its settings are the same: the teacher's samples, and the code."""
    samples = [teacher.seed, teacher.first, content(teacher.y, teacher.condition)]
    noise = {} if teacher.noise is None else {"noise": teacher.noise.to_dict()}
    return {"teacher_set": samples, "version": __version__} | noise


def below(mark: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a mark, without it."""
    return {key.removeprefix(mark): t for key, t in tensors.items() if key.startswith(mark)}


def _require_free(path: Path | None) -> None:
    """Raise where something else than a state is."""
    if path is None or not path.exists():
        return
    if path.is_dir():
        raise Error(f"{path}: a folder; name a file in it for resume=")
    try:
        with path.open("rb") as file:
            begin = file.read(8 + len(HEAD))
    except OSError as error:
        raise Error(f"{path}: cannot read it ({error.strerror}); name another file for resume=") from error
    if begin and begin[8:] != HEAD:
        raise Error(f"{path}: no file of an unfinished fit; name another for resume=, or remove it")


def content(*tensors: Tensor | None) -> str:
    """SHA-256 of the bytes of some tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for tensor in tensors:
        if tensor is not None:
            digest.update(json.dumps([str(tensor.dtype), list(tensor.shape)]).encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
