"""Names and order of methods, solvers and grids, as people read them in tables and figures."""

from __future__ import annotations

import re
from collections.abc import Iterable

METHODS = {
    "teacher": "Teacher",
    "classical": "Classical",
    "ld3": "LD3",
    "s4s": "S4S",
    "s4s-alt": "S4S-Alt",
    "s4s-any": "S4S-any",
    "joint": "Joint",
    "guided": "Guided (GS)",
    "bns": "BNS",
    "s4s-cfg": "S4S-CFG",
    "s4s-cfg-skip": "S4S-CFG, fewer calls",
}
"""Every method that is built in, in the order of the tables; those of one's own come after."""

_SCORED = ("teacher", "classical")

_SOLVERS = {
    "ddim": "DDIM",
    "dpmpp": "DPM-Solver++",
    "unipc": "UniPC",
    "ipndm": "iPNDM",
    "deis": "DEIS",
    "heun": "Heun",
}
_SCHEDULES = {
    "logsnr": "logSNR",
    "edm": "EDM",
    "uniform": "time-uniform",
    "quadratic": "time-quadratic",
    "dmn": "DMN",
    "even": "even",
    "gits": "GITS",
    "ays": "AYS",
}
_FAMILIES = {"lms": "LMS", "pc": "PC", "ss": "SS"}


def method_label(method: str) -> str:
    """``s4s-alt`` as ``S4S-Alt``; a method of one's own by the name of its file."""
    return METHODS.get(method, method.replace("_", " "))


def method_order(method: str) -> tuple[int, str]:
    """Sort key of a method in the tables."""
    return (list(METHODS).index(method) if method in METHODS else len(METHODS)), method


def ordered(methods: Iterable[str]) -> list[str]:
    """Methods once each, in the order of the tables."""
    return sorted(set(methods), key=method_order)


def others(methods: Iterable[str]) -> list[str]:
    """Of some methods those that are neither the teacher nor textbook solvers, in the order of the tables."""
    return [method for method in ordered(methods) if method not in _SCORED]


def solver_label(solver: str) -> str:
    """``dpmpp3`` as ``DPM-Solver++ 3``, ``ddim`` as ``DDIM``; names it does not know stay as they are."""
    match = re.fullmatch(r"([a-z]+)[-_]?(\d*)(.*)", solver)
    if match is None or match[1] not in _SOLVERS:
        return solver
    order = f" {match[2]}" if match[2] else ""
    return _SOLVERS[match[1]] + order + match[3].replace("-", " ").replace("_", " ")


def schedule_label(schedule: str) -> str:
    """``quadratic`` as ``time-quadratic``; names it does not know stay as they are."""
    return _SCHEDULES.get(schedule, schedule)


def family_label(family: str) -> str:
    """``lms`` as ``LMS``; families that are words stay as they are."""
    return _FAMILIES.get(family, family)


def start_label(solver: str, schedule: str) -> str:
    """A solver on its grid, in a few words: ``iPNDM 3, EDM``."""
    return ", ".join(part for part in (solver_label(solver), schedule_label(schedule)) if part)
