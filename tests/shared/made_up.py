"""Made-up results of realistic size and shape."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

NFES = (4, 6, 8)
SCHEDULES = ("logsnr", "edm", "quadratic")
CLASSICAL = {
    "ddim": (120.0, 55.0, 28.0),
    "dpmpp3": (23.1, 5.9, 4.2),
    "unipc3": (26.0, 7.4, 3.9),
    "ipndm3": (31.1, 5.5, 3.3),
}
LEARNED = {"ld3": (7.0, 2.55, 2.10), "s4s": (12.7, 4.2, 2.6), "s4s-alt": (3.15, 2.14, 2.02)}
STARTS = (("ipndm3", "edm", 1.0), ("dpmpp3", "logsnr", 1.35))
GRID_FACTOR = {"logsnr": 1.0, "edm": 0.97, "quadratic": 1.6}


class Results:
    """A results folder: metrics, solvers and samples of a benchmark."""

    def __init__(self, root: Path, benchmark: str = "digits", extractor: str = "digits") -> None:
        self.root, self.benchmark, self.extractor = root / "results" / benchmark, benchmark, extractor
        self.metrics: list[Path] = []

    def add(self, method: str, solver: str, schedule: str, nfe: int, fid: float, /, **changes: Any) -> Path:
        learned = method not in ("teacher", "classical")
        seed = changes.pop("seed", 0 if learned else None)
        cell = "_".join(map(str, [method, solver, schedule, nfe, *([seed] if learned else [])]))
        order = int(re.sub(r"\D", "", solver) or 1)
        record = {
            "cell": cell,
            "benchmark": self.benchmark,
            "method": method,
            "solver": solver,
            "schedule": schedule,
            "family": "lms" if learned else "",
            "order": order,
            "nfe": nfe,
            "seed": seed,
            "fid": fid,
            "fid_label": "FID@5000",
            "n_samples": 5000,
            "val_loss": fid**0.5 / 300 if learned else None,
            "fit_seconds": 31.25 if learned else None,
            "fit_nfe": 102400 if learned else None,
            "sample_seconds": 4.5,
            "protocol": {
                "uint8": "edm: (x * 127.5 + 128).clip(0, 255), truncated",
                "features": {"extractor": self.extractor, "layer": "64", "weights_sha256": "ab" * 32},
                "reference": {"set": "1797 images", "sha256": "cd" * 32},
                "class_sampling": "uniform",
            },
            "provenance": {
                "git_commit": "0123456789abcdef",
                "git_dirty": False,
                "config_sha256": "ef" * 32,
                "command": f"s4s evaluate --cell {cell}",
                "versions": {"python": "3.11.9", "torch": "2.13.0"},
                "device": "cpu",
                "dtype": "float32",
                "seeds": {"noise": 1, "fit": seed},
            },
        } | changes
        path = self.root / "metrics" / f"{record['cell']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record))
        self.metrics.append(path)
        return path

    def add_files(self) -> None:
        """Solver and sample files for every cell."""
        digits = _digits()
        for path in self.metrics:
            record = json.loads(path.read_text())
            solver = _solver(record["method"], record["solver"], record["schedule"], record["nfe"])
            (self.root / "solvers").mkdir(exist_ok=True)
            (self.root / "solvers" / path.name).write_text(json.dumps(solver))
            (self.root / "samples").mkdir(exist_ok=True)
            blur = 0.0 if record["method"] == "teacher" else min(60.0, 4 * record["fid"])
            noisy = digits + np.random.default_rng(0).normal(0, blur, digits.shape)
            np.savez(self.root / "samples" / path.with_suffix(".npz").name, images=noisy.clip(0, 255).astype(np.uint8))


def _digits() -> np.ndarray:
    from sklearn.datasets import load_digits

    return load_digits().images[:16] * (255 / 16)


def _solver(method: str, solver: str, schedule: str, nfe: int) -> dict[str, Any]:
    u = np.linspace(0, 1, nfe + 1)
    power = {"logsnr": None, "edm": 7.0, "quadratic": 2.0}.get(schedule, 3.0)
    ends = 20.0, 0.01
    sigma = ends[0] * (ends[1] / ends[0]) ** u if power is None else _between(ends, u, power)
    if method in ("ld3", "s4s-alt"):
        sigma = ends[0] * (ends[1] / ends[0]) ** (u**0.8)
    sigma_eval = sigma[:-1] * (1 + 0.12 * np.cos(np.arange(nfe))) if method in ("ld3", "s4s-alt") else sigma[:-1]
    weight = np.zeros((nfe + 1, nfe))
    for n in range(1, nfe + 1):
        row = (-0.45) ** np.arange(n)[::-1] * (1 if solver.startswith("ipndm") else 0.8)
        if method.startswith("s4s"):
            row = row + 0.1 * np.sin(np.arange(n) + n)
        weight[n, :n] = row / row.sum() * (1 - sigma[n] / sigma[0])
    arrays = {"sigma": sigma, "sigma_eval": sigma_eval, "start": sigma / sigma[0], "weight": weight}
    meta = {"schema": "s4s-solver", "version": 1, "name": method, "provenance": {}}
    return meta | {key: value.tolist() for key, value in arrays.items()}


def _between(ends: tuple[float, float], u: np.ndarray, power: float) -> np.ndarray:
    first, last = (end ** (1 / power) for end in ends)
    return (first + u * (last - first)) ** power


def fill(results: Results) -> Results:
    """Teacher, 4 classical solvers on 3 grids, 3 learned methods from 2 starts (S4S and S4S-Alt with 3 seeds)."""
    results.add("teacher", "dpmpp3", "logsnr", 40, 1.95)
    for i, nfe in enumerate(NFES):
        for solver, fids in CLASSICAL.items():
            for schedule in SCHEDULES:
                own = {("dpmpp3", "logsnr"): 1.0, ("ipndm3", "edm"): 1.0}.get((solver, schedule), GRID_FACTOR[schedule])
                results.add("classical", solver, schedule, nfe, fids[i] * own)
        for solver, schedule, factor in STARTS:
            for method, learned in LEARNED.items():
                for seed in (0,) if method == "ld3" else (0, 1, 2):
                    fid = learned[i] * factor * (1 + 0.02 * (seed - 1) * (method != "ld3"))
                    results.add(method, solver, schedule, nfe, fid, seed=seed)
    results.add_files()
    return results


def small_results(tmp_path: Path, **changes: Any) -> Results:
    """A small benchmark: a classical solver and an S4S fit."""
    made = Results(tmp_path)
    made.add("classical", "ipndm3", "edm", 4, 31.1)
    made.add("s4s", "ipndm3", "edm", 4, 12.7, **changes)
    return made
