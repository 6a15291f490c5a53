"""What each method learns: a family of solvers, and which parameters move in turn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """What is learned: a family, and the blocks of parameters that each iteration of the cycle moves.

    Args:
        family: a key of ``s4s.family.FAMILIES``.
        cycle: names of blocks.
        source: where it is from.
        first: the method whose result it goes on from, if the start is a textbook solver.
    """

    family: str
    cycle: tuple[tuple[str, ...], ...]
    source: str
    first: str | None = None


WEIGHTS, LEVELS = ("weight",), ("grid", "shift")
EVERYTHING = ((*WEIGHTS, *LEVELS),)
METHODS = {
    "s4s": Method("lms", (WEIGHTS,), "S4S, arXiv:2502.17423"),
    "ld3": Method("classical", (LEVELS,), "LD3, arXiv:2405.15506"),
    "s4s-alt": Method("lms", (WEIGHTS, LEVELS), "S4S-Alt, arXiv:2502.17423", first="ld3"),
    "joint": Method("lms", EVERYTHING, "S4S Algorithm 3, arXiv:2502.17423"),
    "guided": Method("guided", EVERYTHING, "GS, arXiv:2510.17699"),
    "bns": Method("full", EVERYTHING, "BNS, arXiv:2403.01329"),
}


def phases(method: str, textbook: bool) -> list[Method]:
    """The methods that a fit goes through; ``textbook`` says whether it starts from a textbook solver."""
    spec = METHODS[method]
    return [METHODS[spec.first], spec] if spec.first and textbook else [spec]
