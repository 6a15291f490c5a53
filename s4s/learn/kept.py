"""Of the solvers that a descent for one number of evaluations passes, the one to keep; a curve that holds several."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from s4s.curve import Curve, scales
from s4s.learn.held_out import HeldOut


@dataclass
class Kept:
    """Coefficients of a curve at which the solver of one number of evaluations was nearest to the teacher.

    Judged by the mean held-out distance, as ``s4s.fit`` judges: the few samples that a solver sends elsewhere make most
    of it, and the robust loss that a descent follows does not see them.

    Args:
        theta, loss: the coefficients [p] and that mean; infinite before the first look.
        likely, guess: of those passed since the last look, where it is guessed lowest.
    """

    held_out: HeldOut
    theta: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    loss: float = math.inf
    likely: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    guess: float = math.inf

    def look(self, curve: Curve, nfe: int) -> None:
        """Judge the likely coefficients, or the curve where none were passed, on all held-out samples."""
        theta = self.likely if math.isfinite(self.guess) else curve.theta.flatten()
        loss, _ = self.held_out.look(curve.replace(theta=theta.reshape(curve.theta.shape)).at(nfe))
        if loss < self.loss:
            self.theta, self.loss = theta, loss
        self.guess = math.inf

    def glance(self, curve: Curve, nfe: int) -> None:
        """Guess the mean of a curve that is passed from the samples that ruled it at the last look."""
        guess = self.held_out.glance(curve.at(nfe))
        if guess < self.guess:
            self.likely, self.guess = curve.theta.flatten(), guess

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and numbers that the looks to come hang on."""
        tensors = {"theta": self.theta, "likely": self.likely, "last": self.held_out.last}
        return tensors, {"loss": self.loss, "guess": self.guess}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Inverse of ``state``."""
        self.theta, self.likely, self.held_out.last = tensors["theta"], tensors["likely"], tensors["last"]
        self.loss, self.guess = numbers["loss"], numbers["guess"]


def together(curve: Curve, kept: Mapping[int, Kept]) -> Curve:
    """The curve, but for each number kept its solver from there: its own values make up for what the others moved."""
    theta = curve.theta.clone()
    for nfe, each in kept.items():
        if not math.isfinite(each.loss):
            continue
        best = each.theta.reshape(theta.shape)
        if nfe not in curve.own:
            return curve.replace(theta=best)  # the only number of the fit
        here = scales(nfe, curve.powers, curve.own)
        theta[..., len(curve.powers) + curve.own.index(nfe)] += (best - curve.theta) @ here
    return curve.replace(theta=theta)
