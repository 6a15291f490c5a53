"""No test reads or writes the user's own cache."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The download cache, empty."""
    monkeypatch.setenv("S4S_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
