"""Two runs of a benchmark side by side: which cells moved, by how much against chance, and what they differ in."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from pathlib import Path

from s4s import records as chain
from s4s.errors import Error
from s4s.report.data import FIT, Record, read_records
from s4s.report.protocol import flatten, shared

FAR = 2.0  # standard deviations beyond which chance is no explanation
OF_NUMBERS = ("models/", "teacher/", "solvers/")  # results whose bytes say nothing but what they are
OF_TIME = ("seconds", "command", "config_sha256", "seeds.fit")  # of a record: not what was done, or another cell's

Run = tuple[Path, Sequence[Path]]
"""A folder of results, and the metrics files there that count."""


@dataclass(frozen=True)
class Moved:
    """A cell whose FID differs between two runs.

    Args:
        cell: its name.
        before, after: FID in either run.
        of_sampling: the change in standard deviations of the difference of two sets of samples; None where the runs
            do not say theirs. On the same noises two runs differ by less.
        of_seeds: the same of two fits with other seeds; None with one seed.
        links: what the two were made from that differs, deepest first.
    """

    cell: str
    before: float
    after: float
    of_sampling: float | None
    of_seeds: float | None
    links: tuple[str, ...]

    @property
    def far(self) -> bool | None:
        """Whether it moved further than samples and seeds explain; None where neither is known."""
        known = [abs(z) for z in (self.of_sampling, self.of_seeds) if z is not None]
        return min(known) > FAR if known else None


@dataclass(frozen=True)
class Comparison:
    """Two runs.

    Args:
        moved: cells that differ, the furthest first.
        same: how many cells have the same FID to the last bit.
        only: cells that one of the runs lacks, by run.
        unlike: in what the protocols differ; their FIDs are then of different kinds.
        made_by: in what code, libraries and machines differ.
    """

    moved: tuple[Moved, ...]
    same: int
    only: dict[str, list[str]]
    unlike: tuple[str, ...]
    made_by: tuple[str, ...]


def compare(old: Run, new: Run) -> Comparison:
    """Compare the numbers of two folders of results.

    Raises:
        Error: no cell in common, or as ``read_records``.
    """
    (a, _), (b, _) = old, new
    before, after = ({r["cell"]: r for r in read_records(files)} for _, files in (old, new))
    both = [cell for cell in before if cell in after]
    if not both:
        raise Error(f"{a} and {b} have no cell in common")
    moved = [_moved(cell, (a, before), (b, after)) for cell in both if before[cell]["fid"] != after[cell]["fid"]]
    moved.sort(key=lambda m: -abs(m.after / m.before - 1) if m.before else 0)
    lacking = {str(a): [c for c in after if c not in before], str(b): [c for c in before if c not in after]}
    ours, theirs = ([run[cell] for cell in both] for run in (before, after))
    unlike, made_by = _unlike(ours, theirs, "protocol"), _unlike(ours, theirs, "provenance")
    return Comparison(tuple(moved), len(both) - len(moved), lacking, tuple(unlike), tuple(made_by))


def _unlike(old: Sequence[Record], new: Sequence[Record], part: str) -> list[str]:
    """What all cells of one run share and those of the other do not, as lines."""
    (a, _), (b, _) = shared(old, part), shared(new, part)
    keys = [key for key in {**a, **b} if not key.endswith(OF_TIME) and a.get(key, "") != b.get(key, "")]
    return [f"{key}: {a.get(key, 'not recorded')} -> {b.get(key, 'not recorded')}" for key in keys]


def _moved(cell: str, old: tuple[Path, dict[str, Record]], new: tuple[Path, dict[str, Record]]) -> Moved:
    a, b = old[1][cell], new[1][cell]
    change = b["fid"] - a["fid"]
    spread = [record.get("fid_std") for record in (a, b)]
    sampling = hypot(*spread) if all(spread) else None  # type: ignore[arg-type]
    seeds = _over_seeds([list(run.values()) for run in (old[1], new[1])], a)
    links = differing(old[0], new[0], f"metrics/{cell}.json")
    if not links and flatten(a["protocol"]) == flatten(b["protocol"]):
        links = ("nothing that was recorded, so the code, its libraries or the machine",)
    return Moved(cell, a["fid"], b["fid"], change / sampling if sampling else None,
                 change / (seeds * sqrt(2)) if seeds else None, links)  # fmt: skip


def _over_seeds(runs: Iterable[Sequence[Record]], cell: Record) -> float | None:
    """Standard deviation of the cell's FID over the seeds of its fit, pooled over the runs."""
    rows = [[r["fid"] for r in run if all(r.get(key) == cell.get(key) for key in FIT)] for run in runs]
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        return None
    freedom = sum(len(row) - 1 for row in rows)
    return sqrt(sum(statistics.variance(row) * (len(row) - 1) for row in rows) / freedom)


def differing(a: Path, b: Path, name: str) -> tuple[str, ...]:
    """Where the chains behind a result of two runs part: the deepest links that differ.

    A file whose own origins are the same in both runs, yet not its bytes, is a link too, where it is one of the numbers
    of a solver, a network or a teacher set; files that keep times differ from run to run.
    """
    found: dict[str, None] = {}
    _walk(a, b, name, found, {})
    return tuple(found)


def _walk(a: Path, b: Path, name: str, found: dict[str, None], seen: dict[str, bool]) -> bool:
    """Add the links that differ below a result; whether it differs itself."""
    if name not in seen:
        seen[name] = False  # for a record that names itself
        seen[name] = _differs(a, b, name, found, seen)
    return seen[name]


def _differs(a: Path, b: Path, name: str, found: dict[str, None], seen: dict[str, bool]) -> bool:
    old, new = _record(a, name), _record(b, name)
    if old is None or new is None:
        found[f"{name}: no record of what it was made from in {a if old is None else b}"] = None
        return True
    if old.sha256 == new.sha256:
        return False
    said = [_walk(a, b, other, found, seen) for other in sorted({*old.reads} & {*new.reads})
            if old.reads[other] != new.reads[other]]  # fmt: skip
    links = [f"made from {other} in {a if other in old.reads else b} only" for other in {*old.reads} ^ {*new.reads}]
    others = {*old.outside, *new.outside}
    links += [f"made from another {other}" for other in others if old.outside.get(other) != new.outside.get(other)]
    if old.made_from != new.made_from:
        links.append(_config(old.made_from, new.made_from))
    if not any(said) and not links and name.startswith(OF_NUMBERS):
        found[f"{name}: other bytes, though made from the same"] = None
        return True
    for link in sorted(links):
        if not any(line.endswith(f": {link}") for line in found):  # else it is said of what this was made from
            found[f"{name}: {link}"] = None
    return any(said) or bool(links)


def _record(folder: Path, name: str) -> chain.Record | None:
    """What a result was made from; None where nothing says it, or nothing that can be trusted."""
    try:
        return chain.read(folder, name)
    except Error:
        return None


def _config(old: object, new: object) -> str:
    """The first value in which two parts of a config differ; a key's last name is enough to tell it."""
    of_code, where, before, after = chain.first_difference(old, new)
    return "made by another state of the code" if of_code else f"{where[-1]} = {before!r} before, {after!r} after"
