"""The paper's tables: FID by solver and NFE, and who wins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from s4s.report.ablations import ablations_frame, ablations_table
from s4s.report.claims import claims_frame, claims_table
from s4s.report.classes import by_row, classes_frame, classes_table, fewer_calls, nfe_label
from s4s.report.data import Record, Score, best, read_records, scores, start_of, teacher_of, to_frame
from s4s.report.gains import gains_frame, gains_table
from s4s.report.imitation import compared, imitation_frame, imitation_table
from s4s.report.labels import METHODS, method_label, others, start_label
from s4s.report.protocol import protocol_note
from s4s.report.published import free_step_table, published_frame, published_table
from s4s.report.render import Cell, Table, write_table
from s4s.report.variants import unvaried, variants

UNSEEN = "*"  # beside the FID of a curve at a number that it is not fitted on


_FLAGSHIPS = ("s4s-alt", "s4s", "s4s-any", "joint", "guided", "bns", "ld3")


@dataclass(frozen=True)
class Winner:
    """The best of each method at one NFE.

    Args:
        nfe: network evaluations a sample.
        classical: best classical solver.
        learned: best score of each learned method, by method.
        champion: best score of the method the headline and the ratios are about, one for all NFE.
        start: classical solver that ``champion`` started from.
        teacher: the teacher of its students, whatever its own NFE.
    """

    nfe: int
    classical: Score | None
    learned: dict[str, Score]
    champion: Score | None
    start: Score | None
    teacher: Score | None


def write_tables(metrics_files: Iterable[Path], directory: Path) -> list[Path]:
    """Write ``fid`` and ``summary`` as csv, md and tex; and each of the other tables that the results have rows for.

    Returns:
        The files written.

    Raises:
        Error: as ``s4s.report.data.read_records``.
    """
    records = read_records(metrics_files)
    found = scores(to_frame(records))
    tables = [("fid", fid_table(found, records), fid_frame(found))]
    tables.append(("summary", summary_table(found, records), summary_frame(found)))
    if any(score.within is not None for score in found):
        tables.append(("classes", classes_table(found, records), classes_frame(found)))
    if compared(found):
        tables.append(("imitation", imitation_table(found, records), imitation_frame(found)))
    if (gains := gains_table(found, records)) is not None:
        tables.append(("gains", gains, gains_frame(found)))
    if (ablations := ablations_table(found, records)) is not None:
        tables.append(("ablations", ablations, ablations_frame(found, records)))
    if (tested := claims_table(found, records)) is not None:
        tables.append(("claims", tested, claims_frame(found, records)))
    if (published := published_table(found, records)) is not None:
        frame = published_frame(found, records)
        tables.append(("published", published, frame))
        if (free := free_step_table(records[0]["benchmark"])) is not None:
            tables.append(("published-free-step", free, frame[frame["first_step_free"] == "yes"]))
    return [path for name, table, frame in tables for path in write_table(table, frame, directory / name)]


def fid_table(found: Sequence[Score], records: Sequence[Record]) -> Table:
    """FID by row (method, solver, grid) and NFE; best of a column bold, best classical solver underlined."""
    head, blocks = by_row(found, lambda score: _fid_cell(score, found), alone=6)
    notes = [protocol_note(records), "Bold: best of a column, the teacher aside. Underlined: best classical solver."]
    if any(score.std is not None for score in found):
        notes.append("Mean ± sample standard deviation over fits with different seeds (in parentheses, how many).")
    if any(score.unseen for score in found):
        notes.append(f"{UNSEEN}: a number of evaluations that the curve is not fitted on.")
    title = f"FID of {records[0]['benchmark']} by number of network evaluations (NFE)."
    return Table(title, head, blocks, tuple(notes), names=3)


def fid_frame(found: Sequence[Score]) -> pd.DataFrame:
    """The FID table in full precision, one line a row and NFE."""
    lines = []
    for score in found:
        cell = _fid_cell(score, found)
        line: dict[str, object] = score.named
        line |= {"fid_mean": score.fid, "fid_std": score.std, "fits": len(score.cells)}
        lines.append(line | {"best": cell.bold, "best_classical": cell.underline})
    return pd.DataFrame(lines).astype({"order": "Int64", "fid_std": "float64"})


def winners(found: Sequence[Score]) -> list[Winner]:
    """For each NFE of the students, the best of each method."""
    flagship = _flagship(found)
    result = []
    for nfe in sorted({score.nfe for score in found if score.method != "teacher"}):
        methods = others(score.method for score in found)
        learned = {method: score for method in methods if (score := best(found, method, nfe)) is not None}
        champion = learned.get(flagship)
        start = start_of(found, champion) if champion else None
        classical, teacher = best(found, "classical", nfe), teacher_of(found, nfe)
        result.append(Winner(nfe, classical, learned, champion, start, teacher))
    return result


def summary_table(found: Sequence[Score], records: Sequence[Record]) -> Table:
    """Who wins: one row an NFE, the best of each method, and ratios."""
    rounds, of = winners(found), variants(found)
    methods = others(method for winner in rounds for method in winner.learned)
    ratios = _ratios(found)
    head = ["NFE", "Best classical", "Start", *map(method_label, methods), "Teacher", *ratios]
    rows = []
    for winner in rounds:
        learned = [winner.learned.get(method) for method in methods]
        low = min((score.fid for score in [winner.classical, *learned] if score), default=None)
        cells = [_summary_cell(score, low, of) for score in (winner.classical, winner.start, *learned)]
        values = [ratio(winner) for ratio in ratios.values()]
        cells += [_summary_cell(winner.teacher, None, of), *(_ratio_cell(v, winner) for v in values)]
        rows.append((Cell(nfe_label(winner.nfe, found)), *cells))
    notes = (
        protocol_note(records),
        "Each entry is the best of its method at that NFE (mean over fit seeds), with its family where there are "
        "several, and the solver and grid it started from. Start: the classical solver from which the method of the "
        "ratios was fitted. Bold: best of a row, the teacher aside.",
    )
    title = f"Best of each method on {records[0]['benchmark']}, by number of network evaluations (NFE)."
    return Table(title, tuple(head), (tuple(rows),), notes)


def summary_frame(found: Sequence[Score]) -> pd.DataFrame:
    """The summary in full precision."""
    rounds = winners(found)
    methods = others({*METHODS, *(score.method for score in found)})
    ratios = _ratios(found)
    lines = []
    for winner in rounds:
        entries = {"best_classical": winner.classical, "start": winner.start}
        entries |= {method.replace("-", "_"): winner.learned.get(method) for method in methods}
        line: dict[str, object] = {"nfe": winner.nfe}
        for name, score in {**entries, "teacher": winner.teacher}.items():
            line |= {f"{name}_fid": score.fid if score else None, f"{name}_solver": score.solver if score else ""}
            line |= {f"{name}_schedule": score.schedule if score else ""}
        lines.append(line | {f"ratio {name}": ratio(winner) for name, ratio in ratios.items()})
    return pd.DataFrame(lines)


def headline(found: Sequence[Score]) -> str:
    """One sentence, computed from the data: what learning buys at the smallest NFE."""
    for winner in winners(unvaried(found)):  # the lowest of many variations would be chosen by what it is scored on
        champion, classical, teacher = winner.champion, winner.classical, teacher_of(found, winner.nfe)
        if champion and classical:
            text = f"At {winner.nfe} NFE {method_label(champion.method)} reaches FID {champion.fid:.2f}, "
            text += f"{champion.fid / classical.fid:.2f}× that of the best classical solver ({classical.fid:.2f})"
            return text + (f"; the teacher reaches {teacher.fid:.2f} at {teacher.nfe} NFE." if teacher else ".")
    low = min(found, key=lambda score: score.fid)
    return f"Lowest FID: {low.fid:.2f} at {low.nfe} NFE ({method_label(low.method)}, {start_label(*low.start)})."


def say_headline(metrics_files: Iterable[Path]) -> str:
    """The headline of a benchmark's metrics files, and what its FID is."""
    records = read_records(metrics_files)
    return f"{headline(scores(to_frame(records)))}\n{protocol_note(records)}"


