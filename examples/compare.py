"""What every example measures and draws: a library's own samplers, a learned one, and the library's fine solution.

Distances are root mean squares over samples of the Euclidean distance to the fine solution of the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import s4s

CALLS = 5
SAMPLES = 400  # that distances are taken over; the fit never sees their noises
Sampler = Callable[[Tensor], Tensor]
"""Standard normal noise [n, ...] -> samples [n, ...]."""


@dataclass(frozen=True)
class Home:
    """A trained model of a library.

    Args:
        name: library and kind of model.
        process, denoise: the adapter.
        predicted: the library's own prediction of the data, of states and a level as ``denoise`` has them.
        fine: the library's own solution with many steps.
        few: its own samplers, as they are with ``CALLS`` calls of the network or fewer.
        shape: of a sample.
        mean, scale: of the starting noise, where it is not ``N(0, sigma_max^2)``.
        levels: those that the library's prediction is for, where they are few.
        many: our solver of many steps, where it is not one of 200 that ends at ``sigma_min``.
        dtype: of states that the library's prediction takes.
    """

    name: str
    process: s4s.Process
    denoise: Callable[[Tensor, Tensor], Tensor]
    predicted: Callable[[Tensor, Tensor], Tensor]
    fine: Sampler
    few: Mapping[str, Sampler]
    shape: tuple[int, ...] = (2,)
    mean: Tensor | None = None
    scale: Tensor | None = None
    levels: Tensor | None = None
    many: s4s.Solver | None = None
    dtype: torch.dtype = torch.float64


@dataclass(frozen=True)
class Row:
    """A row of the table in docs/homes.md."""

    home: str
    prediction: float  # largest difference of the adapter's prediction to the library's own
    many: float  # distance with many steps of ours to the library's fine solution
    best: str  # the library's own best sampler with as many calls
    own: float
    learned: float
    samples: dict[str, Tensor] = field(default_factory=dict, repr=False)


@torch.no_grad()
def compare(home: Home, steps: int = 200, n: int = 1200) -> Row:
    """Measure one model: the adapter, many steps, few steps, and a solver learned from the library's model alone."""
    noise = s4s.noise(1, range(SAMPLES), home.shape).float()
    strong = s4s.solver("unipc", s4s.grid("logsnr", home.process, steps))
    teacher = s4s.teacher_set(strong, home.denoise, n, home.shape, batch=n, mean=home.mean, scale=home.scale)
    same = home.many or strong.replace(noise=teacher.noise)
    fine, many = home.fine(noise), s4s.sample(same, home.denoise, same.x_T(noise), check=False)
    few = {name: sampler(noise) for name, sampler in home.few.items()}
    solver = learned(home, teacher)
    few_ours = s4s.sample(solver, home.denoise, solver.x_T(noise))
    own = {name: rms(x, fine) for name, x in few.items()}
    best = min(own, key=lambda name: own[name])
    samples = {best: few[best], "learned": few_ours, "fine": fine}
    return Row(home.name, _difference(home, fine), rms(many, fine), best, own[best], rms(few_ours, fine), samples)


def learned(home: Home, teacher: s4s.TeacherSet) -> s4s.Solver:
    """Fitted from a textbook solver on even steps of the library's own time."""
    start = s4s.solver("unipc", s4s.grid("uniform", home.process, CALLS))
    return s4s.fit([start], home.denoise, teacher, rounds=20, patience=5).solver


def rms(x: Tensor, fine: Tensor) -> float:
    return (x.double() - fine.double()).flatten(1).square().sum(1).mean().sqrt().item()


def _difference(home: Home, fine: Tensor) -> float:
    """Over levels from the second highest to the second lowest of ten, at states that the library meets there."""
    found = []
    levels = s4s.grid("logsnr", home.process, 9)[1:-1]
    if home.levels is not None:
        levels = home.levels[(home.levels - levels[:, None]).abs().argmin(1)]
    for level in levels:
        x = (fine + level * s4s.noise(2, range(len(fine)), home.shape)).to(home.dtype)
        ours, own = home.denoise(x, level), home.predicted(x, level)
        found.append((ours - own).abs().max().item())
    return max(found)


def plot(row: Row, path: Path) -> None:
    """Three panels, own, learned and fine, with a line from each sample to where the fine solution has it."""
    fine = row.samples["fine"].flatten(1)
    titles = {row.best: f"{row.best}, {CALLS} calls: {row.own:.3f}",
              "learned": f"learned, {CALLS} calls: {row.learned:.3f}", "fine": "fine solution"}  # fmt: skip
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.7), sharex=True, sharey=True, layout="constrained")
    for axis, (name, x) in zip(axes, row.samples.items(), strict=True):
        x, title = x.flatten(1), titles[name]
        for a, b in zip(x, fine, strict=True):
            axis.plot([a[0], b[0]], [a[1], b[1]], color="0.75", linewidth=0.6, zorder=1)
        axis.scatter(x[:, 0], x[:, 1], s=5, color="tab:red" if name == "learned" else "tab:blue", zorder=2)
        axis.set(title=title, aspect="equal")
    figure.suptitle(f"{row.home}: root mean square distance to the fine solution")
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


def ring(n: int, generator: torch.Generator, radius: float = 2.0) -> Tensor:
    """The data of the examples: eight blobs on a ring, [n, 2]."""
    angle = torch.randint(8, (n,), generator=generator) * torch.pi / 4
    blobs = 0.1 * torch.randn(n, 2, generator=generator)
    return radius * (torch.stack([angle.cos(), angle.sin()], 1) + blobs)


class Perceptron(nn.Module):
    """A network of a state and a time for each row, in float32 whatever they are in."""

    def __init__(self, size: int = 2, width: int = 64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(size + 4, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
                                  nn.Linear(width, width), nn.SiLU(), nn.Linear(width, size))  # fmt: skip

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = t.float().expand(len(x))[:, None]
        waves = torch.cat([t, (torch.pi * t).cos(), (2 * torch.pi * t).sin(), (2 * torch.pi * t).cos()], 1)
        return self.body(torch.cat([x.float().flatten(1), waves], 1)).reshape(x.shape).to(x)


def train(net: nn.Module, loss: Callable[[], Tensor], steps: int = 1200, rate: float = 2e-3) -> None:
    """Minimise ``loss`` of fresh batches; the network is frozen afterwards."""
    optimizer = torch.optim.Adam(net.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()
    net.eval().requires_grad_(False)


def show(homes: list[Callable[[], Home]], folder: Path) -> list[Row]:
    """Train, measure, draw into ``folder`` and print."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for make in homes:
        home = make()
        row = compare(home)
        plot(row, folder / f"{home.name.lower().replace(' ', '-').replace(',', '')}.png")
        print(f"{home.name:42s} prediction {row.prediction:.0e}  many steps {row.many:.1e}  "
              f"{CALLS} calls: {row.best} {row.own:.4f}, learned {row.learned:.4f}")  # fmt: skip
        rows.append(row)
    return rows
