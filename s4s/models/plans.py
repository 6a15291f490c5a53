"""Which class each sample is asked for. Nothing here imports torch: Snakemake reads this on every start."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

CLASS_DRAW = 0x636C6173  # keeps the draw of a class apart from the starting noise of the same (seed, index)


def _drawn(index: int, count: int, seed: int) -> int:
    generator = np.random.Generator(np.random.Philox(key=[seed ^ (CLASS_DRAW << 32), index]))
    return int(generator.integers(count))


PLANS: dict[str, Callable[[int, int, int], int]] = {
    "uniform": lambda index, count, seed: index % count,
    "random": _drawn,
}
