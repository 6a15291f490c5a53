"""S4S: learn the coefficients, and the grid, of a few-step diffusion solver (arXiv:2502.17423).

The public names load on first use, so that ``s4s --help`` does not wait for torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "EDM": "process",
    "VPLinear": "process",
    "VPDiscrete": "process",
    "Flow": "process",
    "grid": "grid",
    "Solver": "solver",
    "load_solver": "solver",
    "noise": "solver",
    "sample": "solver",
    "solver": "classical",
    "solvers": "classical",
    "teacher_set": "teacher",
    "TeacherSet": "teacher",
    "fit": "fit",
    "fit_nfes": "several",
    "FitResult": "fit",
    "Error": "errors",
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from s4s.classical import solver as solver
    from s4s.classical import solvers as solvers
    from s4s.errors import Error as Error
    from s4s.fit import FitResult as FitResult
    from s4s.fit import fit as fit
    from s4s.grid import grid as grid
    from s4s.process import EDM as EDM
    from s4s.process import Flow as Flow
    from s4s.process import VPDiscrete as VPDiscrete
    from s4s.process import VPLinear as VPLinear
    from s4s.several import fit_nfes as fit_nfes
    from s4s.solver import Solver as Solver
    from s4s.solver import load_solver as load_solver
    from s4s.solver import noise as noise
    from s4s.solver import sample as sample
    from s4s.teacher import TeacherSet as TeacherSet
    from s4s.teacher import teacher_set as teacher_set


class _Package(ModuleType):
    """Lets ``s4s.grid`` be the function although a submodule has the same name."""

    def __getattr__(self, name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 's4s' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"s4s.{_HOME[name]}"), name)
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in _HOME:
            return  # the import system binding a submodule; the public name wins
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*__all__, *super().__dir__()})


sys.modules[__name__].__class__ = _Package
