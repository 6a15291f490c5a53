"""What produced a number."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s4s.stages.bench import Bench
from s4s.stages.cells import Cell
from s4s.stages.config import digest
from s4s.stages.present import version
from s4s.version import __version__


def provenance(bench: Bench, cell: Cell, model: Mapping[str, Any], device: str) -> dict[str, Any]:
    """What produced a number; ``model`` and ``device`` are those of the samples."""
    config = bench.config
    commit, dirty = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    return {
        "git_commit": commit,
        "git_dirty": None if dirty is None else bool(dirty),
        "config_sha256": digest(config),
        "command": " ".join(["s4s", *sys.argv[1:]]),
        "versions": {
            "s4s": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": version("torchvision"),
            "torch_fidelity": version("torch-fidelity"),
            "numpy": np.__version__,
        },
        "device": device,
        "dtype": model["dtype"],
        "model": dict(model),
        "seeds": {
            "model": config["model"].get("seed"),
            "teacher": config["teacher"]["seed"],
            "fit": cell.seed,
            "sample": config["sample"]["seed"],
        },
    }


def _git(*arguments: str) -> str | None:
    """Output of a git command in the folder of this package; None outside a checkout."""
    try:
        here = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
