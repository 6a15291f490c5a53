"""``s4s.distance``: a distance by its name, or a sum of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from s4s.errors import require_choice
from s4s.learn.distance import Distance, l1, l2, total
from s4s.learn.lpips import lpips
from s4s.values import amount

DISTANCES: dict[str, Callable[[], Distance]] = {"l1": l1, "l2": l2, "lpips": lpips}


def distance(name: str | Mapping[str, float] | Distance) -> Distance:
    """A distance by name: ``l1``, ``l2`` or ``lpips``; a weighted sum, ``{"l1": 1.0, "lpips": 0.5}``; others as is.

    Distances in the activations of your own network are built by ``s4s.perceptual``, of latents by ``s4s.decoded``.
    """
    if isinstance(name, Distance):
        return name
    if isinstance(name, Mapping):
        return total(*((amount(share, f"the weight of {part!r}"), distance(part)) for part, share in name.items()))
    require_choice("distance", name, DISTANCES)
    return DISTANCES[name]()
