"""Rows that differ in more than method and start: their names, and what each varies of the method as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from s4s.report.data import Score
from s4s.report.labels import family_label, method_label, others, start_label

LIKE = {"joint": "s4s-alt"}  # a method that is itself a variation: S4S Algorithm 3 beside alternating


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


def varied(found: Sequence[Score]) -> list[tuple[str, Score, Score]]:
    """What is varied, the variation, and the method as it is, in table order.

    A method as it is has the start of most of its rows; where several starts have as many, each stands for itself.
    """
    learned = [score for score in found if score.method in others([score.method]) and score.solver]
    plain = {(s.method, s.start, s.nfe): s for s in reversed(learned) if _is_plain(s, learned)}
    made = []
    for score in learned:
        like = LIKE.get(score.method, score.method)
        base = plain.get((like, _usual_start(like, score.nfe, learned) or score.start, score.nfe))
        if base is not None and base is not score and (what := _what(score, base)):
            made.append((what, score, base))
    return made


def unvaried(found: Sequence[Score]) -> list[Score]:
    """The methods as they are: rows that are no variation of another of the same method."""
    variations = {id(score) for _, score, base in varied(found) if score.method == base.method}
    return [score for score in found if id(score) not in variations]


def _usual_start(method: str, nfe: int, learned: Sequence[Score]) -> tuple[str, str] | None:
    """The start of most rows of a method; None where several have as many."""
    count = Counter(score.start for score in learned if (score.method, score.nfe) == (method, nfe))
    most = [start for start, n in count.items() if n == max(count.values())]
    return most[0] if len(most) == 1 else None


def _is_plain(score: Score, learned: Sequence[Score]) -> bool:
    """A row without settings, of the family that most rows of its method have."""
    alike = [other.family for other in learned if other.method == score.method]
    return not score.settings and not score.radius and score.family == max(alike, key=alike.count)


def _what(score: Score, base: Score) -> str:
    """In what a row differs from the method as it is."""
    if score.method != base.method:
        return f"{method_label(score.method).lower()}, not alternating"
    found = [f"family {family_label(score.family)}"] if score.family != base.family else []
    found += [f"order {score.order}"] if score.order not in (None, base.order) else []
    found += [f"radius {score.radius:g}"] if score.radius else []
    found += [f"start {start_label(*score.start)}"] if score.start != base.start else []
    return ", ".join([*found, *([score.settings] if score.settings else [])])
