"""Validation loss against cost: our fit beside Adam with 300 and 1,200 steps, over methods, NFE and seeds on digits.

    python benchmarks/convergence.py [--out results/convergence] [--methods joint] [--nfe 4 5] [--seeds 0]

About two CPU minutes a cell at 4 NFE, more in proportion. A cell is computed once for a network and kept as a JSON
file; the table and the figure, ``convergence.md`` and ``convergence.png`` beside it, are of all cells of that network.
"""

from __future__ import annotations

import json
import statistics
from itertools import product
from pathlib import Path
from typing import Any

import digits
import matplotlib

from s4s.files import replacing, write_text

ROUNDS, STEPS, LONG = 12, 300, 1200
LABELS = {"ours": "ours", "adam": f"Adam, {STEPS} steps", "long": f"Adam, {LONG} steps"}


def cell(denoise: Any, samples: Any, method: str, nfe: int, seed: int) -> dict[str, Any]:
    """The curves of one cell."""
    curves = {
        "ours": digits.ours(denoise, samples, method, digits.start(nfe), seed, ROUNDS)[0],
        "adam": digits.adam(denoise, samples, method, nfe, seed, STEPS),
        "long": digits.adam(denoise, samples, method, nfe, seed, LONG),
    }
    made = {name: [vars(point) for point in points] for name, points in curves.items()}
    return {"method": method, "nfe": nfe, "seed": seed} | made


def row(made: dict[str, Any]) -> dict[str, float | None]:
    """What the targets compare: cost of Adam's loss as a share of Adam's cost, final loss beside the long run's."""
    ours, adam, long = ([digits.Point(**point) for point in made[name]] for name in ("ours", "adam", "long"))
    point, end = digits.reach(ours, adam[-1].loss), adam[-1]
    return {
        "start": ours[0].loss,
        "adam": end.loss,
        "long": long[-1].loss,
        "ours": ours[-1].loss,
        "evaluations": None if point is None else point.evaluations / end.evaluations,
        "seconds": None if point is None else point.seconds / end.seconds,
    }


def table(cells: list[dict[str, Any]]) -> str:
    """Markdown, one row a cell, and the medians; a cell that never gets to Adam's loss counts as infinity."""
    head = ["method", "NFE", "seed", "start", f"Adam {STEPS}", f"Adam {LONG}", "ours", "evaluations", "CPU time"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    rows = [row(made) for made in cells]
    for made, found in zip(cells, rows, strict=True):
        losses = " | ".join(f"{found[key]:.5f}" for key in ("start", "adam", "long", "ours"))
        costs = " | ".join("never" if found[key] is None else f"{found[key]:.2f}" for key in ("evaluations", "seconds"))
        lines.append(f"| {made['method']} | {made['nfe']} | {made['seed']} | {losses} | {costs} |")
    medians = [statistics.median(found[key] or float("inf") for found in rows) for key in ("evaluations", "seconds")]
    better = sum(found["ours"] <= found["long"] for found in rows)  # type: ignore[operator]
    lines += [
        "",
        f"Medians over {len(rows)} cells of what ours costs until it has the loss of Adam's {STEPS} steps, as a share "
        f"of theirs: {medians[0]:.2f} of the evaluations, {medians[1]:.2f} of the CPU time. Final loss at or below "
        f"that of {LONG} steps: {better} of {len(rows)}.",
    ]
    return "\n".join(lines) + "\n"


def figure(cells: list[dict[str, Any]], path: Path) -> None:
    """One panel for each method and NFE, all seeds in it."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    methods, nfes = (sorted({made[key] for made in cells}) for key in ("method", "nfe"))
    size = (3.2 * len(nfes), 2.8 * len(methods))
    plot, axes = plt.subplots(len(methods), len(nfes), figsize=size, squeeze=False, sharex=True, layout="constrained")
    for made in cells:
        ax = axes[methods.index(made["method"])][nfes.index(made["nfe"])]
        ax.set(title=f"{made['method']}, {made['nfe']} NFE", xscale="log", yscale="log")
        for color, (name, label) in zip(("C0", "C1", "C2"), LABELS.items(), strict=True):
            points = made[name][1:]
            ax.plot([p["evaluations"] for p in points], [p["loss"] for p in points], color, label=label, lw=1.2)
    handles, labels = axes[0][0].get_legend_handles_labels()
    plot.legend(handles[: len(LABELS)], labels[: len(LABELS)], loc="outside upper center", ncols=3)
    plot.supxlabel("network-forward-equivalents, validation not counted")
    plot.supylabel("validation loss (L2)")
    with replacing(path) as temporary:
        plot.savefig(temporary, dpi=150)
    plt.close(plot)


def main() -> None:
    args = digits.asked(__doc__ or "", "results/convergence", [4, 5, 6, 8])
    denoise, _ = digits.denoiser(args.models, 0)
    samples = digits.teacher(denoise)
    for method, nfe, seed in product(args.methods, args.nfe, args.seeds):
        path = args.out / f"{method}-{nfe}-{seed}-{args.network}.json"
        if not path.exists():
            write_text(path, json.dumps(cell(denoise, samples, method, nfe, seed)) + "\n")
            print(path, row(json.loads(path.read_text())), flush=True)
    found = [json.loads(path.read_text()) for path in args.out.glob(f"*-{args.network}.json")]
    found.sort(key=lambda made: (made["method"], made["nfe"], made["seed"]))
    write_text(args.out / "convergence.md", table(found))
    figure(found, args.out / "convergence.png")
    print(table(found))


if __name__ == "__main__":
    main()