def fid_text(score: Score) -> str:
    """``3.15``, or ``3.15 ± 0.04 (3)`` over three fit seeds; ``3.15*`` at a number that its curve is not fitted on."""
    spread = f" ± {score.std:.2f} ({len(score.cells)})" if score.std is not None else ""
    return f"{score.fid:.2f}{UNSEEN * score.unseen}{spread}"


def _fid_cell(score: Score, found: Sequence[Score]) -> Cell:
    column = [other for other in found if other.nfe == score.nfe and other.method != "teacher"]
    classical = [other for other in column if other.method == "classical"]
    marks = {"bold": _lowest(score, column), "underline": _lowest(score, classical)}
    return Cell(fid_text(score), fewer_calls(score), of=score.cells[0], **marks)


def _lowest(score: Score, among: Sequence[Score]) -> bool:
    return score in among and round(score.fid, 2) == round(min(other.fid for other in among), 2)


def _summary_cell(score: Score | None, low: float | None, of: Callable[[Score], str]) -> Cell:
    if score is None:
        return Cell()
    begun = start_label(*score.start)
    remark = (
        f"{score.nfe} NFE"
        if score.method == "teacher"
        else "; ".join(filter(None, (of(score), begun, fewer_calls(score))))
    )
    bold = low is not None and round(score.fid, 2) == round(low, 2)
    return Cell(f"{score.fid:.2f}", remark, bold=bold, of=score.cells[0])


def _ratio_cell(value: float | None, winner: Winner) -> Cell:
    return Cell() if value is None or winner.champion is None else Cell(f"{value:.2f}×", of=winner.champion.cells[0])


def _flagship(found: Sequence[Score]) -> str:
    """The learned method that headline and ratios are about: S4S-Alt if it was run."""
    methods = {score.method for score in found}
    return next((method for method in (*_FLAGSHIPS, *others(methods)) if method in methods), "")


def _ratios(found: Sequence[Score]) -> dict[str, Callable[[Winner], float | None]]:
    """Ratios of the summary, by column name."""
    label = method_label(_flagship(found))

    def over(other: Callable[[Winner], Score | None]) -> Callable[[Winner], float | None]:
        def ratio(winner: Winner) -> float | None:
            ours, theirs = winner.champion, other(winner)
            return ours.fid / theirs.fid if ours and theirs and theirs.fid > 0 else None

        return ratio

    if not label:
        return {}
    return {
        f"{label} / best classical": over(lambda winner: winner.classical),
        f"{label} / start": over(lambda winner: winner.start),
        f"{label} / teacher": over(lambda winner: winner.teacher),
    }
