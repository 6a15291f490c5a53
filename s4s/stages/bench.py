"""What a config stands for: its model, loaded on first use, its noise process and its textbook solvers."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from s4s import classical, search
from s4s.errors import Error
from s4s.grid import grid
from s4s.learn.teacher import BATCH
from s4s.models import load_model
from s4s.models.model import Model
from s4s.process import EDM
from s4s.solver import Denoise, Solver
from s4s.stages.cells import Cell, made_from
from s4s.stages.config import digest
from s4s.stages.files import Config, Folder, expect, write_json
from s4s.stages.possible import GITS_SEED

WARMUP = 256  # noises that GITS averages over, with the conditions of the first samples
FETCHING = ("weights", "first_stage", "kind", "sizes", "batch")  # settings of a model that are not its loader's


class Bench:
    """A config, and where its results go.

    Every kind of model is the same to the stages: a process, a shape, ``denoiser(indices)``, ``decode`` and facts.
    """

    def __init__(self, config: Config, results: Path) -> None:
        self.config, self.folder = config, Folder(config, results)
        self.trained: bool = config["model"]["type"] == "digits"

    @cached_property
    def device(self) -> str:
        """Where networks run."""
        wanted: str = self.config["device"]
        if wanted == "cuda" and not torch.cuda.is_available():
            raise Error("device: torch finds no cuda device here; set it to auto or cpu")
        if wanted == "auto":
            return "cuda" if torch.cuda.is_available() and not self.trained else "cpu"
        return wanted

    @property
    def device_name(self) -> str:
        """The device with its maker's name, for the record."""
        return self.device if self.device == "cpu" else f"{self.device}: {torch.cuda.get_device_name()}"

    @cached_property
    def model(self) -> Model:
        """The network to sample from, frozen; it must be of this config."""
        spec = {key: value for key, value in self.config["model"].items() if key not in FETCHING}
        spec |= {key: value for key, value in self.config["process"].items() if key != "type"}
        weights = self.folder.model("denoiser")
        if self.trained:
            made = load_model(spec, weights, device=self.device)
            self.require_trained(weights)
            return made
        expect(self.folder.weights, self._fetched().get("made_from"), made_from(self.config, "train"))
        imported = self.config["model"]["type"] in ("edm", "ldm")
        return load_model(spec, weights if imported else None, device=self.device, offline=True)

    def require_trained(self, weights: Path) -> None:
        """Raise unless a network was trained from this config."""
        with safe_open(weights, framework="pt") as file:
            expect(weights, json.loads(file.metadata()["record"])["made_from"], made_from(self.config, "train"))

    def _fetched(self) -> dict[str, Any]:
        path = self.folder.weights
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise Error(f"{path}: cannot read it ({error.strerror}); run `s4s download` first") from error
        except ValueError as error:
            raise Error(f"{path}: damaged or truncated; run `s4s download` again") from error
        return record if isinstance(record, dict) else {}

    @cached_property
    def process(self) -> Any:
        """The noise process; known without the network where the config says it all."""
        ends = self.config["process"]
        return EDM(ends["sigma_min"], ends["sigma_max"]) if "sigma_max" in ends else self.model.process

    @property
    def batch(self) -> int:
        """Samples of a network call."""
        rows: int = BATCH if self.trained else self.config["model"]["batch"]
        return rows

    def denoiser(self, indices: range) -> Denoise:
        """The frozen network under the conditions of some samples."""
        return self.model.denoiser(self.model.condition(indices))

    def textbook(self, cell: Cell) -> Solver:
        """The textbook solver of a cell: the cell itself, or where its learning starts."""
        intervals = classical.intervals(cell.solver, cell.nfe, **cell.options)
        return classical.solver(cell.solver, self.grid(cell.schedule, intervals), **cell.options)

    def grid(self, schedule: str, intervals: int) -> Tensor:
        """Levels of a schedule."""
        if schedule == "gits":
            levels, cost = self._gits
            return levels[search.gits_path(cost, intervals)]
        if schedule == "ays":
            return grid("ays", self.process, intervals, model="sd15")
        return grid(schedule, self.process, intervals)

    @cached_property
    def _gits(self) -> tuple[Tensor, Tensor]:
        """Candidate levels and costs of GITS; kept in a file, for they take as long as a few thousand samples."""
        path = self.folder.root / "models" / f"gits-{digest(made_from(self.config, 'textbook'))[:12]}.json"
        levels = search.step_levels(teacher := search.gits_teacher(self.process))
        if not path.exists():
            rows = min(self.batch, 64)
            denoise = self.denoiser(range(rows))
            cost = search.mean_gits_cost(teacher, denoise, self.model.shape, WARMUP - WARMUP % rows, GITS_SEED, "dev",
                                         batch=rows, device=self.device)  # fmt: skip
            write_json(path, {"cost": cost.tolist()})
        return levels, torch.tensor(json.loads(path.read_text(encoding="utf-8"))["cost"], dtype=torch.float64)
