"""What a config may ask of ``s4s-any``, one fit for all numbers of evaluations. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from s4s.errors import Error
from s4s.learn.methods import TOGETHER
from s4s.stages.cells import Cell

NUMBERS = range(3, 21)  # of evaluations that a curve has solvers of; a test holds it to s4s.curve


def require_of_curves(config: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
    """What an entry of ``learned.methods`` asks of curves is of ``s4s-any``, and its numbers are the config's."""
    asked = {key: spec[key] for key in ("fitted", "polish") if key in spec}
    if asked and spec["name"] != TOGETHER:
        raise Error(f"learned.methods: {min(asked)} is of {TOGETHER} alone; {spec['name']} is fitted at every nfe")
    for key, numbers in asked.items():
        if missing := [nfe for nfe in numbers if nfe not in config["nfe"]] if isinstance(numbers, list) else []:
            raise Error(f"learned.methods {TOGETHER}: {key} names {missing[0]}, which is not in nfe; add it there")


def require_curve(config: Mapping[str, Any], cell: Cell, order: int, evaluations: int) -> None:
    """A curve of one textbook solver, fitted on numbers of evaluations that it has, by the distance alone.

    Args:
        order: of its start. ``evaluations``: of a step of that.
    """
    where, learned = f"learned.methods {cell.method} from {cell.start}", config["learned"]
    outside = [nfe for nfe in (cell.nfe, *cell.fitted) if nfe not in NUMBERS]
    if outside:
        ends = f"{NUMBERS[0]} to {NUMBERS[-1]}"
        raise Error(f"{where}: a curve has solvers of {ends} evaluations, not of {outside[0]}; take it from nfe")
    if cell.family or cell.order:
        raise Error(f"{where}: a curve has its own family; leave out {'family' if cell.family else 'order'}")
    if evaluations > 1 or order > NUMBERS[0]:
        raise Error(f"{where}: a curve needs one evaluation a step and an order of at most {NUMBERS[0]}")
    if learned["moments"] or learned["radius"]:
        raise Error(f"{where}: a curve is fitted by the distance alone; set moments and radius to 0, or drop it")
    if config["teacher"]["nfe"] == "student+1":
        raise Error(f"{where}: a curve imitates one teacher; give teacher.nfe a number, or drop it")
