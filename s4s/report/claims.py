"""The paper's claims that a benchmark can test: what was found, whether it holds, and by how much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

import numpy as np
import pandas as pd

from s4s.errors import Error
from s4s.report import course
from s4s.report.ablations import teacher_samples
from s4s.report.data import Record, Score, best
from s4s.report.gains import pairs
from s4s.report.protocol import protocol_note
from s4s.report.radius import with_plain
from s4s.report.render import Cell, Table
from s4s.report.variants import unvaried, varied
from s4s.words import SEEDS

GAIN = 1.5  # of S4S-Alt over the best training-free solver, the least that the paper says
LITTLE = 0.1  # share of the teacher set that is little data
NEAR = 1.25  # ratio of FIDs up to which little data suffices
APART = 0.5  # distance of seeds over that from their start, below which they cluster
WORDS = {True: "holds", None: "in part", False: "does not hold"}


@dataclass(frozen=True)
class Claim:
    """A claim tested.

    Args:
        said: the claim.
        where: in the paper.
        found: what our results say, with its numbers.
        holds: whether that is the claim; None where it holds in part.
    """

    said: str
    where: str
    found: str
    holds: bool | None


def claims(found: Sequence[Score], records: Sequence[Record]) -> list[Claim]:
    """Every claim that these results can test, in the paper's order."""
    tests: tuple[Callable[[Sequence[Score], Sequence[Record]], Claim | None], ...] = (
        _every_start, _training_free, _cluster, _relaxed, _little_data)  # fmt: skip
    return [claim for test in tests if (claim := test(found, records)) is not None]


def _every_start(found: Sequence[Score], records: Sequence[Record]) -> Claim | None:
    made = [(score, start) for score, start in pairs(found) if score.method == "s4s" and not score.settings]
    if not made:
        return None
    lower, ratio = sum(s.fid < start.fid for s, start in made), median(s.fid / start.fid for s, start in made)
    said = f"lower FID in {lower} of {len(made)} cells, median {ratio:.2f} times the start's"
    return Claim("S4S improves every start", "abstract, main tables", said, _whole(lower, len(made)))


def _training_free(found: Sequence[Score], records: Sequence[Record]) -> Claim | None:
    gains = {}
    for nfe in sorted({score.nfe for score in found if score.method == "s4s-alt"}):
        ours, other = best(unvaried(found), "s4s-alt", nfe), best(found, "classical", nfe)
        if ours and other:
            gains[nfe] = other.fid / ours.fid
    if not gains:
        return None
    said = ", ".join(f"{gain:.1f} times at {nfe} NFE" for nfe, gain in gains.items())
    return Claim("S4S-Alt is 1.5 to 2 times better than the best training-free solver", "abstract", said,
                 _whole(sum(gain >= GAIN for gain in gains.values()), len(gains)))  # fmt: skip


def _cluster(found: Sequence[Score], records: Sequence[Record]) -> Claim | None:
    cells = course.chosen(records)
    try:
        finals = [min(course.rounds(record), key=lambda each: each[0])[1].ravel() for record in cells]
    except Error:  # fits of an older version
        return None
    if len(finals) < SEEDS:
        return None
    points, start = np.stack(finals), course.ipndm(cells[0]["nfe"]).ravel()
    apart = float(np.mean([np.linalg.norm(a - b) for i, a in enumerate(points) for b in points[:i]]))
    gone = float(np.linalg.norm(points - start, axis=1).mean())
    said = f"seeds are {apart / gone:.2f} times as far from each other as from iPNDM ({len(finals)} seeds)"
    return Claim("Learned weights of different seeds cluster", "Figure 3", said, apart < APART * gone)


def _relaxed(found: Sequence[Score], records: Sequence[Record]) -> Claim | None:
    curves: dict[tuple[str, int], dict[float, list[float]]] = {}
    for record in with_plain(records):
        if record.get("relaxed_loss") is not None:
            losses = curves.setdefault((record["method"], record["nfe"]), {})
            losses.setdefault(record["radius"], []).append(record["relaxed_loss"])
    several = {key: sorted(losses.items()) for key, losses in curves.items() if len(losses) > 1}
    if not several:
        return None
    falls = {key: all(fmean(b[1]) < fmean(a[1]) for a, b in pairwise(c)) for key, c in several.items()}
    (method, nfe), curve = next(iter(several.items()))
    (low, first), (high, last) = curve[0], curve[-1]
    said = f"falls throughout in {sum(falls.values())} of {len(falls)} cases; {method} at {nfe} NFE: "
    said += f"{fmean(first):.3g} at r = {low:g}, {fmean(last):.3g} at {high:g}"
    return Claim("The relaxed loss falls as r grows", "Figure 4", said, _whole(sum(falls.values()), len(falls)))


def _little_data(found: Sequence[Score], records: Sequence[Record]) -> Claim | None:
    sizes = [(int(what.split()[1]), score, base) for what, score, base in varied(found)
             if score.method == "s4s-alt" and what.startswith("train ") and "," not in what]  # fmt: skip
    roots = {record["cell"]: record["path"].parent.parent for record in records}
    fits = [base.cells[0] for _, _, base in sizes]
    whole = [teacher_samples(roots[cell], cell) or 0 for cell in fits]  # 0 where it is not said
    small = [each for each, of in zip(sizes, whole, strict=True) if each[0] <= LITTLE * of]
    if not small:
        return None
    size, score, base = max(small, key=lambda each: each[0])
    ratio = score.fid / base.fid
    said = f"{size} samples reach {ratio:.2f} times the FID of the whole set ({score.fid:.2f} to {base.fid:.2f})"
    return Claim("Little data suffices for S4S-Alt", "Figure 5", said, ratio <= NEAR)


def _whole(count: int, of: int) -> bool | None:
    """Whether all, none, or, undecided, some."""
    return True if count == of else (None if count else False)


def claims_table(found: Sequence[Score], records: Sequence[Record]) -> Table | None:
    """The claims as a table; None where none can be tested."""
    made = claims(found, records)
    if not made:
        return None
    rows = tuple((Cell(c.said), Cell(c.where), Cell(WORDS[c.holds], bold=True), Cell(c.found)) for c in made)
    notes = (protocol_note(records), f"Thresholds: {GAIN:g} times for S4S-Alt; little data is up to {LITTLE:.0%} of "
             f"the set, and suffices up to {NEAR:g} times the FID; seeds cluster below {APART:g} times.")  # fmt: skip
    title = f"The paper's claims, tested on {records[0]['benchmark']}."
    return Table(title, ("Claim", "In the paper", "Here", "Found"), (rows,), notes, names=4)


def claims_frame(found: Sequence[Score], records: Sequence[Record]) -> pd.DataFrame:
    """The same, one line a claim."""
    return pd.DataFrame([{"claim": c.said, "where": c.where, "here": WORDS[c.holds], "found": c.found}
                         for c in claims(found, records)])  # fmt: skip
