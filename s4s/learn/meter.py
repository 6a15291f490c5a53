"""One bar for work of several parts, moved by the rows that a network is called with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from tqdm import tqdm

from s4s.solver import Denoise

FORM = "{desc:<12} {percentage:3.0f}%|{bar:24}| {elapsed}, {remaining} to go"
KEPT = ("process", "any_levels")  # what a denoiser says of itself


class Meter:
    """A bar over parts of known cost; without ``show`` it only counts.

    Args:
        parts: name -> seconds it is thought to take, and rows that the network is thought to be called with.
    """

    def __init__(self, parts: Mapping[str, tuple[float, float]], show: bool) -> None:
        self.parts, self.part, self.rows = dict(parts), "", 0
        total = sum(seconds for seconds, _ in parts.values())
        self.bar = tqdm(total=total, disable=not show, mininterval=1, bar_format=FORM)
        self.done = 0.0

    def enter(self, part: str, *, done: bool = False) -> None:
        """Begin a part, the last one being over; of one that was done before no pace is read."""
        self.leave()
        self.part, self.rows = part, 0
        self.bar.set_description_str(part)
        if done and not self.bar.disable:
            self.bar.initial += self.parts[part][0]
        if done:
            self.leave()

    def leave(self) -> None:
        """The part is over, however many calls it took."""
        if self.part:
            self.done += self.parts[self.part][0]
            self._at(self.done)
        self.part = ""

    def close(self) -> None:
        self.leave()
        self.bar.close()

    def counted(self, denoise: Any, conditional: bool) -> Any:
        """A denoiser, or the function of conditions that gives it, whose rows are counted."""
        if conditional:
            return lambda rows: self._counted(denoise(rows))
        return self._counted(denoise)

    def _counted(self, denoise: Denoise) -> Denoise:
        def call(x: Tensor, sigma: Tensor) -> Tensor:
            self._saw(len(x))
            return denoise(x, sigma)

        call.__dict__.update({key: getattr(denoise, key) for key in KEPT if hasattr(denoise, key)})
        return call

    def _saw(self, rows: int) -> None:
        self.rows += rows
        if self.part:
            planned, of = self.parts[self.part]
            self._at(self.done + planned * _share(self.rows / max(of, 1)))

    def _at(self, value: float) -> None:
        self.bar.update(max(value - self.bar.n, 0))


def _share(thought: float) -> float:
    """Of a part that is done, from what it was thought to take: slower from 0.8 on, since it may take longer."""
    return thought if thought < 0.8 else 1 - 0.16 / thought
