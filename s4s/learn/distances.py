"""``s4s.distance``: a distance by its name."""

from __future__ import annotations

from collections.abc import Callable

from s4s.errors import choose
from s4s.learn.distance import Distance, l1, l2
from s4s.learn.lpips import lpips

DISTANCES: dict[str, Callable[[], Distance]] = {"l1": l1, "l2": l2, "lpips": lpips}


def distance(name: str | Distance) -> Distance:
    """A distance by name: ``l1``, ``l2`` or ``lpips``; other networks' are built by ``perceptual`` and passed as is."""
    if isinstance(name, Distance):
        return name
    if name not in DISTANCES:
        raise choose("distance", name, DISTANCES)
    return DISTANCES[name]()
