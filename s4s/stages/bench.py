"""What a config stands for: its model, loaded on first use, its noise process and its textbook solvers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4s import classical, search
from s4s.errors import Error
from s4s.even import SAMPLES, Even, even_of
from s4s.grid import grid
from s4s.learn.teacher import BATCH
from s4s.models import digits_model, load_model
from s4s.models.model import Model
from s4s.process import EDM
from s4s.solver import Denoise, Solver
from s4s.stages.cells import BY_NETWORK, Cell, made_from, network_files
from s4s.stages.chain import Chain
from s4s.stages.config import digest
from s4s.stages.files import Config, Folder, write_json
from s4s.stages.possible import GITS_SEED

WARMUP = 256  # noises that GITS averages over, with the conditions of the first samples
FETCHING = ("weights", "first_stage", "kind", "sizes", "batch")  # settings of a model that are not its loader's


class Bench:
    """A config, and where its results go.

    Every kind of model is the same to the stages: a process, a shape, ``denoiser(indices)``, ``decode`` and facts.
    """

    def __init__(self, config: Config, results: Path) -> None:
        self.config, self.folder = config, Folder(config, results)
        self.chain = Chain(config, self.folder.root)
        self._held: dict[str, str] = {}
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

    @property
    def network_files(self) -> list[Path]:
        """Results that hold the network, or say where it is."""
        return [self.folder.root / name for name in network_files(self.config)]

    def reads(self, *paths: Path) -> dict[str, str]:
        """Hashes of the network and of other results, checked; a model in memory of older files is let go."""
        found = self.chain.read(*self.network_files, *paths)
        held = {name: found[name] for name in network_files(self.config)}
        if held != self._held:
            for name in ("model", "process", "_gits", "_even"):
                self.__dict__.pop(name, None)
        self._held = held
        return found

    @cached_property
    def model(self) -> Model:
        """The network to sample from, frozen; it must be of this config, and as it was when it was made or fetched."""
        imported = self.folder.model("denoiser")
        name = self.chain.name(imported)
        weights = imported if name in self.reads() else None
        spec = {key: value for key, value in self.config["model"].items() if key not in FETCHING}
        spec |= {key: value for key, value in self.config["process"].items() if key != "type"}
        made = load_model(spec, weights, device=self.device, offline=not self.trained)
        if "files_sha256" in made.facts:
            self._require_fetched(made.facts["files_sha256"])
        return made

    def _require_fetched(self, files: Mapping[str, str]) -> None:
        """The folder that was loaded is the one that was fetched: an unpinned repository may have moved on."""
        path = self.folder.weights
        known = json.loads(path.read_text(encoding="utf-8")).get("files_sha256", {})
        for name, now in files.items():
            if known.get(name) != now:
                raise Error(f"{path}: of a model whose {name} had SHA-256 {known.get(name)}; what is there now "
                            f"has {now}; run `s4s download` again")  # fmt: skip

    @cached_property
    def process(self) -> Any:
        """The noise process; known without the network where the config says it all."""
        ends = self.config["process"]
        if self.trained:
            return digits_model.process(ends.get("type", "edm"), **{k: v for k, v in ends.items() if k != "type"})
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
        if schedule == "even":
            return self._even.levels(intervals)
        if schedule == "ays":
            return grid("ays", self.process, intervals, model="sd15")
        return grid(schedule, self.process, intervals)

    def searched(self, cell: Cell) -> list[Path]:
        """The file of what a cell's grid was found from, if it was found; made if need be."""
        if cell.schedule not in BY_NETWORK:
            return []
        self.grid(cell.schedule, 1)  # makes it
        return [self._kept(cell.schedule)]

    def _kept(self, schedule: str) -> Path:
        return self.folder.root / "models" / f"{schedule}-{digest(made_from(self.config, 'textbook'))[:12]}.json"

    def _found(self, schedule: str, most: int, search: Callable[[Denoise, int], dict[str, Any]]) -> dict[str, Any]:
        """What grids are found from, kept in a file; ``search`` finds it, given the network and its rows."""
        path = self._kept(schedule)
        if not self.chain.follows(path):
            reads, rows = self.reads(), min(self.batch, most)
            made = search(self.denoiser(range(rows)), rows)
            if not self.chain.follows(path):  # another job was faster
                write_json(path, made)
                self.chain.note(path, schedule, reads)
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    @cached_property
    def _gits(self) -> tuple[Tensor, Tensor]:
        """Candidate levels and costs of GITS, which take as long as a few thousand samples."""
        teacher = search.gits_teacher(self.process)

        def costs(denoise: Denoise, rows: int) -> dict[str, Any]:
            cost = search.mean_gits_cost(teacher, denoise, self.model.shape, WARMUP - WARMUP % rows, GITS_SEED, "dev",
                                         batch=rows, device=self.device)  # fmt: skip
            return {"cost": cost.tolist()}

        return search.step_levels(teacher), torch.tensor(self._found("gits", 64, costs)["cost"], dtype=torch.float64)

    @cached_property
    def _even(self) -> Even:
        """How even levels are spread."""

        def spread(denoise: Denoise, rows: int) -> dict[str, Any]:
            found = even_of(self.process, denoise, self.model.shape, rows, GITS_SEED, self.device)
            return {"sigma": found.sigma.tolist(), "share": found.share.tolist()}

        kept = self._found("even", SAMPLES, spread)
        return Even(*(torch.tensor(kept[key], dtype=torch.float64) for key in ("sigma", "share")))
