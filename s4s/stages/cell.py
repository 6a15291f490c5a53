"""A cell of a benchmark: one solver that gets sampled and scored, and its name. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from s4s.learn.methods import METHODS, TOGETHER

OWN = Path("methods")  # where files of methods of one's own are, beside the folder ``results``
BUILT_IN = ("teacher", "classical", TOGETHER, *METHODS)  # names that no file of one's own may have
SETTINGS = {"train": "train", "teacher_nfe": "teacher", "distance": "", "moments": "moments", "rounds": "rounds",
            "decoupled": "", "race": ""}  # fmt: skip
"""What an entry of ``learned.methods`` may have of its own, and how the names of its cells begin to say it."""
POLISHED = "polished"  # setting of the cells of s4s-any that go on from a curve


@dataclass(frozen=True)
class Cell:
    """One solver of a benchmark: a method, the (starting) solver, its schedule, the NFE and, if learned, a seed.

    ``family`` and ``order`` are those learned, where the config names them; ``radius`` is one of a list, ``settings``
    are what a method's entry has of its own (keys of ``SETTINGS``). A method of a file of one's own,
    ``methods/NAME.py``, has a start where it is fitted, and else neither solver nor schedule. A cell of s4s-any is a
    solver of a curve, and ``fitted`` the numbers of evaluations that the curve is fitted on; with the setting
    ``polished`` it is what a fit of its own goes on from there to.
    """

    method: str
    solver: str
    options: Mapping[str, Any] = field(hash=False)
    schedule: str
    nfe: int
    seed: int | None = None
    family: str | None = None
    order: int | None = None
    radius: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    fitted: tuple[int, ...] = ()

    @property
    def unseen(self) -> bool:
        """Whether it is of a curve that is not fitted on its number of evaluations."""
        return bool(self.fitted) and not self.polished and self.nfe not in self.fitted

    @property
    def polished(self) -> bool:
        """Whether it begins at a curve, and is fitted for its number of evaluations alone."""
        return POLISHED in self.settings

    @property
    def together(self) -> bool:
        """Whether its fit is that of other cells too: it is a solver of a curve, as that is."""
        return bool(self.fitted) and not self.polished

    @property
    def curve(self) -> str:
        """File name of the curve that it is a solver of or begins at, such as ``s4s-any_ipndm3_edm_seed0``."""
        settings = {key: value for key, value in self.settings.items() if key != POLISHED}
        return replace(self, settings=settings).name.replace(f"_nfe{self.nfe}", "")

    @property
    def learned(self) -> bool:
        return self.method not in ("teacher", "classical") and bool(self.solver)

    @property
    def file(self) -> Path | None:
        """The file of a method of one's own; None of those that are built in."""
        return None if self.method in BUILT_IN else OWN / f"{self.method}.py"

    @property
    def start(self) -> str:
        """Short name of the starting solver, such as ``ipndm3``; no other options have the same.

        A switch goes by its key, ``dpmpp2-singlestep`` or ``dpmpp2-lower_order_final-false``; words are the key's own.
        """
        order = self.options.get("order", "")
        rest = [(key, value) for key, value in sorted(self.options.items()) if key != "order"]
        words = [(key if value else f"{key}-false") if isinstance(value, bool) else str(value) for key, value in rest]
        return "-".join([f"{self.solver}{order}", *words])

    @property
    def kind(self) -> str:
        """The method, with the family, order and settings that its entry names, such as ``s4s-pc2-train100``."""
        tags = [(self.family or "") + str(self.order or ""), *(_tag(*each) for each in sorted(self.settings.items()))]
        return "-".join([self.method, *(tag for tag in tags if tag)])

    @property
    def name(self) -> str:
        """File name of the cell's results, such as ``s4s-alt_ipndm3_edm_nfe4_seed0``."""
        parts = [self.kind, self.start, self.schedule, f"nfe{self.nfe}"]
        parts += [] if self.radius is None else [f"r{_short(self.radius)}"]
        parts += [] if self.seed is None else [f"seed{self.seed}"]
        return "_".join(part for part in parts if part)

    @property
    def pattern(self) -> str:
        """The name with wildcards for what jobs differ in: ``{kind}_ipndm3_edm_nfe{nfe}_seed0``."""
        rest = self.name.removeprefix(self.kind).replace(f"_nfe{self.nfe}", "_nfe{nfe}")
        return ("{kind}" if self.learned else self.kind) + rest


def _tag(key: str, value: Any) -> str:
    """A setting in a file's name: ``train100``, ``l2``, ``coupled``."""
    if isinstance(value, bool):
        return key if value else f"not-{key}"
    if isinstance(value, Mapping):
        return "-".join(f"{name}{_short(weight)}" for name, weight in value.items())
    return value if isinstance(value, str) else f"{SETTINGS[key]}{_short(value)}"


def _short(number: float) -> str:
    """A number in as few digits as tell it from every other."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(number)
