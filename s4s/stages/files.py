"""Where a benchmark keeps what it makes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s4s.files import write_text
from s4s.stages.cells import Cell

Config = Mapping[str, Any]


class Folder:
    """Where a benchmark keeps what it makes."""

    def __init__(self, config: Config, results: Path) -> None:
        self.root = results / config["benchmark"]

    def model(self, kind: str) -> Path:
        return self.root / "models" / f"{kind}.safetensors"

    @property
    def weights(self) -> Path:
        """Record of the weights that were fetched."""
        return self.root / "models" / "weights.json"

    @property
    def scoring(self) -> Path:
        """Record of what samples are scored with."""
        return self.root / "models" / "scoring.json"

    def solver(self, cell: Cell) -> Path:
        return self.root / "solvers" / f"{cell.name}.json"

    def fit(self, cell: Cell) -> Path:
        return self.root / "fits" / f"{cell.name}.json"

    def unfinished(self, cell: Cell) -> Path:
        """Of a fit, while it runs."""
        return self.root / "fits" / f"{cell.curve if cell.together else cell.name}.unfinished.safetensors"

    def curve(self, cell: Cell) -> Path:
        """The curve that a cell is a solver of."""
        return self.root / "curves" / f"{cell.curve}.json"

    def samples(self, cell: Cell, first: int, last: int) -> Path:
        return self.root / "samples" / cell.name / f"{first:06d}-{last:06d}.npz"

    def features(self, cell: Cell, first: int, last: int) -> Path:
        return self.root / "features" / cell.name / f"{first:06d}-{last:06d}.npz"

    def metrics(self, cell: Cell) -> Path:
        return self.root / "metrics" / f"{cell.name}.json"


def write_json(path: Path, data: Any) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(data, indent=2) + "\n")
