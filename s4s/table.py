"""Tables of other codes, whose first node may be a multiple of the noise."""

from __future__ import annotations

from typing import Any

from s4s.errors import Error
from s4s.noise import Start
from s4s.solver import Solver
from s4s.values import doubles


def from_table(sigma: Any, sigma_eval: Any, start: Any, weight: Any, **fields: Any) -> Solver:
    """A solver whose nodes are ``x[n] = start[n] * x_T + sum_j weight[n, j] * D[j]`` from ``n = 0`` on.

    GS learns ``start[0]`` too, so that its first evaluation is of ``start[0] * x_T``. A ``Solver`` starts at its
    ``x_T`` itself: the factor moves into the scale of its noise, and every node stays what it was. Sample it from
    ``solver.x_T(s4s.noise(...))``.

    Args:
        sigma, sigma_eval, start, weight: as in ``Solver``; the table's ``x_T`` is ``sigma[0]`` times standard noise.
        fields: ``name`` and ``provenance`` of the solver.

    Raises:
        Error: ``start[0]`` is not positive, or the arrays do not make a solver.
    """
    sigma, start = doubles(sigma, "solver array 'sigma'"), doubles(start, "solver array 'start'")
    for key, array in (("sigma", sigma), ("start", start)):
        if array.ndim != 1 or len(array) == 0:
            raise Error(f"{key} of a table must be numbers in a row, one for each node, got shape {list(array.shape)}")
    factor = start[0]
    if not factor > 0:
        raise Error(f"start[0] = {factor:g} of a table must be positive: it is what x_T counts in the first node")
    noise = None if factor == 1 else Start(0.0, factor * sigma[0])
    return Solver(sigma, sigma_eval, start / factor, weight, noise=noise, **fields)
