"""Unfinished work of several parts in a folder, so that a killed one goes on: what is done, in files of their own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from s4s.errors import Error
from s4s.files import at_home, read_text, write_tensors, write_text
from s4s.solver import Solver, load_solver

PLAN = "plan.json"
SAME = 1e-3  # relative; what a network says on two machines differs by less, what two networks say by more


class Work:
    """The folder, or None to keep nothing. What is read back has the bits that were written."""

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self.folder = None if folder is None else at_home(folder)

    def path(self, name: str) -> Path | None:
        """Where a part's file is."""
        return None if self.folder is None else self.folder / name

    def has(self, name: str) -> bool:
        return self.folder is not None and (self.folder / name).exists()

    def plan(self, identity: Mapping[str, Any], means: tuple[float, ...], make: Callable[[], Any]) -> Any:
        """What was planned for this work when it began, JSON-able; made now if it begins.

        Args:
            identity: JSON-able; what makes it this work and no other.
            means: of the network's outputs; stand for the network. Where memory is short there are fewer.

        Raises:
            Error: the folder is of other work.
        """
        identity = json.loads(json.dumps(identity))
        if self.folder is None or not self.has(PLAN):
            made = json.loads(json.dumps(make()))
            if self.folder is not None:
                said = {"identity": identity, "means": means, "plan": made}
                write_text(self.folder / PLAN, json.dumps(said, indent=1) + "\n")
            return made
        try:
            found = json.loads(read_text(self.folder / PLAN))
            made, before, then = found["plan"], dict(found["identity"]), [float(mean) for mean in found["means"]]
        except (ValueError, KeyError, TypeError) as error:
            raise Error(f"{self.folder / PLAN}: damaged, or not of s4s.learn; name another folder, or remove this one "
                        "with all that is in it") from error  # fmt: skip
        changed = [key for key in sorted({*before, *identity}) if before.get(key) != identity.get(key)]
        if not changed and any(abs(a - b) > SAME * abs(a) for a, b in zip(then, means, strict=False)):
            changed = ["network"]
        if changed:
            raise Error(f"{self.folder}: unfinished work with another {changed[0].replace('_', ' ')}; call it as "
                        "before to go on, or remove the folder to begin anew")  # fmt: skip
        return made

    def tensor(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """A tensor from its file, or made and kept."""
        path = self.path(f"{name}.safetensors")
        if path is None:
            return make()
        if path.exists():
            try:
                return load_file(path)["value"]
            except (OSError, SafetensorError, KeyError):
                path.unlink()  # damaged, and can be made again
        made = make()
        write_tensors(path, {"value": made.cpu().contiguous()}, {})
        return made

    def solver(self, name: str, make: Callable[[], Solver]) -> Solver:
        """A solver from its file, or made and kept."""
        path = self.path(f"{name}.json")
        if path is None:
            return make()
        if not path.exists():
            made = make()
            made.save(path)
        return load_solver(path)


def joined(parts: list[Tensor], device: str | torch.device) -> Tensor:
    """Parts in one tensor on a device."""
    return torch.cat([part.to(device) for part in parts])
