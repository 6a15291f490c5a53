"""Teacher sets: what a strong solver makes of known noises. No data set is needed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from s4s.alike import in_turn
from s4s.errors import Error
from s4s.noise import MOST, Numbers, Start, noise
from s4s.solver import Denoise, Solver, require_solver, sample
from s4s.values import require_device, require_dtype, require_function, require_title, whole

BATCH = 100  # samples per network call, aligned to the sample index: results do not depend on shards or ranges


@dataclass(frozen=True)
class TeacherSet:
    """Pairs of starting noise and teacher output.

    Args:
        y: [n, ...] teacher outputs in data units.
        seed, first: the noises are ``noise(seed, range(first, first + n))``, times ``sigma_max``, or as
            ``noise`` says.
        sigma_max: level of the starting noise.
        provenance: JSON-able record of the teacher.
        condition: [n, ...] what the network was given with each sample; None for an unconditional one.
        noise: mean and scale of the starting noise where they are not 0 and ``sigma_max``.
    """

    y: Tensor
    seed: int
    sigma_max: float
    first: int = 0
    provenance: Mapping[str, Any] = field(default_factory=dict)
    condition: Tensor | None = None
    noise: Start | None = None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def x_T(self) -> Tensor:
        """[n, ...] starting noises in EDM coordinates, in the dtype and on the device of ``y``."""
        indices = range(self.first, self.first + len(self))
        normal = noise(self.seed, indices, tuple(self.y.shape[1:]))
        return self.sigma_max * normal.to(self.y) if self.noise is None else self.noise.x_T(normal).to(self.y)

    def part(self, first: int, last: int) -> TeacherSet:
        """Samples ``first`` to ``last - 1`` of this set."""
        rows = None if self.condition is None else self.condition[first:last]
        return replace(self, y=self.y[first:last], first=self.first + first, condition=rows)

    def held_out(self, validation: int | None = None) -> int:
        """How many samples a fit holds out, the last ones: ``validation``; by default a quarter, at most 512."""
        count = min(max(len(self) // 4, 1), 512) if validation is None else whole(validation, "validation", None)
        if not 1 <= count < len(self):
            raise Error(f"validation = {count} must leave some of the teacher's {len(self)} samples to train on")
        return count


def require_teacher(value: Any) -> None:
    """Raise for anything else than a teacher set."""
    if not isinstance(value, TeacherSet):
        raise Error(f"a teacher set is needed, as s4s.teacher_set makes it, got a {type(value).__name__}")


def require_denoiser(denoise: Any, condition: Any) -> None:
    """Raise unless ``denoise`` takes a state and a level or, with conditions, the rows of these."""
    if condition is not None:
        require_function(condition, "condition", "model.condition")
    require_function(denoise, "denoise", "process.denoiser(net)" if condition is None else "model.denoiser")
    try:
        taken = inspect.signature(denoise)
    except ValueError:  # of a function that does not say it
        return
    try:
        taken.bind(*("x", "sigma") if condition is None else ("rows",))
    except TypeError as error:
        told = ("denoise must take a state and a level; one of a model with conditions needs condition= too, such as "
                "model.condition") if condition is None else (
                "with condition=, denoise must take its rows and give the network, as model.denoiser does")  # fmt: skip
        raise Error(f"{told} ({error})") from error


def require_noises(what: str, level: float, noise: Start | None, teacher: TeacherSet) -> None:
    """Raise unless ``what``, a solver or a curve of a first level and a starting noise, begins as the teacher did."""
    if level != teacher.sigma_max:
        raise Error(f"the {what} starts at level {level:.9g}, the teacher's noises at {teacher.sigma_max:.9g}")
    if noise is not None and not noise.same(teacher.noise):
        raise Error(f"the {what} starts from another mean or scale of noise than the teacher set")


def teacher_set(
    solver: Solver,
    denoise: Denoise | Callable[[Tensor], Denoise],
    n: int,
    shape: tuple[int, ...],
    seed: int = 0,
    *,
    condition: Callable[[range], Tensor] | None = None,
    mean: Numbers | None = None,
    scale: Numbers | None = None,
    **options: Any,
) -> TeacherSet:
    """Run a strong solver on ``n`` seeded noises.

    Args:
        solver: the teacher, for example ``s4s.solver("dpmpp", fine_grid)``.
        denoise: the network.
        n: number of pairs.
        shape: of one sample, without the batch.
        seed: of the noises.
        condition: sample indices -> what the network is given with them, a row each; ``denoise`` is then the function
            of such rows that gives the network, as ``model.denoiser`` and ``model.condition`` are.
        mean, scale: of the starting noise ``x_T``, in EDM coordinates (a state of the process divided by alpha):
            numbers or arrays that broadcast against one sample; by default 0 and the solver's first level, or as the
            solver has it. Solvers fitted to the set keep them, in their files too.
        options: of ``generate`` (``dtype``, ``device``, ``progress``).
    """
    require_solver(solver)
    require_denoiser(denoise, condition)
    n, seed = whole(n, "n, the samples of a teacher set,"), whole(seed, "seed", 0, MOST)
    if mean is not None or scale is not None:
        solver = solver.replace(noise=Start(0.0 if mean is None else mean, solver.sigma[0] if scale is None else scale))
    given = None if condition is None else condition(range(n))

    def network(rows: range) -> Denoise:
        return denoise if condition is None else denoise(condition(rows))  # type: ignore[call-arg,return-value]

    y = generate(solver, network, range(n), shape, seed, **options)
    record = {"name": solver.name, "nfe": solver.nfe} | dict(solver.provenance)
    return TeacherSet(y, seed, solver.sigma[0].item(), provenance=record, condition=given, noise=solver.noise)


def generate(solver: Solver, *where: Any, **options: Any) -> Tensor:
    """Samples of consecutive indices, [len(indices), *shape]; arguments are those of ``generate_each``."""
    return torch.cat([made for (made,) in generate_each([solver], *where, **options)])


def generate_each(
    solvers: Sequence[Solver],
    denoiser: Callable[[range], Denoise],
    indices: range,
    shape: tuple[int, ...],
    seed: int,
    *,
    batch: int = BATCH,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    progress: str | None = None,
) -> Iterator[list[Tensor]]:
    """Samples of consecutive indices by several solvers, which share evaluations where they begin alike.

    ``denoiser`` gives the network under the conditions of some indices. It always sees whole batches of ``batch`` whose
    first index is a multiple of it (surplus samples are made and dropped), so a sample has the same bits whichever
    range, shard or machine asks for it, and whichever other solvers are run beside.

    Yields:
        A batch of every solver, [rows, *shape] each; together they are the indices.
    """
    require_device(device)
    require_title(progress)
    require_dtype(dtype)
    turns, begins = list(in_turn(solvers, dtype)), batches(indices, batch)
    for start in tqdm(begins, desc=progress, disable=progress is None, mininterval=2):
        rows = range(start, start + batch)
        normal, denoise, outputs = noise(seed, rows, shape), denoiser(rows), list[Tensor]()
        made: dict[int, Tensor] = {}
        for k, known in turns:
            x_T, outputs = started(solvers[k], normal, dtype, device), outputs[:known]
            with torch.no_grad():
                made[k] = sample(solvers[k], denoise, x_T, outputs=outputs)
        asked = slice(max(indices.start - start, 0), indices.stop - start)
        yield [made[k][asked] for k in range(len(solvers))]


def batches(indices: range, batch: int) -> range:
    """First indices of the whole batches that hold some indices."""
    if indices.step != 1 or len(indices) < 1 or indices.start < 0:
        raise Error(f"samples are made for a rising range of indices from 0 on, got {indices}")
    return range(indices.start - indices.start % whole(batch, "batch"), indices.stop, batch)


def started(solver: Solver, normal: Tensor, dtype: torch.dtype, device: str | torch.device) -> Tensor:
    """Where a solver starts from normal noise, on its device; scaled there, moved by a mean and scale before."""
    if solver.noise is None:
        return solver.x_T(_sent(normal.to(dtype), device))
    return _sent(solver.x_T(normal).to(dtype), device)


def _sent(x: Tensor, device: str | torch.device) -> Tensor:
    """To a device; to a GPU from pinned memory, without waiting for it."""
    if torch.device(device).type == "cuda":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)
