"""A figure of what was learned: the levels and the weights of solvers, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from s4s.errors import Error
from s4s.report.choose import Choice, grid_labels
from s4s.report.style import METHOD_COLOR, drawing, save

Array = NDArray[np.float64]
_GRID = "grid"
_PANELS = 4
_CIRCLE: dict[str, Any] = {"ls": "", "marker": "o", "mfc": "white", "mew": 1.2, "ms": 5}


@dataclass(frozen=True)
class Numbers:
    """What the figure needs of a solver file: sigma [N+1], sigma_eval [N], weight [N+1, N].

    ``null`` [N+1, N] where outputs with and without the condition are weighed apart.
    """

    sigma: Array
    sigma_eval: Array
    weight: Array
    null: Array | None = None

    @property
    def decoupled(self) -> bool:
        """Does the network see other levels than the nodes'?"""
        return not np.allclose(self.sigma_eval, self.sigma[:-1], rtol=1e-6, atol=0)


def read_numbers(path: Path) -> Numbers:
    """Read a solver file without torch.

    Raises:
        Error: the file is missing, truncated, or its arrays do not fit together.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        keys = [key for key in ("sigma", "sigma_eval", "weight", "null") if key != "null" or key in data]
        numbers = Numbers(*(np.asarray(data[key], dtype=np.float64) for key in keys))
    except OSError as error:
        raise Error(f"{path}: cannot read the solver file: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Error(f"{path}: not a solver file, or a truncated one ({error}); fit or export it again") from error
    n = numbers.sigma_eval.size
    if n < 1 or numbers.sigma.shape != (n + 1,) or numbers.weight.shape != (n + 1, n):
        raise Error(f"{path}: the arrays of the solver do not fit together; fit or export it again")
    return numbers


def is_function(path: Path) -> bool:
    """Whether a solver file stands for a function of one's own, which has no levels and weights to show."""
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")).get("schema") == "s4s-method")
    except (OSError, ValueError, AttributeError):
        return False  # which read_numbers says


def draw_solvers(choice: Choice, directory: Path, stem: Path) -> list[Path]:
    """Levels and weights of the chosen solvers: classical grids, the start, and what was learned from it.

    Args:
        choice: from ``s4s.report.choose``.
        directory: where the solver files ``<cell>.json`` lie.
        stem: the figure's path without a suffix.
    """
    others = {label: directory / f"{record['cell']}.json" for label, record in grid_labels(choice).items()}
    shown = {m: directory / f"{record['cell']}.json" for m, record in choice.cells.items() if m != "teacher"}
    shown = {method: path for method, path in shown.items() if not is_function(path)}
    return draw_anatomy(others, shown, {method: choice.label(method) for method in shown}, stem)


def draw_anatomy(
    grids: Mapping[str, Path], solvers: Mapping[str, Path], labels: Mapping[str, str], stem: Path
) -> list[Path]:
    """Levels of ``grids`` and ``solvers``, and weights of ``solvers``.

    Args:
        grids: solver files of which only the levels are shown, by label.
        solvers: solver files by method; LD3 learns levels only, so its weights are left out.
        labels: label of each method.
        stem: the figure's path without a suffix.
    """
    levels = {label: (_GRID, read_numbers(path)) for label, path in grids.items()}
    levels |= {labels[method]: (method, read_numbers(path)) for method, path in solvers.items()}
    panels = {label: numbers for label, (method, numbers) in levels.items() if method not in (_GRID, "ld3")}
    apart = any(numbers.null is not None for numbers in panels.values())
    chosen = list(panels.items())
    panels = dict(chosen[:_PANELS] if not apart else chosen[: _PANELS - 2] + chosen[_PANELS - 2 :][-2:])
    tables = 1 + apart
    side = max(2.3, 0.36 * max(numbers.sigma_eval.size for numbers in panels.values()))
    rows = 0.27 * len(levels) + 0.3
    with drawing():
        figure = Figure(figsize=(max(7.0, side * len(panels)), rows + tables * (side + 0.2) + 1.0))
        heights = (rows, *[side] * tables)
        space = 1.05 / (sum(heights) / len(heights))
        spec = figure.add_gridspec(1 + tables, len(panels), height_ratios=heights, hspace=space)
        _levels(figure.add_subplot(spec[0, :]), levels)
        shown_tables = [table for n in panels.values() for table in (n.weight, n.null) if table is not None]
        limit = max(float(np.abs(table).max()) for table in shown_tables)
        for i, (label, numbers) in enumerate(panels.items()):
            _weights(figure.add_subplot(spec[1, i]), label, numbers.weight, limit, first=i == 0)
            if numbers.null is not None:
                below = f"{label}:\nwithout the condition"
                _weights(figure.add_subplot(spec[2, i]), below, numbers.null, limit, first=False)
        return save(figure, stem)


def _levels(axes: Axes, levels: Mapping[str, tuple[str, Numbers]]) -> None:
    positive = np.concatenate([numbers.sigma[numbers.sigma > 0] for _, numbers in levels.values()])
    zero = float(positive.min()) / 2  # where a level of exactly 0 is drawn
    for y, (method, numbers) in enumerate(levels.values()):
        color = METHOD_COLOR.get(method, "#9A9A9A") if method != "classical" else "#444444"
        sigma = np.where(numbers.sigma > 0, numbers.sigma, zero)
        axes.axhline(y, color="#ECECEC", lw=0.8, zorder=1)
        axes.plot(sigma, np.full_like(sigma, y), "|", color=color, ms=13, mew=2, zorder=3)
        if numbers.decoupled:
            axes.plot(numbers.sigma_eval, np.full_like(numbers.sigma_eval, y), color=color, zorder=4, **_CIRCLE)
        if numbers.sigma[-1] == 0:
            axes.annotate("0", (zero, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(range(len(levels)), list(levels))
    axes.set(xscale="log", ylim=(len(levels) - 0.4, -0.6), xlabel="noise level σ (data units, log scale); sampling →")
    axes.invert_xaxis()
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    handles = [Line2D([], [], ls="", marker="|", color="#444444", ms=10, mew=2, label="node")]
    if any(numbers.decoupled for _, numbers in levels.values()):
        label = "level handed to the network, where it differs"
        handles.append(Line2D([], [], color="#444444", label=label, **_CIRCLE))
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderpad=0)


def _weights(axes: Axes, label: str, table: Array, limit: float, *, first: bool) -> None:
    n, weight = table.shape[1], table[1:]
    sns.heatmap(
        weight,
        ax=axes,
        mask=np.triu(np.ones_like(weight, dtype=bool), k=1),
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        square=True,
        cbar=False,
        annot=weight.round(2) + 0.0 if n <= 12 else False,
        fmt=".2f",
        annot_kws={"size": 8 if n <= 6 else 6.5},
        linewidths=0.6,
        linecolor="white",
        xticklabels=[f"$D_{{{j}}}$" for j in range(n)],
        yticklabels=[f"$x_{{{i + 1}}}$" for i in range(n)] if first else False,
    )
    axes.set_title(label, pad=6)
    axes.tick_params(length=0, rotation=0)
    if first:
        axes.set_ylabel("node: weight of each output")
