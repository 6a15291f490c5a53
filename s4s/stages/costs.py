"""What a benchmark costs, counted without running it: network evaluations, FLOPs, memory, bytes on disk.

Fits are counted on a problem of two numbers, so the counts are those of the real code. What cannot be counted is
assumed and stated: a throughput, and one damping trial an update.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from s4s import classical
from s4s.grid import grid
from s4s.learn.distances import distance
from s4s.learn.family import Family, family, is_textbook
from s4s.learn.fitter import batch_size, refines
from s4s.learn.jacobian import ROWS, gauss_newton
from s4s.learn.methods import phases
from s4s.learn.teacher import BATCH
from s4s.process import EDM
from s4s.stages.cells import Cell, cells, guided, needs_features, radius_of, shards, uint8_rule
from s4s.stages.passes import Pass

Config = Mapping[str, Any]
BYTES = {"float32": 4, "tf32": 4, "float16": 2, "bfloat16": 2}
FEATURES = {True: 64, False: 2048}  # of the digits' classifier; of Inception
DECODE_BATCH = 8  # of s4s.models.hub, whose import takes seconds


def evaluations(config: Config) -> dict[str, int]:
    """Network evaluations of all cells (samples times NFE, guidance counting one), by stage."""
    spec = config["teacher"]
    all_cells = cells(config)
    pairs = spec["train"] + spec["validation"]
    return {
        "teacher": sum(cell.nfe * pairs for cell in all_cells if cell.method == "teacher"),
        "fits": sum(fit_evaluations(config, cell) for cell in all_cells if cell.learned),
        "samples": sum(cell.nfe * config["sample"]["n"] for cell in all_cells),
    }


def fit_evaluations(config: Config, cell: Cell) -> int:
    """Of one fit that goes through all its rounds, with one damping trial an update; 0 where nobody can count them."""
    if cell.file is not None:
        return 0
    learned, held_out = config["learned"], config["teacher"]["validation"]
    what = (cell.method, cell.family, cell.order)
    relaxed = 2 * cell.nfe if radius_of(config, cell) else 0
    found = _block_evaluations(what, cell.solver, tuple(cell.options.items()), cell.nfe)
    total = cell.nfe * held_out * (3 if learned["moments"] and len(found) > 1 else 1)  # with moments, without, between
    for phase, blocks in enumerate(found):
        iterations, refining = learned["rounds"] * len(blocks), refines(phase, learned["moments"])
        for k in range(iterations):
            batch = batch_size(k, iterations, config["teacher"]["train"], refining)
            parts = batch > (learned.get("microbatch") or batch)  # their median distance comes before
            total += batch * (cell.nfe * parts + blocks[k % len(blocks)] + cell.nfe + relaxed)  # curvature, one trial
        total += learned["rounds"] * cell.nfe * held_out
    return total


@cache
def _block_evaluations(
    what: tuple[str, str | None, int | None], solver: str, options: tuple[tuple[str, Any], ...], nfe: int
) -> list[list[int]]:
    """Evaluations a sample of linearising each block of a phase's cycle; they do not depend on the levels."""
    chosen = dict(options)
    process = EDM()
    levels = grid("edm", process, classical.intervals(solver, nfe, **chosen))
    start, x = classical.solver(solver, levels, **chosen), torch.ones(1, 2)

    def of(made: Family, moves: Tensor) -> int:
        move = lambda part: made.arrays(made.theta + moves @ part)
        denoise, here = lambda x, sigma: x / (1 + sigma.reshape(-1, 1) ** 2), moves.new_zeros(moves.shape[1])
        return gauss_newton(move, here, denoise, distance("l2"), x * process.sigma_max, x).evaluations

    method, kind, order = what
    specs = phases(method, is_textbook(start), kind)
    families = [family(start, spec.family, order if spec is specs[-1] else None) for spec in specs]
    return [[of(made, moves) for moves in made.turns(spec.cycle)] for made, spec in zip(families, specs, strict=True)]


def flops(config: Config, found: list[Pass]) -> dict[str, float]:
    """FLOPs of every stage; decoding latents counts with the samples."""
    made = {stage: float(n * rows_a_call(config) * found[0].flops) for stage, n in evaluations(config).items()}
    if len(found) > 1:
        made["samples"] += float(len(cells(config)) * config["sample"]["n"] * found[1].flops)
    return made


def rows_a_call(config: Config) -> int:
    """2 with guidance, which calls the network with and without the condition in one batch."""
    return 2 if guided(config) else 1


def memory(config: Config, found: list[Pass]) -> tuple[int, int]:
    """Bytes that weights and activations take at the most, and the rows of the largest network call."""
    learned, size = config["learned"], BYTES[config["model"].get("dtype", "float32")]
    fitting = (learned.get("microbatch") or ROWS) if learned["methods"] else 0
    rows = max(config["model"].get("batch", BATCH), fitting)
    live = rows * rows_a_call(config) * found[0].live
    if len(found) > 1:
        live = max(live, (rows if learned.get("space") == "images" else DECODE_BATCH) * found[1].live)
    return sum(network.parameters for network in found) * size + live * size // 4, rows


def disk(config: Config, found: list[Pass]) -> dict[str, int]:
    """Bytes of teacher sets, sums of features, and what is kept: features; images of 8 bits, or states for floats."""
    spec, all_cells = config["teacher"], cells(config)
    teachers = sum(cell.method == "teacher" for cell in all_cells)
    state, image = prod(found[0].shape) * 4, prod(found[-1].shape)
    d, samples = FEATURES[config["model"]["type"] == "digits"], len(all_cells) * config["sample"]["n"]
    made = {
        "teacher sets": teachers * (spec["train"] + spec["validation"]) * state,
        "sums": len(all_cells) * len(shards(config)) * 4 * d * (d + 3),
    }
    if needs_features(config):
        made["features"] = samples * d * 4
    if config["sample"]["keep_images"]:
        made["samples"] = samples * (state if uint8_rule(config) == "none" else image)
    return made
