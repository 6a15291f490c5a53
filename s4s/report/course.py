"""The course of fits: principal components of the learned weights, along the steps and along the rounds (Figure 3)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from s4s.errors import Error
from s4s.report.data import Record, read_records
from s4s.report.style import MARKERS, drawing, save
from s4s.words import SEEDS

Array = NDArray[np.float64]
IPNDM = ([1.0], [1.5, -0.5], [23 / 12, -16 / 12, 5 / 12])  # by the outputs there are
SEED_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")


def chosen(records: Sequence[Record]) -> list[Record]:
    """Cells of S4S from iPNDM of order 3, as it is, at the smallest NFE that has enough seeds."""
    plain = [r for r in records if r["method"] == "s4s" and r["solver"] == "ipndm3" and r["family"] == "lms"
             and r["order"] == 3 and not r.get("settings") and not r.get("radius")]  # fmt: skip
    for nfe in sorted({record["nfe"] for record in plain}):
        alike = [record for record in plain if record["nfe"] == nfe and record["schedule"] == plain[0]["schedule"]]
        if len(alike) >= SEEDS:
            return alike
    return []


def table_of(weights: Sequence[float], nfe: int) -> Array:
    """[nfe, k] weights of each step, latest output first, 0 where a step has fewer outputs."""
    order = next(k for k in range(1, nfe + 1) if sum(min(k, n + 1) for n in range(nfe)) == len(weights))
    table, left = np.zeros((nfe, order)), list(weights)
    for n in range(nfe):
        count = min(order, n + 1)
        table[n, :count], left = left[:count], left[count:]
    return table


def ipndm(nfe: int) -> Array:
    """[nfe, 3] the weights that the fits start from."""
    table = np.zeros((nfe, 3))
    for n in range(nfe):
        row = IPNDM[min(n, 2)]
        table[n, : len(row)] = row
    return table


def rounds(record: Record) -> list[tuple[float, Array]]:
    """Held-out loss and weights after every round of a fit.

    Raises:
        Error: its file holds no weights.
    """
    path = record["path"].parent.parent / "fits" / record["path"].name
    try:
        history = json.loads(path.read_text(encoding="utf-8"))["history"]
        return [(each["val_loss"], table_of(each["weights"], record["nfe"])) for each in history]
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise Error(f"{path}: holds no course of the weights ({error!r}); fit the cell again") from error


def components(vectors: Array) -> Array:
    """[n, 2] the two leading principal components of [n, d]."""
    centred = vectors - vectors.mean(0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    made = np.zeros((len(vectors), 2))
    made[:, : min(2, size.size)] = (left * size)[:, :2]
    return made


def draw_course(metrics_files: Iterable[Path], stem: Path) -> list[Path]:
    """Left: the weights of every step, of several seeds, and iPNDM's. Right: all weights after every round.

    Raises:
        Error: no S4S from iPNDM 3 with enough seeds, or fits that kept no weights.
    """
    cells = chosen(read_records(metrics_files))
    if not cells:
        raise Error(f"no S4S fits from iPNDM 3 with {SEEDS} seeds")
    nfe, fits = cells[0]["nfe"], [rounds(record) for record in cells]
    finals = [min(fit, key=lambda each: each[0])[1] for fit in fits]
    with drawing():
        figure = Figure(figsize=(7.0, 3.0))
        left, right = figure.subplots(1, 2)
        middle = _draw(left, [list(final) for final in finals], list(ipndm(nfe)), cells)
        for n, place in enumerate(middle):
            left.annotate(str(n + 1), place, xytext=(7, 4), textcoords="offset points", fontsize=9, color="#333333")
        left.set_title(f"weights of steps 1 to {nfe}, S4S of order 3")
        courses = [[table.ravel() for _, table in fit] for fit in fits]
        _draw(right, courses, [ipndm(nfe).ravel()], cells, begun=True)
        right.set_title("all weights, after each round")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncols=len(labels), bbox_to_anchor=(0.5, -0.04))
        figure.subplots_adjust(wspace=0.3)
        return save(figure, stem)


def _draw(
    axes: Axes,
    series: Sequence[Sequence[Array]],
    reference: Sequence[Array],
    cells: Sequence[Record],
    begun: bool = False,
) -> Array:
    """One line a seed through its points, the earlier the darker; the reference is stars.

    Args:
        begun: whether every line begins at the reference.

    Returns:
        The middle of all seeds' points, one after the other; of as many as every seed has.
    """
    found = components(np.stack([*(point for points in series for point in points), *reference]))
    stars, lines, at = found[len(found) - len(reference) :], list[Array](), 0
    for i, (points, record) in enumerate(zip(series, cells, strict=True)):
        here = found[at : at + len(points)]
        at += len(points)
        lines.append(here)
        look: dict[str, Any] = {"color": SEED_COLORS[i % len(SEED_COLORS)]}
        axes.plot(*here.T, lw=0.8, alpha=0.5, **look)
        if begun:
            axes.plot(*np.stack([stars[0], here[0]]).T, lw=0.8, ls=":", alpha=0.5, **look)
        for k, (x, y) in enumerate(here):
            strength = 1 - 0.75 * k / max(len(here) - 1, 1)
            label = f"seed {record['seed']}" if k == 0 else None
            axes.plot(x, y, MARKERS[i % len(MARKERS)], ms=6, alpha=strength, mec="white", mew=0.5, label=label, **look)
    axes.plot(*stars.T, "*", ms=11, ls="--", lw=0.8, color="#333333", label="iPNDM")
    axes.set(xlabel="first component", ylabel="second component")
    axes.grid(True)
    least = min(map(len, lines))
    return np.asarray(np.mean([line[:least] for line in lines], axis=0))
