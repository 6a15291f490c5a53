"""Names of rows that differ in more than method and start."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from s4s.report.data import Score
from s4s.report.labels import family_label, method_label


def variant_names(found: Sequence[Score]) -> Callable[[Score], str]:
    """Name a row's method, with its ``variants`` in parentheses."""
    of = variants(found)
    return lambda score: method_label(score.method) + (f" ({said})" if (said := of(score)) else "")


def variants(found: Sequence[Score]) -> Callable[[Score], str]:
    """Say a row's family, order and radius where the table holds several; empty where it does not."""

    def said(score: Score) -> str:
        alike = [other for other in found if (other.method, other.start) == (score.method, score.start)]
        families = {other.family for other in found if other.method == score.method}
        orders = {other.order for other in alike if other.family == score.family}
        remarks = [family_label(score.family)] if len(families) > 1 and score.family else []
        remarks += [f"order {score.order}"] if len(orders) > 1 and score.order is not None else []
        remarks += [] if score.radius is None else [f"r = {score.radius:g}"]
        remarks += [score.settings] * bool(score.settings)
        return ", ".join(remarks)

    return said
