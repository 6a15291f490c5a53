"""The figure of loss against the radius of the relaxed objective (the paper's Figure 4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from s4s.errors import Error
from s4s.report.data import ROW, Record, read_records
from s4s.report.labels import method_label, ordered, start_label
from s4s.report.protocol import fid_name
from s4s.report.style import drawing, log_axis, markers, method_colors, save

KINDS = {
    "relaxed_loss": ("relaxed: noises free in the ball", "--"),
    "val_loss": ("plain: noises as drawn", "-"),
}


def with_plain(records: Sequence[Record]) -> list[Record]:
    """The records that name their radius, and those of the same row without one: r = 0, where the losses are one."""
    named = [record for record in records if record.get("radius") is not None and not record.get("settings")]
    of, zero = {_row(record) for record in named}, {_row(record) for record in named if record["radius"] == 0}
    plain = [record for record in records if record.get("radius") is None and not record.get("settings")]
    return named + [
        {**record, "radius": 0.0, "relaxed_loss": record["val_loss"]} for record in plain if _row(record) in of - zero
    ]


def _row(record: Record) -> tuple[Any, ...]:
    return tuple(record.get(key) for key in (*ROW, "nfe"))


def draw_radius(metrics_files: Iterable[Path], stem: Path) -> list[Path]:
    """Losses on held-out samples, and FID below them, against r: a column a start, a line a method and NFE.

    Returns:
        ``stem.png`` and ``stem.pdf``.

    Raises:
        Error: no cell names its radius.
    """
    records = with_plain(read_records(metrics_files))
    if not records:
        raise Error("no cell names its radius; give learned.radius as a list")
    starts = list(dict.fromkeys((record["solver"], record["schedule"]) for record in records))
    methods = ordered(record["method"] for record in records)
    colors, marks = method_colors(methods), markers([str(nfe) for nfe in sorted({r["nfe"] for r in records})])
    with drawing():
        figure = Figure(figsize=(1.2 + 3.6 * len(starts), 5.2))
        panels = figure.subplots(2, len(starts), squeeze=False, sharex=True, sharey="row")
        for column, start in zip(panels.T, starts, strict=True):
            own = [record for record in records if (record["solver"], record["schedule"]) == start]
            _draw(column[0], own, colors, marks, tuple(KINDS))
            _draw(column[1], own, colors, marks, ("fid",))
            column[0].set_title(start_label(*start))
            column[1].set_xlabel("radius r, in units of sigma_T")
        log_axis(panels[0, 0], "y", "held-out distance to the teacher")
        log_axis(panels[1, 0], "y", fid_name(records))
        figure.legend(
            handles=_legend(methods, colors, marks), loc="upper left", bbox_to_anchor=(0.92, 0.9), handlelength=2.6
        )
        return save(figure, stem)


def _draw(
    axes: Axes, records: Sequence[Record], colors: dict[str, str], marks: dict[str, str], keys: Sequence[str]
) -> None:
    radii = sorted({record["radius"] for record in records})
    for method, nfe in dict.fromkeys((record["method"], record["nfe"]) for record in records):
        for key in keys:
            found = {r: value for r in radii if (value := _mean(records, method, nfe, r, key)) is not None}
            look: dict[str, Any] = {"color": colors[method], "marker": marks[str(nfe)], "ms": 5, "lw": 1.4}
            single = [(r["radius"], r[key]) for r in records if (r["method"], r["nfe"]) == (method, nfe) and r.get(key)]
            axes.plot([r for r, _ in single], [value for _, value in single], ".", ms=4, alpha=0.4, color=look["color"])
            axes.plot(
                list(found), list(found.values()), linestyle=KINDS.get(key, ("", "-"))[1], mec="white", mew=0.6, **look
            )
    smallest = min((r for r in radii if r > 0), default=1.0)
    axes.set_xscale("symlog", linthresh=smallest, linscale=0.5)
    axes.set_xticks(radii)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(True)


def _mean(records: Sequence[Record], method: str, nfe: int, radius: float, key: str) -> float | None:
    """Over the fit seeds; None where no cell has it."""
    same = [r for r in records if (r["method"], r["nfe"], r["radius"]) == (method, nfe, radius)]
    values = [record[key] for record in same if record.get(key) is not None]
    return fmean(values) if values else None


def _legend(methods: Sequence[str], colors: dict[str, str], marks: dict[str, str]) -> list[Line2D]:
    handles = [Line2D([], [], color=colors[method], lw=2, label=method_label(method)) for method in methods]
    handles += [Line2D([], [], color="#777777", ls="", marker=mark, label=f"{nfe} NFE") for nfe, mark in marks.items()]
    return handles + [Line2D([], [], color="#555555", ls=dash, label=label) for label, dash in KINDS.values()]
