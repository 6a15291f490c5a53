"""The pipeline's stages: each reads and writes files under ``results/<benchmark>`` and nothing else.

A stage checks that what it reads was made from the same part of the config, so that two configs never mix in a folder.
The names below load on first use: reading a config needs no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Bench": "bench",
    "train_network": "networks",
    "download_model": "download",
    "make_teacher": "teacher",
    "fit_cell": "fit",
    "sample_cell": "sample",
    "sample_cells": "sample",
    "make_features": "features",
    "features_of_cells": "features",
    "evaluate_cell": "evaluate",
    "evaluate_solver": "transfer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 's4s.stages' has no attribute {name!r}")
    return getattr(importlib.import_module(f"s4s.stages.{_HOME[name]}"), name)
