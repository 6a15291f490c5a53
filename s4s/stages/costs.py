"""What a benchmark costs, counted without running it: network evaluations, FLOPs, memory, bytes on disk.

What cannot be counted is assumed and stated: a throughput, and one damping trial a batch of a fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from s4s import classical
from s4s.learn.methods import APART, METHODS
from s4s.learn.objective import CALL
from s4s.learn.teacher import BATCH
from s4s.stages.cells import Cell, cells, curves, needs_features, rows_a_call, shards, taught, uint8_rule
from s4s.stages.fit_costs import curve_evaluations, fit_evaluations
from s4s.stages.passes import Pass

Config = Mapping[str, Any]
BYTES = {"float32": 4, "tf32": 4, "float16": 2, "bfloat16": 2}
FEATURES = {True: 64, False: 2048}  # of the digits' classifier; of Inception
NOISES = 100  # that distances to the teacher along the steps are means over; next to nothing beside the samples
DECODE_BATCH = 8  # of s4s.models.hub, whose import takes seconds


def evaluations(config: Config) -> dict[str, int]:
    """Network evaluations of all cells (guidance counting one), by stage."""
    spec = config["teacher"]
    all_cells = cells(config)
    pairs = spec["train"] + spec["validation"]
    return {
        "teacher": sum(cell.nfe * pairs for cell in taught(config)),
        "fits": sum(fit_evaluations(config, cell) for cell in all_cells if cell.learned and not cell.together)
        + sum(curve_evaluations(config, members) for members in curves(config).values()),
        "samples": len({call for cell in all_cells for call in _calls(cell)}) * config["sample"]["n"],
    }


def _calls(cell: Cell) -> Iterator[tuple[Any, ...]]:
    """Names of a sample's evaluations: cells that a job samples together share one of the same name.

    They are those that ``s4s.alike`` finds, but for what two solvers happen to share.
    """
    ours, spec = cell.file is None, METHODS.get(cell.method)
    family = cell.family or (spec.family if spec else None)
    one_a_step = ours and not cell.learned and classical.intervals(cell.solver, cell.nfe, **cell.options) == cell.nfe
    for n in range(cell.nfe):
        if n == 0 and ours and family not in APART:
            yield cell.kind, cell.nfe, "from the noise"
        elif n == 1 and one_a_step:
            yield cell.kind, cell.nfe, "after Euler's step", cell.schedule
        else:
            yield cell.name, n


def flops(config: Config, found: list[Pass]) -> dict[str, float]:
    """FLOPs of every stage; decoding latents counts with the samples."""
    made = {stage: float(n * rows_a_call(config) * found[0].flops) for stage, n in evaluations(config).items()}
    if len(found) > 1:
        made["samples"] += float(len(cells(config)) * config["sample"]["n"] * found[1].flops)
    return made


def memory(config: Config, found: list[Pass]) -> tuple[int, int]:
    """Bytes that weights and activations take at the most, and the rows of the largest network call."""
    learned, size = config["learned"], BYTES[config["model"].get("dtype", "float32")]
    fitting = (learned.get("microbatch") or CALL) if learned["methods"] else 0
    rows = max(config["model"].get("batch", BATCH), fitting)
    live = rows * rows_a_call(config) * found[0].live
    if len(found) > 1:
        live = max(live, (rows if learned.get("space") == "images" else DECODE_BATCH) * found[1].live)
    return sum(network.parameters for network in found) * size + live * size // 4, rows


def disk(config: Config, found: list[Pass]) -> dict[str, int]:
    """Bytes of teacher sets, sums of features, and what is kept: features; images of 8 bits, or states for floats."""
    spec, all_cells = config["teacher"], cells(config)
    state, image = prod(found[0].shape) * 4, prod(found[-1].shape)
    d, samples = FEATURES[config["model"]["type"] == "digits"], len(all_cells) * config["sample"]["n"]
    made = {
        "teacher sets": len(taught(config)) * (spec["train"] + spec["validation"]) * state,
        "sums": len(all_cells) * len(shards(config)) * 4 * d * (d + 3),
    }
    if needs_features(config):
        made["features"] = samples * d * 4
    if config["sample"]["keep_images"]:
        made["samples"] = samples * (state if uint8_rule(config) == "none" else image)
    return made
