"""What guidance of a solver's own buys: curves of docs/guidance.md, from results of guided benchmarks of the digits.

    python benchmarks/guidance.py results/digits-class results/digits-class-g4 --out docs/images/guidance.png

A row a benchmark. Left: distance to the teacher as the scale of one evaluation of S4S-Alt is moved and all else stays.
Middle: the scales that s4s-cfg learned. Right: FID to the data and to the teacher's samples against network calls.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

import s4s
from s4s.guidance import apart, merge_guidance, split_guidance
from s4s.learn.distance import Distance
from s4s.report.labels import method_label
from s4s.report.style import METHOD_COLOR, drawing, save
from s4s.stages.bench import Bench
from s4s.stages.cells import teachers
from s4s.stages.config import load
from s4s.stages.fit import distance_of
from s4s.stages.teacher import teacher_pairs

METHODS = ("s4s-alt", "s4s-cfg", "s4s-cfg-skip")
FACTORS = (0.5, 0.7, 0.85, 1.0, 1.15, 1.3, 1.5)  # of the asked scale, given to one evaluation
HELD_OUT = 256  # samples that a distance is the mean over
SHADES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333", "#999933")


def at_scale(solver: s4s.Solver, j: int, scale: float) -> s4s.Solver:
    """The solver with the two outputs of evaluation ``j`` mixed at another scale."""
    assert solver.null is not None
    weight, null = solver.weight.clone(), solver.null.clone()
    total = weight[:, j] + null[:, j]
    weight[:, j], null[:, j] = scale * total, (1 - scale) * total
    return solver.replace(weight=weight, null=null)


@torch.no_grad()
def distances(solvers: Sequence[s4s.Solver], denoise: Any, d: Distance, data: s4s.TeacherSet) -> list[float]:
    """Mean distance to the teacher of what each solver makes of the noises."""
    made = (s4s.sample(solver, denoise, data.x_T) for solver in solvers)
    return [d.between(d.features(x), d.features(data.y)).mean().item() for x in made]


@torch.no_grad()
def differences(solver: s4s.Solver, denoise: Any, x_T: torch.Tensor) -> list[tuple[float, float]]:
    """Of every evaluation the root mean square of the difference between its outputs, and the share that weights leave.

    Weights of the mixed outputs, the same for all samples, can make the rest of it.
    """
    pairs: list[list[torch.Tensor]] = []

    def columns(x: torch.Tensor, sigma: torch.Tensor, both: bool) -> list[torch.Tensor]:
        pairs.append(denoise.columns(x, sigma, both))
        return pairs[-1]

    s4s.sample(solver, apart(lambda x, sigma: denoise(x, sigma), columns, denoise.guidance), x_T)
    with_, none = (torch.stack([pair[k].double().flatten() for pair in pairs], 1) for k in (0, 1))
    differ, mixed = with_ - none, none + denoise.guidance * (with_ - none)
    left = differ - mixed @ torch.linalg.lstsq(mixed, differ).solution
    sizes, shares = differ.square().mean(0).sqrt(), left.norm(dim=0) / differ.norm(dim=0)
    return list(zip(sizes.tolist(), shares.tolist(), strict=True))


def draw_moved(axes: Axes, bench: Bench, nfe: int) -> None:
    """Distance over that of S4S-Alt as it is, against the scale of one evaluation: a line an evaluation."""
    scale, data = bench.config["model"]["guidance"], teacher_pairs(bench, teachers(bench.config)[0])
    rows = range(len(data) - HELD_OUT, len(data))
    held_out, denoise, d = data.part(rows.start, rows.stop), bench.denoiser(rows), distance_of(bench)
    name = next(path for path in records(bench.folder.root, "s4s-alt") if f"_nfe{nfe}_" in path.stem).stem
    solver = split_guidance(s4s.load_solver(bench.folder.root / "solvers" / f"{name}.json"), scale)
    sizes = differences(solver, denoise, held_out.x_T)
    for j in range(nfe):
        moved = [at_scale(solver, j, scale * factor) for factor in FACTORS]
        found = distances(moved, denoise, d, held_out)
        base = found[FACTORS.index(1.0)]
        label = f"evaluation {j}, level {solver.sigma_eval[j]:.2g}"
        axes.plot(
            [scale * f for f in FACTORS], [v / base for v in found], color=SHADES[j], marker="o", ms=3, label=label
        )
        print(f"{bench.config['benchmark']}, {nfe} NFE, {label}: at best {min(found) / base:.3f} of the distance; "
              f"difference {sizes[j][0]:.3f}, of which weights leave {sizes[j][1]:.2f}")  # fmt: skip
    axes.axhline(1, color="#777777", lw=0.8, ls="--")
    axes.set(xlabel=f"scale of one evaluation ({nfe} NFE)", ylabel="distance to the teacher, over S4S-Alt's")
    log(axes)
    axes.legend(fontsize=6)


def log(axes: Axes) -> None:
    """A logarithmic axis of values in plain digits."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def records(folder: Path, method: str) -> list[Path]:
    """Metrics files of a method, by name."""
    found = [path for path in sorted((folder / "metrics").glob("[!.]*.json")) if read(path)["method"] == method]
    if not found:
        raise s4s.errors.Error(f"{folder}: has no numbers of {method}")
    return found


