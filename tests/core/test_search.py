"""Searched grids against the authors' numbers: DMN's objective and minima, GITS' costs and paths, AYS' tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from problems import Mixture
from torch import Tensor

import s4s
from s4s.dmn import _dmn, dmn_objective
from s4s.search import AYS, gits_cost, gits_path

HERE = Path(__file__).parents[1] / "golden"
GOLDEN = np.load(HERE / "search.npz")
MIXTURE = Mixture.load({k.removeprefix("edm:"): v for k, v in np.load(HERE / "compact.npz").items() if "model/" in k})
DMN = sorted({key.rsplit("/", 1)[0] for key in GOLDEN.files if key.startswith("dmn/")})
GITS = sorted({key.rsplit("/", 1)[0] for key in GOLDEN.files if key.endswith("/cost")})


def dmn_case(key: str) -> tuple[Tensor, float, dict[str, int]]:
    """Levels, objective and options of a run of the official code, or of LD3's port."""
    nfe = int(key.rsplit("/N", 1)[1])
    options = {"power": 1 if "ld3_edm" in key else 2, "truncation": 3 if "official" in key or nfe <= 7 else 0}
    return torch.tensor(-GOLDEN[f"{key}/lam"]).exp(), float(GOLDEN[f"{key}/obj"].item()), options


@pytest.mark.parametrize("key", DMN)
def test_dmn_objective_is_the_authors(key: str) -> None:
    sigma, objective, options = dmn_case(key)
    assert dmn_objective(sigma, **options).item() == pytest.approx(objective, rel=1e-12)


@pytest.mark.parametrize("key", [key for key in DMN if "unif/" in key or "ld3" in key])
def test_dmn_search_goes_at_least_as_low(key: str) -> None:
    """As low as the best that the official code reaches from any of its four starts."""
    sigma, objective, options = dmn_case(key)
    _, code, _, nfe = key.split("/")
    others = [dmn_case(other)[1] for other in DMN if other.split("/")[1::2] == [code, nfe]]
    process = SimpleNamespace(sigma_max=sigma[0].item(), sigma_min=sigma[-1].item())
    found = s4s.grid("dmn", process, len(sigma) - 1, **options)  # type: ignore[arg-type]
    assert dmn_objective(found, **options).item() <= min([*others, objective]) * (1 + 1e-6)


@pytest.mark.parametrize("truncation", [0, 3, 99])
def test_dmn_objective_has_a_gradient(truncation: int) -> None:
    sigma = s4s.grid("edm", s4s.EDM(), 7).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda s: dmn_objective(s, 2, truncation, 0.1), sigma)


