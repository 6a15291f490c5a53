"""What each method learns: a family of solvers, and which parameters move in turn."""

from __future__ import annotations

from dataclasses import dataclass, replace

from s4s.errors import Error, require_choice


@dataclass(frozen=True)
class Method:
    """What is learned: a family, and the blocks of parameters that each iteration of the cycle moves.

    Args:
        family: a key of ``s4s.learn.family.FAMILIES``, unless another is asked for.
        cycle: names of blocks; see ``Family.moves``.
        source: where it is from.
        first: the method whose result it goes on from, if the start is a textbook solver.
        open: whether another family may be asked for: of ``APART`` where its own is one, else of the others.
        skips: whether calls without the condition are left out, down to a budget of calls.
    """

    family: str
    cycle: tuple[tuple[str, ...], ...]
    source: str
    first: str | None = None
    open: bool = False
    skips: bool = False


WEIGHTS, LEVELS = ("weight",), ("grid", "shift")
EVERYTHING = ((*WEIGHTS, *LEVELS),)
METHODS = {
    "s4s": Method("lms", (("balanced weight",),), "S4S, arXiv:2502.17423", open=True),
    "ld3": Method("classical", (LEVELS,), "LD3, arXiv:2405.15506"),
    "s4s-alt": Method("lms", (WEIGHTS, LEVELS), "S4S-Alt, arXiv:2502.17423", first="ld3", open=True),
    "joint": Method("lms", EVERYTHING, "S4S Algorithm 3, arXiv:2502.17423", open=True),
    "guided": Method("guided", EVERYTHING, "GS, arXiv:2510.17699"),
    "bns": Method("full", EVERYTHING, "BNS, arXiv:2403.01329"),
    "s4s-cfg": Method("cfg", (WEIGHTS, LEVELS), "S4S-Alt with guidance of its own", first="ld3", open=True),
    "s4s-cfg-skip": Method("cfg", (WEIGHTS, LEVELS), "s4s-cfg with fewer calls", first="ld3", open=True, skips=True),
}
APART = ("cfg", "columns")
"""Families that weigh outputs with and without the condition apart."""


TOGETHER = "s4s-any"
"""The method that is one fit for all numbers of evaluations, ``s4s.fit_curve``; the others fit one each."""


def moves_grid(spec: Method) -> bool:
    """Whether a method may move the grid."""
    return any({*LEVELS} & {*turn} for turn in spec.cycle)


def moves_weights(spec: Method) -> bool:
    """Whether a method moves weights of its own, not those that follow the grid."""
    return any("weight" in name for turn in spec.cycle for name in turn)


def moves_levels(spec: Method) -> bool:
    """Whether a method may move the levels that the network is asked at: with the grid, or within a single step."""
    return moves_grid(spec) or spec.family == "ss"


def phases(method: str, textbook: bool, family: str | None = None, decoupled: bool = True) -> list[Method]:
    """The methods that a fit goes through.

    Args:
        method: a key of ``METHODS``.
        textbook: whether it starts from a textbook solver.
        family: of the last phase, in place of its own. ``ss`` has no first phase: its steps hold several levels.
        decoupled: whether the levels that the network is told may leave the grid's.

    Raises:
        Error: as ``family_of``.
    """
    kind = family_of(method, family)
    spec = replace(METHODS[method], family=kind)
    found = [METHODS[spec.first], spec] if spec.first and textbook and kind != "ss" else [spec]
    return found if decoupled else [replace(each, cycle=tuple(map(_coupled, each.cycle))) for each in found]


def _coupled(turn: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(block for block in turn if block != "shift")


def family_of(method: str, family: str | None = None) -> str:
    """The family that a method learns, or the one asked for in its place.

    Raises:
        Error: unknown method, or one that cannot learn that family.
    """
    if method == TOGETHER:
        raise Error(f"method {method!r} is one fit for all numbers of evaluations: call s4s.fit_curve")
    require_choice("method", method, METHODS)
    spec = METHODS[method]
    if family in (None, spec.family):
        return spec.family
    apart = spec.family in APART
    if not spec.open or family == "classical" or apart != (family in APART):
        apart = family in APART
        others = ", ".join(name for name, other in METHODS.items() if other.open and apart == (other.family in APART))
        raise Error(f"method {method!r} cannot learn family {family!r}: its own is {spec.family!r}; a family of "
                    f"learned weights may be chosen for {others}")  # fmt: skip
    return str(family)
