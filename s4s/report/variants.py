"""Names of rows that differ in more than method and start."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from s4s.report.data import Score
from s4s.report.labels import METHODS


def variant_names(found: Sequence[Score]) -> Callable[[Score], str]:
    """Name a row's method, adding its family, order and radius where the table holds several."""

    def name(score: Score) -> str:
        alike = [other for other in found if (other.method, other.start) == (score.method, score.start)]
        families = {other.family for other in found if other.method == score.method}
        orders = {other.order for other in alike if other.family == score.family}
        remarks = [score.family.upper()] if len(families) > 1 and score.family else []
        remarks += [f"order {score.order}"] if len(orders) > 1 and score.order is not None else []
        remarks += [] if score.radius is None else [f"r = {score.radius:g}"]
        return METHODS[score.method] + (f" ({', '.join(remarks)})" if remarks else "")

    return name
