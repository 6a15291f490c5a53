"""Figures of numbers: FID against NFE, and validation loss against FID."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from s4s.errors import Error
from s4s.report.data import Score, read_records, scores, teacher_of, to_frame
from s4s.report.gains import pairs
from s4s.report.imitation import compared
from s4s.report.labels import method_label, ordered, others, schedule_label, solver_label, start_label
from s4s.report.protocol import fid_name
from s4s.report.style import METHOD_COLOR, dashes, drawing, log_axis, markers, method_colors, save, tints
from s4s.report.variants import unvaried, variant_names

Curve = list[Score]


def draw_fid(metrics_files: Iterable[Path], stem: Path, against: str = "nfe") -> list[Path]:
    """FID against NFE, one line a row of the FID table: learned methods bold, classical solvers thin.

    Args:
        against: ``nfe``, or ``calls`` of the network, which a guided evaluation makes two of.

    Returns:
        ``stem.png`` and ``stem.pdf``.
    """
    records = read_records(metrics_files)
    return _draw(scores(to_frame(records)), stem, against, f"{fid_name(records)} (log scale; lower is better)")


def _draw(every: Sequence[Score], stem: Path, against: str, label: str) -> list[Path]:
    found = _shown(every)
    with drawing():
        figure = Figure(figsize=(5.6, 4.4))
        axes = figure.add_subplot()
        handles = [*_learned(axes, found, against), *_classical(axes, found, against)]
        _teacher(axes, every, against)
        ticks = sorted({getattr(score, against) for score in found if score.method != "teacher"})
        axes.set_xticks(ticks or sorted({getattr(score, against) for score in found}))
        axes.margins(y=0.08)
        axes.set_xlabel(f"network {'evaluations per sample (NFE)' if against == 'nfe' else 'calls per sample'}")
        log_axis(axes, "y", label)
        axes.grid(axis="y")
        figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.92, 0.9), handlelength=2.6)
        return save(figure, stem)


def _shown(found: Sequence[Score]) -> Sequence[Score]:
    """What is drawn against NFE: at a single one no variations, which would be dots alike and have their own figure."""
    return unvaried(found) if len({score.nfe for score in found if score.method != "teacher"}) == 1 else found


def draw_imitation(metrics_files: Iterable[Path], stem: Path) -> list[Path]:
    """FID to the teacher's own samples against network calls, or NFE where they are the same.

    Raises:
        Error: the teacher was not compared with.
    """
    records = read_records(metrics_files)
    found = compared(scores(to_frame(records)))
    if not found:
        raise Error("no cell was compared with the teacher's samples; put teacher into score.metrics")
    against = "nfe" if any(score.calls is None for score in found) else "calls"
    return _draw(found, stem, against, "FID to the teacher's samples (log scale; lower is better)")


def draw_loss(metrics_files: Iterable[Path], stem: Path) -> list[Path]:
    """Validation loss of each fit against its FID: does the objective rank solvers as FID does?

    Raises:
        Error: no cell has a validation loss.
    """
    records = [record for record in read_records(metrics_files) if record["val_loss"]]
    if not records:
        raise Error("no cell has a validation loss; fit a solver first")
    methods = ordered(record["method"] for record in records)
    colors = method_colors(methods)
    marks = markers([str(nfe) for nfe in sorted({record["nfe"] for record in records})])
    with drawing():
        figure = Figure(figsize=(4.8, 4.0))
        axes = figure.add_subplot()
        for record in records:
            look: dict[str, Any] = {"color": colors[record["method"]], "marker": marks[str(record["nfe"])]}
            axes.plot(record["val_loss"], record["fid"], linestyle="", ms=5.5, mec="white", mew=0.6, **look)
        log_axis(axes, "x", "validation loss (distance to the teacher, log scale)")
        log_axis(axes, "y", f"{fid_name(records)} (log scale; lower is better)")
        axes.grid(True)
        handles = [_title("Method"), *(_dot(method_label(m), "o", colors[m]) for m in methods)]
        handles += [_space(), _title("NFE"), *(_dot(nfe, mark, "#777777") for nfe, mark in marks.items())]
        figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.92, 0.9))
        return save(figure, stem)


def _learned(axes: Axes, found: Sequence[Score], against: str) -> list[Line2D]:
    methods = others(score.method for score in found)
    curves, name = _curves(found, methods), variant_names(found)
    starts = [start_label(*start) for start in sorted({curve[0].start for curve in curves})]
    mark, lines = markers(starts), _lines([curve[0] for curve in curves], name)
    handles: dict[str, Line2D] = {}
    for curve in curves:
        start, label = start_label(*curve[0].start), name(curve[0])
        look: dict[str, Any] = {**lines[label], "marker": mark[start], "ms": 6, "lw": 1.8}
        x, y = [getattr(score, against) for score in curve], [score.fid for score in curve]
        error = [score.std or 0.0 for score in curve]
        axes.errorbar(x, y, yerr=error, elinewidth=1, capsize=2, zorder=4, mec="white", mew=0.7, **look)
        unseen = [(getattr(score, against), score.fid) for score in curve if score.unseen]
        if unseen:
            axes.plot(
                *zip(*unseen, strict=True), ls="", marker=mark[start], ms=6, mfc="white", mec=look["color"], zorder=5
            )
        handles[label] = Line2D([], [], lw=2, label=label, **lines[label])
    if any(score.unseen for curve in curves for score in curve):
        open_mark: dict[str, Any] = {"marker": "o", "mfc": "white", "mec": "#555555", "ls": ""}
        handles["open"] = Line2D([], [], ms=6, label="open: NFE not fitted on", **open_mark)
    looks = [Line2D([], [], color="#555555", marker=mark[s], ms=6, lw=1.5, label=s) for s in starts if s]
    title = "Learned" if all(starts) else "Learned, and methods/"
    return [_title(title), *handles.values(), *([_title("Learned from"), *looks] if looks else [])] if curves else []


def _lines(rows: Sequence[Score], name: Callable[[Score], str]) -> dict[str, dict[str, Any]]:
    """By the names of rows, the colour of their method and dashes that tell its variations apart."""
    methods = others(row.method for row in rows)
    colors = method_colors(methods)
    looks: dict[str, dict[str, Any]] = {}
    for method in methods:
        names = list(dict.fromkeys(name(row) for row in rows if row.method == method))
        looks |= {label: {"color": colors[method], "ls": dash} for label, dash in dashes(names).items()}
    return looks


def _classical(axes: Axes, found: Sequence[Score], against: str) -> list[Line2D]:
    curves = _curves(found, ("classical",))
    solvers = list(dict.fromkeys(curve[0].solver for curve in curves))
    schedules = list(dict.fromkeys(curve[0].schedule for curve in curves))
    color, dash = tints(solvers), dashes(schedules)
    for curve in curves:
        look: dict[str, Any] = {"color": color[curve[0].solver], "linestyle": dash[curve[0].schedule], "lw": 1.1}
        marker = "." if len(curve) == 1 else ""
        x, y = [getattr(score, against) for score in curve], [score.fid for score in curve]
        axes.plot(x, y, zorder=2, marker=marker, **look)
    handles = [
        _space(),
        _title("Classical"),
        *(Line2D([], [], color=color[s], lw=2, label=solver_label(s)) for s in solvers),
    ]
    looks = [Line2D([], [], color="#888888", ls=dash[s], lw=1.1, label=schedule_label(s)) for s in schedules]
    return [*handles, _title("Classical grid"), *looks] if curves else []


def _teacher(axes: Axes, found: Sequence[Score], against: str) -> None:
    students = {score.nfe for score in found if score.method != "teacher"} or {0}
    teachers = list(dict.fromkeys(teacher for nfe in sorted(students) if (teacher := teacher_of(found, nfe))))
    look: dict[str, Any] = {"color": METHOD_COLOR["teacher"], "ls": "--", "lw": 1.2, "zorder": 3}
    text: dict[str, Any] = {"color": METHOD_COLOR["teacher"], "fontsize": 8, "textcoords": "offset points"}
    if len(teachers) == 1:
        fid, spent = teachers[0].fid, f"{getattr(teachers[0], against)} {'NFE' if against == 'nfe' else 'calls'}"
        axes.axhline(fid, **look)
        place = ("axes fraction", "data")
        axes.annotate(f"teacher {fid:.2f} ({spent})", (0.01, fid), xycoords=place, xytext=(2, -4), va="top", **text)
    elif teachers:  # teachers that keep pace with the students: a line through them
        axes.plot([getattr(score, against) for score in teachers], [score.fid for score in teachers], **look)
        last = max(teachers, key=lambda score: score.nfe)
        axes.annotate("teachers", (getattr(last, against), last.fid), xytext=(0, 4), ha="right", va="bottom", **text)


def _curves(found: Sequence[Score], methods: Sequence[str]) -> list[Curve]:
    curves: dict[object, Curve] = {}
    for score in found:
        if score.method in methods:
            curves.setdefault(score.row, []).append(score)
    return list(curves.values())


def _title(text: str) -> Line2D:
    return Line2D([], [], linestyle="", label=rf"$\bf{{{text.replace(' ', '~')}}}$")


def _space() -> Line2D:
    return Line2D([], [], linestyle="", label=" ")


def _dot(label: str, marker: str, color: str) -> Line2D:
    return Line2D([], [], linestyle="", marker=marker, color=color, label=label)


def draw_gains(metrics_files: Iterable[Path], stem: Path) -> list[Path]:
    """FID of what was learned over that of its start, against NFE, one line a row: below 1 is a gain.

    Raises:
        Error: no start was scored.
    """
    found = _shown(scores(to_frame(read_records(metrics_files))))
    made, name = pairs(found), variant_names(found)
    if not made:
        raise Error("no learned solver has a start that was scored too")
    lines = _lines([score for score, _ in made], name)
    marks = markers(sorted({start_label(*score.start) for score, _ in made}))
    curves: dict[object, list[tuple[Score, Score]]] = {}
    for score, start in made:
        curves.setdefault(score.row, []).append((score, start))
    with drawing():
        figure = Figure(figsize=(4.8, 3.4))
        axes = figure.add_subplot()
        axes.axhline(1, color="#333333", lw=0.9, ls="--")
        for curve in curves.values():
            score = curve[0][0]
            look: dict[str, Any] = {**lines[name(score)], "marker": marks[start_label(*score.start)]}
            ratios = [learned.fid / start.fid for learned, start in curve]
            axes.plot([learned.nfe for learned, _ in curve], ratios, lw=1.4, ms=5, mec="white", mew=0.6, **look)
        axes.set_xticks(sorted({score.nfe for score, _ in made}))
        axes.set_xlabel("network evaluations per sample (NFE)")
        log_axis(axes, "y", "FID over its start's (below 1 is a gain)")
        axes.grid(axis="y")
        handles = [_title("Learned"), *(Line2D([], [], lw=2, label=label, **look) for label, look in lines.items())]
        handles += [_space(), _title("Start"), *(_dot(start, mark, "#777777") for start, mark in marks.items())]
        figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.92, 0.9), handlelength=2.6)
        return save(figure, stem)