def read(path: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(path.read_text())
    return made


def draw_scales(axes: Axes, folder: Path, asked: float) -> None:
    """The learned scales against noise level: a line a fit, a colour an NFE."""
    files = records(folder, "s4s-cfg")
    nfes = sorted({read(path)["nfe"] for path in files})
    for path in files:
        solver, nfe = s4s.load_solver(folder / "solvers" / path.name), read(path)["nfe"]
        label = f"{nfe} NFE" if path == next(p for p in files if read(p)["nfe"] == nfe) else None
        color = SHADES[nfes.index(nfe)]
        axes.plot(solver.sigma_eval, merge_guidance(solver)[1], color=color, marker="o", ms=3, lw=1, label=label)
    axes.axhline(asked, color="#777777", lw=0.8, ls="--")
    axes.set(xlabel="noise level of the evaluation", ylabel="learned scale of guidance", xscale="log")
    axes.invert_xaxis()
    axes.legend(fontsize=7)


def draw_calls(axes: Axes, folder: Path, key: str, label: str) -> None:
    """A metric against network calls: a dot a fit, a line through the means of a method."""
    for method in METHODS:
        found: dict[int, list[float]] = {}
        for path in records(folder, method):
            found.setdefault(read(path)["calls"], []).append(read(path)[key])
        color, calls = METHOD_COLOR[method], sorted(found)
        means = [sum(found[n]) / len(found[n]) for n in calls]
        axes.plot(calls, means, color=color, lw=1.5, label=method_label(method))
        axes.plot([n for n in calls for _ in found[n]], [v for n in calls for v in found[n]], ".", color=color, ms=5)
    axes.set(xlabel="network calls a sample", ylabel=label)
    if key == "fid":
        axes.axhline(read(records(folder, "teacher")[0])["fid"], color=METHOD_COLOR["teacher"], ls="--", lw=1)
        axes.margins(y=0.2)
    else:
        log(axes)
    axes.legend(fontsize=7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="results of guided benchmarks of the digits")
    parser.add_argument("--nfe", type=int, default=5, help="of the left panel")
    parser.add_argument("--out", type=Path, default=Path("guidance.png"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with drawing():
        figure = Figure(figsize=(13, 3 * len(asked.folders)), layout="constrained")
        panels = figure.subplots(len(asked.folders), 4, squeeze=False)
        for row, folder in zip(panels, asked.folders, strict=True):
            bench = Bench(load(folder / "config.yaml"), folder.parent)
            scale = bench.config["model"]["guidance"]
            draw_moved(row[0], bench, asked.nfe)
            row[0].set_title(f"guidance {scale:g}", loc="left")
            draw_scales(row[1], folder, scale)
            draw_calls(row[2], folder, "fid", "FID to the data (dashed: the teacher)")
            draw_calls(row[3], folder, "fid_to_teacher", "FID to the teacher's samples")
        save(figure, asked.out.with_suffix(""))
        asked.out.with_suffix(".pdf").unlink()


if __name__ == "__main__":
    main()
