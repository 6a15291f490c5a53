"""What of a config can be held to its model before anything runs, once the model's sizes and levels are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from s4s import classical
from s4s.errors import Error
from s4s.grid import grid
from s4s.process import EDM, Process
from s4s.score.features import require_channels
from s4s.stages.cells import BY_NETWORK, cells, compares_by, distances
from s4s.stages.passes import Pass

Config = Mapping[str, Any]
SEARCHED = (*BY_NETWORK, "dmn")  # grids that take a network, or seconds; they end where others of the process do


def require_seen(config: Config, found: Sequence[Pass], extractor: str) -> None:
    """Raise unless extractor and LPIPS take images of the model's channels.

    Args:
        found: the network's forward pass and, for latents, the decoder's; empty where they are not known.
        extractor: its name.
    """
    if not found:
        return
    state, images, learned = found[0].shape[0], found[-1].shape[0], config["learned"]
    require_channels(extractor, images)
    compared = images if learned["space"] == "images" else state
    if compared != 3 and compares_by(config, "lpips"):
        *_, where = (place for place, spec in distances(config).items() if "lpips" in spec)
        other = ", or set learned.space to images" if images == 3 else ""
        raise Error(f"{where}: lpips compares images of 3 channels, and these have {compared}; use l2{other}")


def require_solvers(config: Config, process: Process | None = None) -> None:
    """Raise unless every textbook solver of a config can be made on its grid; ``process`` is the model's own."""
    ends = config["process"]
    process = EDM(ends["sigma_min"], ends["sigma_max"]) if process is None else process
    for cell in (each for each in cells(config) if each.solver):
        schedule = "edm" if cell.schedule in SEARCHED else cell.schedule
        options = {"model": "sd15"} if schedule == "ays" else {}
        intervals = classical.intervals(cell.solver, cell.nfe, **cell.options)
        classical.solver(cell.solver, grid(schedule, process, intervals, **options), **cell.options)
