"""The figure of what each choice of a method is worth: FID of every variation beside the method as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from s4s.errors import Error
from s4s.report.data import Score, read_records, scores, to_frame
from s4s.report.labels import method_label, others
from s4s.report.protocol import fid_name
from s4s.report.style import drawing, method_colors, save
from s4s.report.variants import varied
from s4s.words import SEEDS

Row = tuple[str, Score]


def draw_choices(metrics_files: Iterable[Path], stem: Path) -> list[Path]:
    """A panel a method and NFE, a row a variation of enough seeds: single fits, their mean, and the method as it is.

    Raises:
        Error: no variation has enough seeds.
    """
    records = read_records(metrics_files)
    groups: dict[tuple[str, int], list[Row]] = {}
    for what, score, base in varied(scores(to_frame(records))):
        if min(len(score.cells), len(base.cells)) >= SEEDS:
            groups.setdefault((base.method, base.nfe), [("as it is", base)]).append((what, score))
    if not groups:
        raise Error(f"no variation of a method has {SEEDS} seeds")
    of = {record["cell"]: record["fid"] for record in records}
    colors = method_colors(others(method for method, _ in groups))
    heights = [len(rows) + 1.5 for rows in groups.values()]
    with drawing():
        figure = Figure(figsize=(4.8, 0.21 * sum(heights) + 0.5))
        panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, ((method, nfe), rows) in zip(panels, groups.items(), strict=True):
            _panel(axes, rows, of, colors[method])
            axes.set_title(f"{method_label(method)}, {nfe} NFE", loc="left")
        panels[-1].set_xlabel(f"{fid_name(records)} (log scale; lower is better)")
        figure.subplots_adjust(hspace=3.2 * len(groups) / sum(heights))
        return save(figure, stem)


def _panel(axes: Axes, rows: Sequence[Row], of: dict[str, float], color: str) -> None:
    """Rows from the lowest mean to the highest; a line at that of the method as it is."""
    axes.axvline(rows[0][1].fid, color="#555555", lw=0.8, ls="--")
    rows = sorted(rows, key=lambda row: row[1].fid)
    for y, (what, score) in enumerate(rows):
        axes.plot([of[cell] for cell in score.cells], [y] * len(score.cells), ".", ms=5, alpha=0.45, color=color)
        axes.plot(score.fid, y, "D" if what == "as it is" else "o", ms=5.5, color=color, mec="white", mew=0.7)
    axes.set_yticks(range(len(rows)), [what for what, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xscale("log")
    subs = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0) if rows[-1][1].fid < 5 * rows[0][1].fid else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
