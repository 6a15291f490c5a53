"""A method of one's own: a file ``methods/NAME.py`` with one function, ``sample``, ``solver`` or ``fit``."""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from s4s.errors import Error
from s4s.files import sha256
from s4s.learn.teacher import batches
from s4s.noise import noise
from s4s.solver import Denoise, Solver, load_solver

SCHEMA = "s4s-method"
TAKES = {
    "sample": ("x_T", "denoise", "process", "nfe"),
    "solver": ("process", "nfe"),
    "fit": ("start", "denoise", "teacher", "seed"),
}
"""Functions of a method's file, and what each is given, by name."""


@dataclass(frozen=True)
class Method:
    """A file of one's own.

    Args:
        path: of the file.
        kind: a key of ``TAKES``.
        function: of that name.
    """

    path: Path
    kind: str
    function: Callable[..., Any]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def about(self) -> str:
        """What the file says of itself; empty where it has no docstring."""
        return inspect.getdoc(sys.modules[_module(self.path)]) or ""


@dataclass(frozen=True)
class Sampler:
    """A method's ``sample`` at one number of evaluations."""

    method: Method
    nfe: int

    @property
    def name(self) -> str:
        return self.method.name


class Counted:
    """A denoiser that counts its calls and the rows of them; more calls than ``most`` are refused."""

    def __init__(self, denoise: Denoise, most: int | None = None) -> None:
        self.denoise, self.most, self.calls, self.rows = denoise, most, 0, 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.calls += 1
        self.rows += len(x)
        if self.most is not None and self.calls > self.most:
            raise Error(f"it calls the network more than nfe = {self.most} times")
        return self.denoise(x, sigma)


class CountedUnder:
    """A function of conditions, the rows of whose denoisers are counted together."""

    def __init__(self, denoiser: Callable[[Tensor], Denoise]) -> None:
        self.denoiser, self.rows = denoiser, 0

    def __call__(self, condition: Tensor) -> Denoise:
        denoise = self.denoiser(condition)

        def counted(x: Tensor, sigma: Tensor) -> Tensor:
            self.rows += len(x)
            return denoise(x, sigma)

        return counted


def load_method(path: Path) -> Method:
    """Import a method's file.

    Raises:
        Error: no such file, one that cannot be imported, or that holds none of the functions, or more than one.
    """
    if not path.is_file():
        raise Error(f"{path}: no such file; a method of your own is a file with one function: {', '.join(TAKES)}")
    spec = importlib.util.spec_from_file_location(_module(path), path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses of the file look there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the file raises
        raise _failed(path, "cannot be imported", error) from error
    found = [kind for kind in TAKES if callable(getattr(module, kind, None))]
    if len(found) != 1:
        raise Error(f"{path}: holds {' and '.join(found) or 'none'} of the functions {', '.join(TAKES)}; write one")
    function = getattr(module, found[0])
    try:
        takes = tuple(inspect.signature(function).parameters)
    except ValueError:  # of some that are written in C
        takes = ("...",)
    if takes != TAKES[found[0]]:
        raise Error(f"{path}: {found[0]}({', '.join(takes)}) must be {found[0]}({', '.join(TAKES[found[0]])})")
    return Method(path, found[0], function)


def made_solver(method: Method, nfe: int, given: Mapping[str, Any]) -> Solver:
    """What ``solver`` or ``fit`` returns, checked.

    Raises:
        Error: the function fails, or returns no solver, or one of another number of evaluations.
    """
    made = _called(method, given)
    if not isinstance(made, Solver):
        raise Error(f"{method.path}: {method.kind} returned {type(made).__name__}; it must return an s4s.Solver")
    if made.nfe != nfe:
        raise Error(f"{method.path}: {method.kind} returned a solver of {made.nfe} evaluations, asked for {nfe}")
    return made.detach()


def samples(sampler: Sampler, denoise: Denoise, x_T: Tensor, process: Any) -> Tensor:
    """What ``sample`` makes of noises, checked.

    Raises:
        Error: the function fails, calls the network more often than it may, or returns no finite samples like x_T.
    """
    method = sampler.method
    given = {"x_T": x_T, "denoise": Counted(denoise, sampler.nfe), "process": process, "nfe": sampler.nfe}
    x = _called(method, given)
    if not isinstance(x, Tensor) or x.shape != x_T.shape:
        what = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise Error(f"{method.path}: sample returned {what}; it must return samples shaped as x_T, {list(x_T.shape)}")
    if not x.isfinite().all():
        raise Error(f"{method.path}: its samples with {sampler.nfe} evaluations are not finite")
    return x.to(x_T)


def _called(method: Method, given: Mapping[str, Any]) -> Any:
    try:
        return method.function(**given)
    except (Exception, SystemExit) as error:  # whatever the file raises
        raise _failed(method.path, method.kind, error) from error


def _module(path: Path) -> str:
    """What a method's file is called among the modules."""
    return f"s4s_method_{path.stem}"


def _failed(path: Path, what: str, error: BaseException) -> Error:
    """One line for what a file raises: its last line that was run, or that is no Python, and the message."""
    last = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if _same(frame.filename, path)]
    said = ""
    with suppress(Exception):  # an error's own text may fail
        said = str(error)
    if isinstance(error, SyntaxError):
        last, said = [error.lineno] if _same(error.filename, path) else last, error.msg or ""
    line = f":{last[-1]}" if last and last[-1] else ""
    kind = "" if isinstance(error, Error) else type(error).__name__
    return Error(f"{path}{line}: {what}: {': '.join(filter(None, [kind, ' '.join(said.split())]))}")


def _same(file: str | None, path: Path) -> bool:
    return file is not None and Path(file).resolve() == path.resolve()


def generate(
    sampler: Sampler, denoiser: Callable[[range], Denoise], process: Any, indices: range, shape: tuple[int, ...],
    seed: int, *, batch: int, device: str, progress: str,
) -> Tensor:  # fmt: skip
    """As ``s4s.learn.teacher.generate``: whole batches aligned to the index, so shards change no bits."""
    begins, made = batches(indices, batch), []
    for start in tqdm(begins, desc=progress, mininterval=2):
        rows = range(start, start + batch)
        x_T = (noise(seed, rows, shape) * process.sigma_max).float().to(device)
        with torch.no_grad():
            made.append(samples(sampler, denoiser(rows), x_T, process))
    return torch.cat(made)[indices.start - begins.start :][: len(indices)]


def pointer(method: Method, nfe: int) -> dict[str, Any]:
    """What stands in a solver file's place for a method that is a function."""
    return {"schema": SCHEMA, "version": 1, "name": method.name, "nfe": nfe, "file": str(method.path),
            "sha256": sha256(method.path), "about": method.about.split("\n\n")[0]}  # fmt: skip


def load_solver_or_sampler(path: Path) -> Solver | Sampler:
    """A solver, or the sampler of the file that a pointer names."""
    said = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(said, dict) and said.get("schema") == SCHEMA:
        return Sampler(load_method(Path(said["file"])), said["nfe"])
    return load_solver(path)
