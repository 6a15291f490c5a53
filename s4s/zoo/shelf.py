"""The solvers that come with the package: a bundle a file beside this one, with a card of what it is for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s4s.bundle import Bundle, load_bundle
from s4s.curve import Curve
from s4s.errors import require_choice

HERE = Path(__file__).parent


def names() -> list[str]:
    """Of all bundles."""
    return sorted(path.stem for path in HERE.glob("*.json"))


def bundle(name: str) -> Bundle | Curve:
    """A bundle by its name, a ``Mapping`` from a number of evaluations to its solver."""
    require_choice("solver of the zoo", name, names())
    return load_bundle(HERE / f"{name}.json")


def card(found: Bundle | Curve) -> Mapping[str, Any]:
    """What a bundle is for, who fitted it and how it scored."""
    said = found.provenance.get("card", {})
    return said if isinstance(said, Mapping) else {}


def overview() -> str:
    """Of each bundle its model, and its FID at each number of evaluations beside the best textbook solver's."""
    lines = []
    for name in names():
        facts = card(found := bundle(name))
        near = "fid_to_teacher" in facts
        key = "fid_to_teacher" if near else "fid"
        scores, textbook = facts.get(key, {}), facts.get(f"textbook_{key}", {})
        pairs = (f"{nfe}: {scores[str(nfe)]:.2f} ({textbook[str(nfe)]:.2f})" for nfe in found if str(nfe) in scores)
        lines += [
            f"{name}: {facts.get('model', '')}",
            f"  {facts.get('score', '')}{', to the teacher,' * near} by NFE: {', '.join(pairs)}",
        ]
    return "\n".join([*lines, "In brackets: the best textbook solver's, of those in the benchmark."])
