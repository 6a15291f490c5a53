"""How our figures look, and how they are saved: the same input gives the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from s4s.files import replacing

# Learned methods: Okabe and Ito's palette, safe for colour-blind readers. Classical solvers: muted tints that recede.
METHOD_COLOR = {
    "teacher": "#333333",
    "classical": "#7F7F7F",
    "ld3": "#009E73",
    "s4s": "#0072B2",
    "s4s-alt": "#D55E00",
    "s4s-any": "#882255",
    "joint": "#CC79A7",
    "guided": "#E69F00",
    "bns": "#56B4E9",
    "s4s-cfg": "#8C564B",
    "s4s-cfg-skip": "#332288",
}
_TINTS = ("#8C9DB5", "#B8A07E", "#9DB08A", "#B193B0", "#A9A9A9", "#C4A29A", "#8FB3B3")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.5)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")

_RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": "#555555",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
    "pdf.fonttype": 42,
}
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
}


_OWN = ("#C9B800", "#117733", "#AA4499", "#44AA99", "#E8837E")


def method_colors(methods: Iterable[str]) -> dict[str, str]:
    """A colour for each method: that of its name, or, of one's own, by its place among them."""
    own = [method for method in methods if method not in METHOD_COLOR]
    return METHOD_COLOR | {method: _OWN[i % len(_OWN)] for i, method in enumerate(own)}


@contextmanager
def drawing() -> Iterator[None]:
    """Draw and save inside this, so that a user's own matplotlib settings do not change our figures."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem.png`` (200 dpi) and ``stem.pdf``, each whole or not at all, without dates or versions inside."""
    paths = [stem.with_name(stem.name + suffix) for suffix in _METADATA]
    for path in paths:
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=200, bbox_inches="tight", metadata=_METADATA[path.suffix])
    return paths


def tints(names: list[str]) -> dict[str, str]:
    """A muted colour for each name, by its place in the list."""
    return {name: _TINTS[i % len(_TINTS)] for i, name in enumerate(names)}


def dashes(names: list[str]) -> dict[str, Any]:
    """A dash pattern for each name, by its place in the list."""
    return {name: _DASHES[i % len(_DASHES)] for i, name in enumerate(names)}


def markers(names: list[str]) -> dict[str, str]:
    """A marker for each name, by its place in the list."""
    return {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(names)}


def log_axis(axes: Axes, which: str, label: str) -> None:
    """A logarithmic axis, ``x`` or ``y``, with numbers in plain digits at 1, 2 and 5."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    axes.set(**{f"{which}scale": "log", f"{which}label": label})
    low, high = axes.get_ylim() if which == "y" else axes.get_xlim()
    subs = (1.0, 2.0, 5.0) if high / low < 1000 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
