"""How many samples a fit looks at, and when; what that costs is linear in the number of evaluations."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Steps:
    """Part of a stream: samples of a batch, batches, and the share of the past that each leaves, first and last."""

    rows: int
    count: int
    keep: tuple[float, float]

    def kept(self, k: int) -> float:
        """For batch ``k`` of this part. Early models are of places far away, so little of them is kept."""
        first, last = self.keep
        return first + (last - first) * min(k / max(self.count - 1, 1), 1.0)


SMALL = 32  # samples; a batch of no more is judged together with the one before
RACE = Steps(16, 16, (0.5, 0.85))  # of the stream that wins
HEATS = {True: (4, 8), False: (8, 16)}  # batches after which streams are judged, and all but ``LEFT`` dropped; sooner
# where textbook starts take part, which lie further apart
LEFT = (2, 1)
LANES = {True: 4, False: 2}  # streams of a race, where the grid may move and where it stays
HOME = 2 / 3  # of the best held-out loss at home: what another solver must be below to go on in its place
JUDGED = 128  # held-out samples that streams are compared on
STARTS_JUDGED = 32  # held-out samples that starts are compared on
NOTED = 64  # training and held-out samples that tell whether more would help
OPENING = Steps(24, 12, (0.5, 0.85))  # of a last phase that moves other parameters than the race did
ROUND = Steps(64, 4, (0.85, 0.9))  # between two looks at all held-out samples
GRID = Steps(64, 4, (0.4, 0.6))  # the same where the grid moves alone, through a valley that bends
MOMENTS = Steps(256, 2, (0.7, 0.7))  # the same where moments count, which small batches do not tell
"""Sizes found on the digits; see docs/fitting.md."""

GROUP = 2  # numbers of evaluations that a step of a curve's fit visits
CURVE = (Steps(32, 10, (0.5, 0.9)), Steps(128, 1, (0.9, 0.9)))  # of its batches at 4 evaluations: small, larger ones
ALONE = (Steps(16, 10, (0.5, 0.9)), Steps(64, 1, (0.9, 0.9)))  # the same where there is one number of evaluations
OWN_STEPS = 6  # of the larger of these, for each number with values of its own, at the end of a curve's fit
LOOK = 4  # of the larger of these, between two looks at all held-out samples
SWEEPS, POLISH = (14, 1), (4, 8)  # times that either visits all numbers; where a curve is fitted on for one of them
LANES_OF_CURVE, HEAT = 2, 4  # descents that begin the fit of a curve, and sweeps after which the best goes on alone
RIDGE = 1e-2  # of a curve's coefficients, squared, beside losses that are 1 each: unseen numbers need it
