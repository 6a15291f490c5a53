"""What every test of refused input needs: a payload that tells on itself, and the one line a user should get."""

from __future__ import annotations

import os
from typing import Any

import pytest

CANARY = "executed"  # what a payload would create in the working directory
TOUCH = f"touch {CANARY}"


class Gadget:
    """Runs a shell command when Python's own unpickler reads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (TOUCH,)


def one_line(caught: pytest.ExceptionInfo[BaseException]) -> str:
    """The message of an error, which must be one short printable line."""
    line = str(caught.value)
    assert line.isprintable() and len(line) < 700
    return line
