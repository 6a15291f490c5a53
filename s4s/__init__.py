"""S4S: learn the coefficients, and the grid, of a few-step diffusion solver (arXiv:2502.17423).

The public names load on first use, so that ``s4s --help`` does not wait for torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from s4s.version import __version__

_HOME = {
    "EDM": "process",
    "VPLinear": "process",
    "VPDiscrete": "discrete",
    "Path": "paths",
    "Cosine": "paths",
    "Flow": "process",
    "Process": "process",
    "grid": "grid",
    "Solver": "solver",
    "Start": "noise",
    "load_solver": "solver",
    "noise": "noise",
    "sample": "solver",
    "from_table": "table",
    "guided": "guidance",
    "split_guidance": "guidance",
    "merge_guidance": "guidance",
    "Bundle": "bundle",
    "load_bundle": "bundle",
    "Curve": "curve",
    "curve": "curve",
    "load_curve": "curve",
    "solver": "classical",
    "solvers": "classical",
    "intervals": "classical",
    "teacher_set": "learn.teacher",
    "TeacherSet": "learn.teacher",
    "fit": "learn.fit",
    "fit_nfes": "learn.several",
    "fit_curve": "learn.any_nfe",
    "CurveResult": "learn.any_nfe",
    "FitResult": "learn.fit",
    "learn": "learn.recipe",
    "Learned": "learn.recipe",
    "distance": "learn.distances",
    "Distance": "learn.distance",
    "perceptual": "learn.distance",
    "decoded": "learn.distance",
    "lpips": "learn.lpips",
    "lean": "learn.lean",
    "recompute": "learn.memory",
    "keep_freed": "learn.memory",
    "load_model": "models",
    "pipeline_denoiser": "models.pipeline",
    "protocol": "score.protocol",
    "Error": "errors",
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from s4s.bundle import Bundle as Bundle
    from s4s.bundle import load_bundle as load_bundle
    from s4s.classical import intervals as intervals
    from s4s.classical import solver as solver
    from s4s.classical import solvers as solvers
    from s4s.curve import Curve as Curve
    from s4s.curve import curve as curve
    from s4s.curve import load_curve as load_curve
    from s4s.discrete import VPDiscrete as VPDiscrete
    from s4s.errors import Error as Error
    from s4s.grid import grid as grid
    from s4s.guidance import guided as guided
    from s4s.guidance import merge_guidance as merge_guidance
    from s4s.guidance import split_guidance as split_guidance
    from s4s.learn.any_nfe import CurveResult as CurveResult
    from s4s.learn.any_nfe import fit_curve as fit_curve
    from s4s.learn.distance import Distance as Distance
    from s4s.learn.distance import decoded as decoded
    from s4s.learn.distance import perceptual as perceptual
    from s4s.learn.distances import distance as distance
    from s4s.learn.fit import FitResult as FitResult
    from s4s.learn.fit import fit as fit
    from s4s.learn.lean import lean as lean
    from s4s.learn.lpips import lpips as lpips
    from s4s.learn.memory import keep_freed as keep_freed
    from s4s.learn.memory import recompute as recompute
    from s4s.learn.recipe import Learned as Learned
    from s4s.learn.recipe import learn as learn
    from s4s.learn.several import fit_nfes as fit_nfes
    from s4s.learn.teacher import TeacherSet as TeacherSet
    from s4s.learn.teacher import teacher_set as teacher_set
    from s4s.models import load_model as load_model
    from s4s.models.pipeline import pipeline_denoiser as pipeline_denoiser
    from s4s.noise import Start as Start
    from s4s.noise import noise as noise
    from s4s.paths import Cosine as Cosine
    from s4s.paths import Path as Path
    from s4s.process import EDM as EDM
    from s4s.process import Flow as Flow
    from s4s.process import Process as Process
    from s4s.process import VPLinear as VPLinear
    from s4s.score.protocol import protocol as protocol
    from s4s.solver import Solver as Solver
    from s4s.solver import load_solver as load_solver
    from s4s.solver import sample as sample
    from s4s.table import from_table as from_table


class _Package(ModuleType):
    """Lets ``s4s.grid`` be the function although a submodule has the same name."""

    def __getattr__(self, name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 's4s' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"s4s.{_HOME[name]}"), name)
        if hasattr(sys.modules.get(f"s4s.{name}"), "__path__"):
            value.__name__ = f"s4s.{name}"  # where `import s4s.learn.fit as module` looks for what the function hides
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in _HOME:
            return  # the import system binding a submodule; the public name wins
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*__all__, *super().__dir__()})


sys.modules[__name__].__class__ = _Package
