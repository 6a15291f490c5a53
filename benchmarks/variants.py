"""Would fits on digits cost less, or end lower, with other batches, another start, or a weaker teacher first?

    python benchmarks/variants.py [--out results/variants] [--nfe 5 8] [--seeds 0 1 2]

A row of the table is a variant, over methods, NFE and seeds: L2, from iPNDM(3) on the EDM grid unless it says so.
About an hour of CPU time. A cell is computed once for a network and kept as a JSON file.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from unittest import mock

import digits

import s4s
from s4s.files import write_text
from s4s.learn import run
from s4s.learn.several import stretch
from s4s.solver import Denoise
from s4s.stages.train import train_denoiser

ROUNDS = 12
WEAK = 8  # evaluations of the teacher that a curriculum begins with
NAMES = {
    "default": "as it is: 64 samples a batch of the rounds",
    "batch-32": "32 samples",
    "batch-256": "256 samples",
    "batch-all": "all 1,400 samples",
    "other-grid": "from the logSNR grid",
    "other-solver": "from DPM-Solver++(3M)",
    "fewer-nfe": "from the grid found for one NFE less",
    "other-network": "from the solver fitted on another network",
    "curriculum": f"a third of the rounds against a teacher of {WEAK} steps",
}


@dataclass(frozen=True)
class Bench:
    """Two networks and what their teachers make; the second is where solvers come from that were fitted elsewhere."""

    denoise: Denoise
    samples: s4s.TeacherSet
    weak: s4s.TeacherSet
    other: tuple[Denoise, s4s.TeacherSet]

    def run(self, variant: str, method: str, nfe: int, seed: int) -> list[digits.Point]:
        """The curve of one fit: without what a start cost elsewhere, with the weak teacher's part of a curriculum."""

        def fit(begin: s4s.Solver) -> tuple[list[digits.Point], s4s.Solver]:
            return digits.ours(self.denoise, self.samples, method, begin, seed, ROUNDS)

        begin = digits.start(nfe)
        if variant.startswith("batch-"):
            size = {"all": digits.TRAIN}.get(variant[6:]) or int(variant[6:])
            with mock.patch.object(run, "ROUND", replace(run.ROUND, rows=size)):
                return fit(begin)[0]
        if variant == "other-grid":
            begin = s4s.solver("ipndm", s4s.grid("logsnr", digits.PROCESS, nfe), order=3)
        if variant == "other-solver":
            begin = s4s.solver("dpmpp", begin.sigma, order=3)
        if variant == "fewer-nfe":
            _, found = digits.ours(self.denoise, self.samples, method, digits.start(nfe - 1), seed, ROUNDS)
            begin = s4s.solver("ipndm", stretch(found.sigma, nfe), order=3)
        if variant == "other-network":
            _, begin = digits.ours(*self.other, method, begin, seed, ROUNDS)
        if variant == "curriculum":
            first, begin = digits.ours(self.denoise, self.weak, method, begin, seed, ROUNDS // 3)
            spent = first[-1]
            rest, _ = digits.ours(self.denoise, self.samples, method, begin, seed, ROUNDS - ROUNDS // 3)
            return [digits.Point(p.evaluations + spent.evaluations, p.seconds + spent.seconds, p.loss) for p in rest]
        return fit(begin)[0]


def bench(models: Path) -> Bench:
    denoise, _ = digits.denoiser(models, 0)
    other = digits.PROCESS.denoiser(train_denoiser(1, 800).requires_grad_(False), prediction="x0")
    return Bench(denoise, digits.teacher(denoise), digits.teacher(denoise, WEAK), (other, digits.teacher(other)))


def table(cells: dict[tuple[str, ...], list[digits.Point]]) -> str:
    """Markdown, a row a variant: medians, over the cells that both have, of ratios to the default of the same cell."""
    lines = ["| variant | cells | start's loss | final loss | evaluations to within 5% of the default's final loss |"]
    lines.append("|---" * 5 + "|")
    for variant, label in NAMES.items():
        pairs = [(points, cells["default", *key]) for (name, *key), points in cells.items() if name == variant]
        if not pairs:
            continue
        costs = [_cost(points, of) for points, of in pairs]
        reached = sum(cost < float("inf") for cost in costs)
        cost = statistics.median(costs)
        lines.append(
            f"| {label} | {len(pairs)} | {statistics.median(a[0].loss / b[0].loss for a, b in pairs):.2f} "
            f"| {statistics.median(a[-1].loss / b[-1].loss for a, b in pairs):.2f} "
            f"| {'never' if cost == float('inf') else f'{cost:.2f}'} ({reached} of {len(pairs)} get there) |"
        )
    return "\n".join([*lines, "", "Medians of ratios to the default from the same cell (method, NFE, seed)."]) + "\n"


def _cost(points: list[digits.Point], default: list[digits.Point]) -> float:
    """Evaluations until a fit is within 5% of the default's final loss, as a share of what the default takes."""
    goal = 1.05 * default[-1].loss
    point, of = digits.reach(points, goal), digits.reach(default, goal)
    assert of is not None
    return float("inf") if point is None else point.evaluations / max(of.evaluations, 1)


def main() -> None:
    args = digits.asked(__doc__ or "", "results/variants", [5, 8])
    made = bench(args.models)
    cells: dict[tuple[str, ...], list[digits.Point]] = {}
    for nfe, method, seed, variant in product(args.nfe, args.methods, args.seeds, NAMES):
        path = args.out / f"{variant}_{method}_{nfe}_{seed}_{args.network}.json"
        if not path.exists():
            write_text(path, json.dumps([vars(point) for point in made.run(variant, method, nfe, seed)]) + "\n")
        points = [digits.Point(**point) for point in json.loads(path.read_text())]
        cells[variant, method, str(nfe), str(seed)] = points
        print(path.stem, f"{points[0].loss:.5f} -> {points[-1].loss:.5f}", f"{points[-1].evaluations:,.0f}", flush=True)
    write_text(args.out / "variants.md", table(cells))
    print(table(cells))


if __name__ == "__main__":
    main()
