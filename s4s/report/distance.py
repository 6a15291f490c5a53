"""The figure of how far solvers are from the teacher, along their steps."""

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
from s4s.report.choose import Choice
from s4s.report.data import Score, best, read_records, scores, to_frame
from s4s.report.labels import others, start_label
from s4s.report.style import MARKERS, drawing, log_axis, method_colors, save

Array = NDArray[np.float64]
Course = tuple[Array, Array]
"""Levels of a solver's nodes, and its distance to the teacher at each."""
Line = tuple[str, dict[str, Any], Sequence[str]]
"""Label, look and cells of a line of the figure."""
GRAY = {"start": "#444444", "best": "#9A9A9A"}


def read_paths(path: Path) -> dict[str, Course]:
    """The course of every cell.

    Raises:
        Error: the file is missing, truncated, or is another one.
    """
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return {name: (np.asarray(c["sigma"], float), np.asarray(c["distance"], float)) for name, c in cells.items()}
    except OSError as error:
        raise Error(f"{path}: cannot read it: {error.strerror}; run `s4s paths` first") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Error(f"{path}: holds no distances along the steps ({error!r}); run `s4s paths` again") from error


def draw_distance(metrics_files: Iterable[Path], choice: Choice, paths: Path, stem: Path) -> list[Path]:
    """Distance to the teacher at every node: the start, the best textbook solver, and what was learned from the start.

    Lines are means over fit seeds, dots single fits.

    Raises:
        Error: as ``read_paths``.
    """
    courses, found = read_paths(paths), scores(to_frame(read_records(metrics_files)))
    shown = _shown(choice, found)
    with drawing():
        figure = Figure(figsize=(4.8, 3.4))
        axes = figure.add_subplot()
        for k, (label, look, cells) in enumerate(shown):
            if drawn := [courses[cell] for cell in cells if cell in courses]:
                _draw(axes, drawn, {"marker": MARKERS[k % len(MARKERS)], "label": label} | look)
        axes.set_xscale("log")
        axes.invert_xaxis()
        axes.set_xlabel(f"noise level σ of the node (log scale); sampling →, {choice.nfe} NFE")
        log_axis(axes, "y", "distance to the teacher (lower is better)")
        axes.grid(True)
        figure.legend(loc="upper left", bbox_to_anchor=(0.92, 0.9))
        return save(figure, stem)


def _shown(choice: Choice, found: Sequence[Score]) -> list[Line]:
    """The best textbook solver where it is not the start, the start, and what was learned from it."""
    seeds, colors = {score.cells[0]: score.cells for score in found}, method_colors(others(choice.cells))
    made, top = list[Line](), best(found, "classical", choice.nfe)
    if top is not None and top.start != choice.start:
        made.append((f"{start_label(*top.start)} (best FID)", {"color": GRAY["best"], "ls": "--"}, top.cells))
    for method, record in choice.cells.items():
        look: dict[str, Any] = {"color": colors.get(method)}
        if method == "classical":
            look, label = {"color": GRAY["start"], "ls": "--"}, f"{start_label(*choice.start)} (start)"
        else:
            label = choice.label(method)
        if method != "teacher":
            made.append((label, look, seeds[record["cell"]]))
    return made


def _draw(axes: Axes, courses: Sequence[Course], look: dict[str, Any]) -> None:
    """Means over seeds of levels and distances, which are 0 at the first node and begin at the next."""
    sigma, distance = (np.stack(each)[:, 1:] for each in zip(*courses, strict=True))
    zero = sigma[sigma > 0].min() / 2  # where a level of exactly 0 is drawn
    sigma = np.where(sigma > 0, sigma, zero)
    if len(courses) > 1:
        axes.plot(sigma.T, distance.T, ".", ms=4, alpha=0.5, color=look["color"])
    mean = [np.exp(np.log(np.maximum(each, 1e-12)).mean(0)) for each in (sigma, distance)]
    axes.plot(*mean, lw=1.6, ms=5, mec="white", mew=0.6, **look)
