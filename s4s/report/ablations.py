"""What each choice of a method is worth: every variation beside the method as it is, FID and cost of its fits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from s4s.errors import Error
from s4s.report.data import Record, Score, read_records, scores, to_frame
from s4s.report.labels import method_label, others, start_label
from s4s.report.protocol import fid_name, protocol_note
from s4s.report.render import Cell, Table
from s4s.report.style import drawing, log_axis, method_colors, save
from s4s.report.variants import varied
from s4s.words import SEEDS

COSTS = (
    ("Evaluations", "fit_nfe", 1, ",.0f"),
    ("Seconds", "fit_seconds", 1, ".0f"),
    ("Memory, MB", "fit_peak_bytes", 1e6, ",.0f"),
)
"""What a fit costs: column, key of a metrics file, unit and form."""


def ablations_table(found: Sequence[Score], records: Sequence[Record]) -> Table | None:
    """Each variation beside the method as it is; None where nothing is varied."""
    made = varied(found)
    if not made:
        return None
    of = {record["cell"]: record for record in records}
    groups: dict[tuple[str, int], list[tuple[Cell, ...]]] = {}
    for what, score, base in made:
        rows = groups.setdefault((base.method, base.nfe), [])
        if not rows:
            rows.append(_row("as it is", base, base, of))
        rows.append(_row(what, score, base, of))
    head = ("Method", "Variation", "NFE", "FID", "to as it is", *(name for name, _, _, _ in COSTS))
    notes = [protocol_note(records), "FID: mean ± standard deviation over fits with different seeds (how many), less "
             "is better; bold: lowest of a block. To as it is: the ratio of the two. Evaluations, seconds, memory: of "
             "one fit; memory is the most that its process had, libraries included."]  # fmt: skip
    if any("start " in what for what, _, _ in made):
        usual = dict.fromkeys(f"{method_label(base.method)}: {start_label(*base.start)}" for _, _, base in made)
        notes.append(f"Starts, where no other is said: {'; '.join(usual)}.")
    if any("no race" in what for what, _, _ in made):
        notes.append("No race: the fit begins at its start, and not at the nearest of it and textbook solvers.")
    title = f"What each choice is worth on {records[0]['benchmark']}."
    return Table(title, head, tuple(map(_best_bold, groups.values())), tuple(notes), names=2)


def ablations_frame(found: Sequence[Score], records: Sequence[Record]) -> pd.DataFrame:
    """The same in full precision."""
    of = {record["cell"]: record for record in records}
    lines = []
    for what, score, base in varied(found):
        line: dict[str, object] = {"variation": what, **score.named, "fid_mean": score.fid, "fid_std": score.std}
        line |= {"fits": len(score.cells), "plain_fid": base.fid, "ratio": score.fid / base.fid}
        cost = {key: _mean(score, of, key) for key in ("val_loss", *(key for _, key, _, _ in COSTS))}
        lines.append(line | cost)
    return pd.DataFrame(lines)


def _row(what: str, score: Score, base: Score, of: dict[str, Record]) -> tuple[Cell, ...]:
    fid = f"{score.fid:.2f}" + (f" ± {score.std:.2f} ({len(score.cells)})" if score.std is not None else "")
    ratio = "" if score is base else f"{score.fid / base.fid:.2f}×"
    means = ((_mean(score, of, key), unit, form) for _, key, unit, form in COSTS)
    spent = ["" if mean is None else format(mean / unit, form) for mean, unit, form in means]
    cells = [Cell(method_label(score.method)), Cell(what), Cell(str(score.nfe)), Cell(fid, of=score.cells[0])]
    return *cells, *(Cell(text, of=score.cells[0] if text else "") for text in (ratio, *spent))


def _best_bold(rows: Sequence[tuple[Cell, ...]]) -> tuple[tuple[Cell, ...], ...]:
    low = min(float(row[3].text.split()[0]) for row in rows)
    return tuple(
        (*row[:3], Cell(row[3].text, bold=float(row[3].text.split()[0]) == low, of=row[3].of), *row[4:]) for row in rows
    )


def _mean(score: Score, of: dict[str, Record], key: str) -> float | None:
    values = [of[cell][key] for cell in score.cells if of[cell].get(key) is not None]
    return fmean(values) if values else None


def teacher_samples(root: Path, cell: str) -> int | None:
    """How many samples of the teacher a cell was fitted to."""
    try:
        said = json.loads((root / "solvers" / f"{cell}.json").read_text(encoding="utf-8"))
        return int(said["provenance"]["teacher_samples"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def draw_size(metrics_files: Iterable[Path], stem: Path) -> list[Path]:
    """FID against the size of the teacher set (the paper's Figure 5), one line a method, all fits and their mean.

    Raises:
        Error: no method was fitted to several sizes with enough seeds each.
    """
    records = read_records(metrics_files)
    root = records[0]["path"].parent.parent
    curves = _sizes(scores(to_frame(records)), lambda cell: teacher_samples(root, cell))
    if not curves:
        raise Error(f"no method was fitted to teacher sets of several sizes with {SEEDS} seeds each")
    of = {record["cell"]: record["fid"] for record in records}
    colors = method_colors(others(method for method, _ in curves))
    with drawing():
        figure = Figure(figsize=(4.2, 3.2))
        axes = figure.add_subplot()
        for (method, nfe), points in curves.items():
            look: dict[str, Any] = {"color": colors[method]}
            for size, score in points:
                axes.plot([size] * len(score.cells), [of[cell] for cell in score.cells], ".", ms=5, alpha=0.5, **look)
            x, y = [size for size, _ in points], [score.fid for _, score in points]
            axes.plot(x, y, marker="o", ms=5, lw=1.8, mec="white", label=f"{method_label(method)}, {nfe} NFE", **look)
        axes.set_xscale("log")
        sizes = sorted({size for points in curves.values() for size, _ in points})
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("samples of the teacher to fit on")
        log_axis(axes, "y", f"{fid_name(records)} (log scale; lower is better)")
        axes.grid(True)
        axes.legend()
        return save(figure, stem)


def _sizes(found: Sequence[Score], size_of: Callable[[str], int | None]) -> dict[tuple[str, int], list[Any]]:
    """By method and NFE, sizes with their scores: rows that differ in the size alone."""
    curves: dict[tuple[str, int], list[Any]] = {}
    for what, score, base in varied(found):
        if not what.startswith("train ") or "," in what:
            continue
        points = curves.setdefault((score.method, score.nfe), [(size_of(base.cells[0]), base)])
        points.append((size_of(score.cells[0]), score))
    enough = {key: [p for p in points if p[0] and len(p[1].cells) >= SEEDS] for key, points in curves.items()}
    return {key: sorted(points, key=lambda p: p[0]) for key, points in enough.items() if len(points) > 1}
