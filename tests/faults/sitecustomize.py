"""What goes wrong in a job, once. Python imports this at its start where this folder is in PYTHONPATH.

``S4S_FAULT=kill:solvers/:/path/of/a/marker`` kills the first process that is about to put a file whose path holds
``solvers/`` in its place, with half of the file written; ``hang`` lets it wait for a file ``go`` beside the marker.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

if "S4S_FAULT" in os.environ:
    kind, where, marker = os.environ["S4S_FAULT"].split(":")
    go = os.path.join(os.path.dirname(marker), "go")
    real = os.replace

    def replace(source: Any, target: Any, **options: Any) -> None:
        if where in str(target) and first():
            if kind == "kill":
                os.truncate(source, os.path.getsize(source) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            while not os.path.exists(go):
                time.sleep(0.1)
        real(source, target, **options)

    def first() -> bool:
        """Whether no process was here before."""
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    os.replace = replace
