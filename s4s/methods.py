"""What each method learns: a family of solvers, and which parameters move in turn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """What is learned: a family, and the blocks of parameters that each iteration of the cycle moves."""

    family: str
    cycle: tuple[tuple[str, ...], ...]
    source: str


EVERYTHING = (("weight", "grid", "shift"),)
METHODS = {
    "s4s": Method("lms", (("weight",),), "S4S, arXiv:2502.17423"),
    "ld3": Method("classical", (("grid", "shift"),), "LD3, arXiv:2405.15506"),
    "s4s-alt": Method("lms", (("weight",), ("grid", "shift")), "S4S-Alt, arXiv:2502.17423"),
    "joint": Method("lms", EVERYTHING, "S4S Algorithm 3, arXiv:2502.17423"),
    "guided": Method("guided", EVERYTHING, "GS, arXiv:2510.17699"),
    "bns": Method("full", EVERYTHING, "BNS, arXiv:2403.01329"),
}
