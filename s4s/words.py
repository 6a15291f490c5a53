"""How quantities are said to people."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """``20 s``, ``9 min`` or ``1.5 h``."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
