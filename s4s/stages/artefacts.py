"""Which tables and figures a config asks for. Nothing here imports torch: Snakemake reads this on every start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from s4s.stages.cells import Cell, cells, guided
from s4s.words import SEEDS


def figures(config: Mapping[str, Any]) -> list[str]:
    """The figures that are drawn of a benchmark; those of single points need several fit seeds."""
    every = cells(config)
    learned, several = [each for each in every if each.learned], len(config["learned"]["seeds"]) >= SEEDS
    starts = {(each.start, each.schedule, each.nfe) for each in every if each.method == "classical"}
    made = ["fid_vs_nfe"] + ["fid_vs_calls"] * guided(config)
    made += ["imitation"] * ("teacher" in config["score"]["metrics"])
    made += (
        ["gains"] * (len(config["nfe"]) > 1) * any((each.start, each.schedule, each.nfe) in starts for each in learned)
    )
    made += ["solvers", "samples", "distance", "loss_vs_fid"] * bool(learned)
    made += ["radius"] * any(each.radius is not None for each in learned)
    made += ["teacher_set"] * (several and any({*each.settings} == {"train"} for each in learned))
    plain = [each for each in learned if each.kind == "s4s" and each.start == "ipndm3" and not each.radius]
    made += ["ablations"] * (several and _varies(learned))
    return made + ["course"] * (several and bool(plain))


def tables(config: Mapping[str, Any]) -> list[str]:
    """The tables that are sure to be made of a benchmark; ``published`` and others hang on the results."""
    every = cells(config)
    learned = [each for each in every if each.learned]
    scored = {(each.start, each.schedule, each.nfe) for each in every if each.method == "classical"}
    begun = [each for each in learned if (each.start, each.schedule, each.nfe) in scored]
    tested = any(each.kind == "s4s-alt" for each in learned) or any(each.kind == "s4s" for each in begun)
    made = ["fid", "summary"] + ["classes"] * ("classes" in config["score"]["metrics"])
    return made + ["gains"] * bool(begun) + ["ablations"] * _varies(learned) + ["claims"] * tested


def _varies(learned: Sequence[Cell]) -> bool:
    """Whether a method stands beside itself as another entry has it, or joint beside S4S-Alt, from its usual start.

    Results tell more (``s4s.report.variants.varied``), as the family that most rows have: this says what is sure.
    """
    starts = Counter((each.method, each.start, each.schedule, each.nfe) for each in learned)
    plain = {(each.method, each.start, each.schedule, each.nfe) for each in learned
             if each.kind == each.method and not each.radius}  # fmt: skip
    usual = {key for key in plain if starts[key] == max(n for other, n in starts.items() if other[::3] == key[::3])}
    return any(
        ("s4s-alt" if each.method == "joint" else each.method, each.start, each.schedule, each.nfe) in usual
        for each in learned
        if each.kind != each.method or each.radius or each.method == "joint"
    )