@pytest.mark.parametrize("process", [s4s.EDM(), s4s.VPLinear(), s4s.Flow()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("nfe", [1, 2, 3, 12])
def test_dmn_of_any_process_and_length(process: s4s.EDM, nfe: int) -> None:
    sigma = s4s.grid("dmn", process, nfe)
    _dmn.cache_clear()
    assert sigma.shape == (nfe + 1,) and torch.equal(sigma, s4s.grid("dmn", process, nfe)), "found again, not kept"
    assert sigma[0].item() == process.sigma_max and sigma[-1].item() == process.sigma_min
    assert s4s.grid("dmn", process, nfe, end_at_zero=True)[-1] == 0


@pytest.mark.parametrize("key", GITS)
def test_gits_costs_and_paths_are_the_authors(key: str) -> None:
    name, _, metric, coeff = key.split("/")[1].split("_")
    levels = torch.tensor(GOLDEN[f"{key}/teacher_t"])
    teacher = s4s.solver({"euler": "ddim"}.get(name, name), levels, **({"order": 4} if name == "ipndm" else {}))
    cost = torch.tensor(GOLDEN[f"{key}/cost"])
    ours = gits_cost(teacher, MIXTURE.denoise, levels[0] * torch.tensor(GOLDEN["gits/latents"]), metric)  # type: ignore[arg-type]
    torch.testing.assert_close(ours, cost, rtol=0, atol=1e-11)
    for path in [k for k in GOLDEN.files if k.startswith(key) and k.endswith("dp_list")]:
        nfe, factor = int(path.split("/")[2][1:]), float(coeff.removeprefix("coeff"))
        for table in (cost, ours):
            assert gits_path(table, nfe, factor) == GOLDEN[path].tolist()


def test_gits_grid() -> None:
    """On the teacher's nodes, the same whatever the batch, averaged over the noises of ``s4s.noise``."""
    process = s4s.EDM()
    teacher = s4s.solver("ipndm", s4s.grid("edm", process, 20), order=4)
    options: dict[str, Any] = {"denoise": MIXTURE.denoise, "shape": (3, 4, 4), "teacher": teacher, "warmup": 10}
    sigma = s4s.grid("gits", process, 5, **options, dtype=torch.float64)
    x_T = 80 * s4s.noise(0, range(10), (3, 4, 4))
    assert torch.equal(sigma, teacher.sigma[gits_path(gits_cost(teacher, MIXTURE.denoise, x_T), 5, 1.15)])
    assert torch.equal(sigma, s4s.grid("gits", process, 5, **options, batch=3))
    with pytest.raises(s4s.Error, match="grid 'gits': got an unexpected keyword argument 'bogus'"):
        s4s.grid("gits", process, 5, **options, bogus=2)
    assert torch.equal(s4s.grid("gits", process, 20, **options), teacher.sigma)


@pytest.mark.parametrize("name", ["logsnr", "edm", "uniform", "quadratic", "dmn", "even", "gits"])
def test_one_interval_that_ends_at_zero_starts_at_the_highest_level(name: str) -> None:
    options = {"denoise": MIXTURE.denoise, "shape": (3, 4, 4), "warmup": 2} if name in ("even", "gits") else {}
    assert s4s.grid(name, s4s.EDM(), 1, end_at_zero=True, **options).tolist() == pytest.approx([80.0, 0.0])


def test_gits_path_by_hand() -> None:
    cost = torch.tensor([[0, 1, 5, 9], [0, 0, 1, 6], [0, 0, 0, 2], [0, 0, 0, 0]], dtype=torch.float64)
    assert gits_path(cost, 1) == [0, 3]
    assert gits_path(cost, 2, coeff=1.0) == [0, 1, 3]  # 1 + 6 equals 5 + 2: the first
    assert gits_path(cost, 2, coeff=1.1) == [0, 2, 3]
    assert gits_path(cost, 3) == [0, 1, 2, 3]


def test_ays_is_its_table_and_log_linear_between() -> None:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    process = s4s.VPDiscrete((1 - betas).cumprod(0))
    for model in ("sd15", "sdxl"):
        levels = s4s.grid("ays", process, 10, model=model)
        torch.testing.assert_close(levels, torch.tensor(AYS[model], dtype=torch.float64), rtol=1e-3, atol=0)
        twice = s4s.grid("ays", process, 20, model=model)
        torch.testing.assert_close(twice[::2], levels)
        torch.testing.assert_close(twice[1::2], (levels[:-1] * levels[1:]).sqrt())
    assert s4s.grid("ays", s4s.EDM(0.002, 700.0), 10, model="svd").tolist() == pytest.approx(AYS["svd"])


def test_ays_is_what_diffusers_ships() -> None:
    shipped = pytest.importorskip("diffusers.schedulers").AysSchedules
    for model, key in (("sd15", "StableDiffusion"), ("sdxl", "StableDiffusionXL"), ("svd", "StableDiffusionVideo")):
        assert AYS[model][:-1] == pytest.approx(shipped[f"{key}Sigmas"][:-1], rel=0.02)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: s4s.grid("gts", s4s.EDM(), 5), "unknown grid 'gts'; choose one of: ays, dmn, edm, even, gits, logsnr"),
    (lambda: s4s.grid("dmn", s4s.EDM(), 5, power=3), "unknown power of grid 'dmn' 3; choose one of: 1, 2"),
    (lambda: s4s.grid("dmn", s4s.EDM(), 5, rho=7), "grid 'dmn': .*rho"),
    (lambda: s4s.grid("gits", s4s.EDM(), 5), "grid 'gits': missing a required .*denoise"),
    (lambda: s4s.grid("gits", s4s.EDM(), 61, denoise=MIXTURE.denoise, shape=(3, 4, 4), warmup=1),
     "grid 'gits': 61 steps do not fit the teacher's 60"),
    (lambda: s4s.grid("gits", s4s.EDM(), 5, denoise=MIXTURE.denoise, shape=(3, 4, 4), warmup=0), "warmup = 0"),
    (lambda: s4s.grid("gits", s4s.EDM(), 5, denoise=MIXTURE.denoise, shape=(3, 4, 4), metric="l3", warmup=1),
     "unknown metric of grid 'gits' 'l3'"),
    (lambda: s4s.grid("gits", s4s.EDM(0.1, 9.0), 5, denoise=MIXTURE.denoise, shape=(3, 4, 4),
                      teacher=s4s.solver("ddim", [80.0, 1.0])), "the teacher's levels must go from 9 to 0.1"),
    (lambda: s4s.grid("gits", s4s.EDM(), 5, denoise=MIXTURE.denoise, shape=(3, 4, 4), batch=0), "'gits': batch = 0"),
    (lambda: s4s.grid("gits", s4s.EDM(), 5, denoise=MIXTURE.denoise, shape=(3, 4, 4), warmup=2.5), "warmup = 2.5 must"),
    (lambda: s4s.grid("even", s4s.EDM(), 5, denoise=MIXTURE.denoise, shape=(3, 4, 4), warmup=2.5), "warmup = 2.5 must"),
    (lambda: s4s.grid("even", s4s.EDM(), 5, denoise=MIXTURE.denoise, shape=(3, 4, 4), dtype="half"), "dtype = 'half'"),
    (lambda: s4s.grid("even", s4s.EDM(), 5, denoise=MIXTURE.denoise, shape=(3, 4, 4), device="gpu"), "'gpu' is not"),
    (lambda: s4s.grid("gits", s4s.EDM(), 5, denoise=MIXTURE.denoise, shape=(3, 4, 4), teacher=3), "a solver is needed"),
    (lambda: s4s.grid("gits", s4s.EDM(), 5, denoise=MIXTURE.denoise, shape=(3, 4, 4), device="gpu"), "'gpu' is not"),
    (lambda: s4s.grid("dmn", s4s.EDM(), 5, truncation="a"), "truncation of grid 'dmn' = 'a' must be a whole number"),
    (lambda: s4s.grid("dmn", None, 5), r"a grid is of a process, such as s4s.EDM\(\), got None"),  # type: ignore[arg-type]
    (lambda: s4s.grid("dmn", s4s.EDM, 5), "a grid is of a process, such as"),  # type: ignore[arg-type]
    (lambda: s4s.grid("ays", s4s.EDM(), 5, model="sd15"), "is for levels 14.6146 to 0.0291672; this process has 80"),
    (lambda: s4s.grid("ays", s4s.EDM(), 5, model="sd2"), "unknown model of grid 'ays' 'sd2'; choose one of: sd15"),
])  # fmt: skip
def test_errors(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(s4s.Error, match=message) as caught:
        call()
    assert re.search("\n", str(caught.value)) is None
