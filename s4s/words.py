"""How quantities are said to people, and of how many fits a figure says something."""

from __future__ import annotations

SEEDS = 3  # fits that a point of a figure is the mean of, at least


def duration(seconds: float) -> str:
    """``20 s``, ``9 min`` or ``1.5 h``."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
