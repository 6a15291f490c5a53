"""What a benchmark costs: counts against arithmetic by hand and a real fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from problems import TwoPoints

import s4s
from s4s.learn.methods import APART, METHODS
from s4s.stages import costs
from s4s.stages.cells import Cell, cells, rows_a_call
from s4s.stages.config import check, load
from s4s.stages.passes import Pass

CONFIG = Path(__file__).parents[2] / "config" / "digits.yaml"


def test_evaluations_of_the_digits() -> None:
    config = load(CONFIG)
    found = costs.evaluations(config)
    assert found["teacher"] == 40 * (1400 + 512)
    assert found["samples"] == 5000 * (40 + (28 + 52 + 76) + 3 * (7 + 11 + 15)), "teacher, textbook, learned at 4, 6, 8"
    assert found["fits"] == sum(costs.fit_evaluations(config, cell) for cell in cells(config) if cell.learned)


@pytest.mark.parametrize(("radius", "moments"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.1)])
@pytest.mark.parametrize(("method", "family", "order"), [
    *((method, None, None) for method, spec in METHODS.items() if spec.family not in APART),
    ("s4s", "pc", 2), ("s4s-alt", "lms", 4), ("s4s-alt", "ss", 4),
])  # fmt: skip
def test_a_real_fit_takes_the_evaluations_counted(
    method: str, family: str | None, order: int | None, radius: float, moments: float
) -> None:
    process = s4s.EDM(0.01, 20.0)
    problem = lambda x, sigma: TwoPoints().denoise(x, sigma.reshape(-1, 1).to(x))
    grid = s4s.grid("edm", process, 4)
    teacher = s4s.teacher_set(s4s.solver("dpmpp", s4s.grid("logsnr", process, 30), order=3), problem, 90, (2,))
    start = s4s.solver("ipndm", grid, order=3)
    options: dict[str, Any] = {"family": family, "order": order, "radius": radius, "moments": moments}
    found = s4s.fit(start, problem, teacher, method, **options, rounds=3, patience=99, validation=20)
    config = {"teacher": {"train": 70, "validation": 20}, "learned": {"rounds": 3, **options}}
    counted = costs.fit_evaluations(config, Cell(method, "ipndm", {"order": 3}, "edm", 4, 0, family, order))
    assert counted <= found.evaluations <= 1.25 * counted, "steps that are tried again"


def test_guidance_doubles_the_network_not_the_decoder() -> None:
    plain = Pass(10, 100, 1000, (3, 4, 4))
    decoder = Pass(5, 7, 50_000, (3, 16, 16))
    models = ({"type": "stable-diffusion", "guidance": scale, "batch": 2} for scale in (1, 7.5))
    one, two = (load(CONFIG) | {"model": model, "score": {"protocol": "edm", "data": None}} for model in models)
    calls, images = costs.evaluations(one), len(cells(one)) * 5000
    assert [rows_a_call(config) for config in (one, two)] == [1, 2]
    for config, factor in ((one, 1), (two, 2)):
        found = costs.flops(config, [plain, decoder])
        assert found["teacher"] == factor * 100 * calls["teacher"]
        assert found["samples"] == factor * 100 * calls["samples"] + 7 * images
    config = two | {"learned": two["learned"] | {"microbatch": 3}}
    assert costs.memory(config, [plain, decoder]) == (15 * 4 + 8 * 50_000, 3)
    config["learned"]["space"] = "images"
    assert costs.memory(config, [plain, decoder]) == (15 * 4 + 3 * 50_000, 3)
    assert costs.memory(config, [plain]) == (10 * 4 + 3 * 2 * 1000, 3)
    half = config | {"model": config["model"] | {"dtype": "bfloat16"}}
    assert costs.memory(half, [plain]) == (10 * 2 + 3 * 1000, 3)


@pytest.mark.parametrize(("model", "calls"), [
    ({"type": "digits"}, 1), ({"type": "edm"}, 1), ({"type": "diffusers"}, 1),
    ({"type": "diffusers", "guidance": 3}, 2),
    ({"type": "ldm", "kind": "lsun_bedroom"}, 1), ({"type": "ldm", "kind": "imagenet256"}, 2),
    ({"type": "ldm", "kind": "imagenet256", "guidance": None}, 1), ({"type": "stable-diffusion"}, 2),
])  # fmt: skip
def test_which_models_are_guided(model: dict[str, Any], calls: int) -> None:
    assert rows_a_call({"model": model}) == calls


def test_disk() -> None:
    config = check(load(CONFIG))
    state, image = Pass(1, 1, 1, (4, 8, 8)), Pass(1, 1, 1, (3, 64, 64))
    n = len(cells(config)) * 5000
    sums = len(cells(config)) * (64 + 64 * 65 // 2) * 8
    found = costs.disk(config, [state, image])
    assert found == {"teacher sets": 1912 * 256 * 4, "sums": sums, "samples": n * 3 * 64 * 64}
    config["score"] |= {"protocol": "ld3-latent", "bootstrap": 5}  # which takes floats: states are kept
    found = costs.disk(config, [state, image])
    assert found["samples"] == n * 256 * 4 and found["features"] == n * 64 * 4
    config["sample"]["keep_images"] = False
    assert "samples" not in costs.disk(config, [state, image])
