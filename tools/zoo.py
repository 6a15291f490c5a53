"""The package's own solvers from a finished run of an embedded benchmark: ``python tools/zoo.py results/digits``.

Of each method and number of evaluations the fit with the lowest validation loss goes in, with a card, if it is nearer
to the teacher than every textbook solver of the run; where the run does not tell that, if its FID is lower.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from s4s.bundle import Bundle
from s4s.solver import load_solver

ZOO = Path(__file__).parents[1] / "s4s" / "zoo"
METHODS = ("s4s", "s4s-alt")
PREDICTIONS = {"edm": "x0", "vp": "eps", "flow": "flow"}
KEPT = ("method", "start", "schedule", "family", "distance", "radius", "seed", "val_loss", "teacher_samples", "source")


def pack(results: Path) -> None:
    """Write a bundle for every method."""
    with (results / "fid.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for method in METHODS:
        found = [row for row in rows if row["method"] == method]
        if not found:
            continue
        best = [min((row for row in found if row["nfe"] == nfe), key=lambda row: float(row["val_loss"]))
                for nfe in sorted({row["nfe"] for row in found}, key=int)]  # fmt: skip
        best = [row for row in best if float(row[judge(row)]) < textbook(rows, row["nfe"], judge(row))]
        if not best:
            continue
        solvers = [load_solver(results / "solvers" / Path(row["metrics_file"]).name) for row in best]
        kept = [each.replace(provenance={key: each.provenance[key] for key in KEPT}) for each in solvers]
        levels = " to ".join(f"{level:.6g}" for level in kept[0].sigma[[0, -1]].tolist())
        bundle = Bundle({each.nfe: each for each in kept}, {"card": card(results, rows, best) | {"sigma": levels}})
        bundle.save(path := ZOO / f"{results.name}-{method}.json")
        print(path, path.stat().st_size, "bytes")


def judge(row: dict[str, str]) -> str:
    """The column that solvers are compared by: of guided models a FID to the data says little."""
    return "fid_to_teacher" if row.get("fid_to_teacher") else "fid"


def textbook(rows: list[dict[str, str]], nfe: str, column: str) -> float:
    """The lowest of a run's textbook solvers at a number of evaluations."""
    return min(float(row[column]) for row in rows if row["method"] == "classical" and row["nfe"] == nfe)


def card(results: Path, rows: list[dict[str, str]], best: list[dict[str, str]]) -> dict[str, Any]:
    """What the solvers of some rows of ``fid.csv`` are for, who fitted them, and how they and textbook ones scored."""
    metrics = json.loads((results / best[0]["metrics_file"]).read_text(encoding="utf-8"))
    config = yaml.safe_load((results / "config.yaml").read_text(encoding="utf-8"))
    process = config.get("process", {}).get("type", "edm")
    made = metrics["provenance"]
    by_class = "by class" if made["model"].get("classes") else "unconditional"
    latents = " decoded from latents" * ("latents" in config.get("model", {}))
    own = f"config/{results.name}.yaml"  # benchmarks of another scale of guidance are parts of a list
    shown = dict.fromkeys(["fid", *map(judge, best)])
    scores = {name: {row["nfe"]: round(float(row[name]), 2) for row in best} for name in shown}
    scores |= {
        f"textbook_{name}": {row["nfe"]: round(textbook(rows, row["nfe"], name), 2) for row in best} for name in shown
    }
    return {
        "model": f"digits of scikit-learn, 8x8{latents}, {process}, {by_class}",
        "weights_sha256": made["model"]["weights_sha256"],
        "process": process,
        "prediction": PREDICTIONS[process],
        "guidance": made["model"]["guidance"],
        "resolution": "8x8",
        "fitted by": f"s4s run {own if (ZOO.parents[1] / own).exists() else 'config/kinds.yaml'}",
        "s4s": made["versions"]["s4s"],
        "score": f"{metrics['fid_label']} in features of its own",
        "licence": "Apache-2.0",
    } | scores


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/zoo.py RESULTS, such as results/digits")
    pack(Path(sys.argv[1]))
