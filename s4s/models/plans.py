"""Which class each sample is asked for. Snakemake reads this on every start, so torch comes with random draws alone."""

from __future__ import annotations

from collections.abc import Callable

CLASS_DRAW = 0x636C6173  # keeps the draw of a class apart from the starting noise of the same (seed, index)


def _drawn(index: int, count: int, seed: int) -> int:
    from s4s.noise import philox

    return int(philox(seed, index, CLASS_DRAW).integers(count))


PLANS: dict[str, Callable[[int, int, int], int]] = {
    "uniform": lambda index, count, seed: index % count,
    "random": _drawn,
}
