"""Processes from two functions of time, tables that end in noise alone, and networks with the data at t = 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from problems import PATHS, TwoPoints
from torch import Tensor

import s4s
from s4s.errors import Notice

every_path = pytest.mark.parametrize("name", PATHS)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_times(path: s4s.Path, n: int = 2000) -> Tensor:
    share = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return path.t_min + (path.t_max - path.t_min) * share


@every_path
def test_the_inverse_is_exact(name: str) -> None:
    path = PATHS[name]
    t = random_times(path)
    torch.testing.assert_close(path.time(path.level(t)), t, rtol=0, atol=1e-12)


def test_the_inverse_is_exact_where_levels_are_steep() -> None:
    """A flow to within 1e-6 of both ends: levels 1e-6 to 1e6."""
    path = s4s.Path(lambda t: 1 - t, lambda t: t, t_max=1 - 1e-6, t_min=1e-6)
    t = torch.cat(
        [torch.logspace(-6, -1, 500, dtype=torch.float64), 1 - torch.logspace(-6, -1, 500, dtype=torch.float64)]
    )
    torch.testing.assert_close(path.time(path.level(t)), t, rtol=0, atol=1e-12)


@every_path
def test_beyond_the_ends_time_goes_on(name: str) -> None:
    """A fit moves levels a little past the ends to differentiate."""
    path = PATHS[name]
    for level, inner in ((path.sigma_max, 0.999), (path.sigma_min, 1.001)):
        inside, end, outside = path.time(level * double(inner, 1.0, 1 / inner))
        assert (outside - end) * (end - inside) > 0
        torch.testing.assert_close(outside - end, end - inside, rtol=0.2, atol=1e-9)


def test_a_path_is_the_process_of_the_same_functions() -> None:
    named = s4s.VPLinear()
    path = s4s.Path(named.alpha, named.sigma, t_max=1.0, t_min=1e-3)
    assert (path.sigma_max, path.sigma_min) == (named.sigma_max, named.sigma_min)
    for schedule in ("logsnr", "edm", "uniform", "quadratic"):
        levels = s4s.grid(schedule, path, 7)
        torch.testing.assert_close(levels, s4s.grid(schedule, named, 7), rtol=1e-12, atol=0)


def test_functions_may_add_axes_as_libraries_do() -> None:
    """[B] -> [B, 1, 1], to be multiplied with states."""
    plain = s4s.Path(lambda t: 1 - t, lambda t: t, t_max=0.99, t_min=0.01)
    wide = s4s.Path(lambda t: (1 - t)[..., None, None], lambda t: t[..., None, None], t_max=0.99, t_min=0.01)
    levels = s4s.grid("uniform", plain, 4)
    assert torch.equal(s4s.grid("uniform", wide, 4), levels) and torch.equal(wide.time(levels), plain.time(levels))
    assert wide.level(0.5).shape == () and wide.alpha(double(0.1, 0.2)).shape == (2,)


def test_time_may_run_either_way() -> None:
    """A path written with its data at t = 1 is the same process: levels, grids and samples."""
    up = s4s.Path(lambda t: 1 - t, lambda t: t, t_max=0.99, t_min=0.01)
    down = s4s.Path(lambda t: t, lambda t: 1 - t, t_max=0.99, t_min=0.01)
    assert down.time_range == (0.01, 0.99) and up.time_range == (0.99, 0.01)
    for schedule in ("uniform", "quadratic", "logsnr"):
        torch.testing.assert_close(s4s.grid(schedule, up, 6), s4s.grid(schedule, down, 6))
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours = up.denoiser(lambda x_t, t: t[:, None] * x_t, "velocity")
    own = down.denoiser(lambda x_t, t: t[:, None] * x_t, "velocity")
    for sigma in double(0.3, 4.0):
        torch.testing.assert_close(ours(x, sigma), own(x, sigma))


def test_velocity_is_what_flow_matching_integrates() -> None:
    """Euler from noise at 0 to data at 1 in the model's own time equals DDIM on the same levels."""
    process = s4s.Flow(t_min=1e-3, t_max=0.99)
    told = []

    def net(x_t: Tensor, t: Tensor) -> Tensor:  # data at t = 1, velocity x_0 - eps
        told.append(t[0].item())
        level = (1 - t[0]) / t[0]
        D = TwoPoints().denoise(x_t / t[0], level)
        return D - (x_t - t[0] * D) / (1 - t[0])

    t = torch.linspace(0.01, 0.999, 11, dtype=torch.float64)
    x = x_T = s4s.noise(0, range(8), (2,))
    for now, later in pairwise(t):
        x = x + (later - now) * net(x, now.expand(8))
    euler, told = told, []
    solver = s4s.solver("ddim", (1 - t) / t)
    ours = s4s.sample(solver, process.denoiser(net, "velocity"), x_T / t[0])
    torch.testing.assert_close(ours * t[-1], x)
    assert told == pytest.approx(euler)


def test_cosine() -> None:
    process = s4s.Cosine()
    t = double(0.1, 0.5, 0.9)
    torch.testing.assert_close(process.alpha(t), (math.pi * t / 2).cos())
    torch.testing.assert_close(process.sigma(t), (math.pi * t / 2).sin())


def test_velocity_works_where_gradients_are_off() -> None:
    denoise = PATHS["data at 1"].denoiser(lambda x_t, t: -x_t, "velocity")
    x, sigma = torch.ones(3, 2), torch.tensor(2.0, dtype=torch.float64)
    expected = denoise(x, sigma)
    with torch.inference_mode():
        torch.testing.assert_close(denoise(torch.ones(3, 2), sigma), expected)


def cosine_table(K: int = 1000) -> Tensor:
    """Nichol & Dhariwal 2021; betas capped at 0.999 as everywhere."""
    f = ((torch.arange(K + 1, dtype=torch.float64) / K + 0.008) / 1.008 * math.pi / 2).cos() ** 2
    return (f[1:] / f[:-1]).clamp(min=0.001).cumprod(0)


def test_a_huge_last_step_is_left_out_and_said() -> None:
    whole = s4s.VPDiscrete(cosine_table(), t_max=1.0)
    with pytest.warns(Notice, match=r"from level 641.7 to 2.029e\+04.* starts at 128.3; t_max=1.0 keeps") as said:
        process = s4s.VPDiscrete(cosine_table())
    assert len(said) == 1 and said[0].filename == __file__
    assert whole.sigma_max > 2e4 and process.sigma_max == process.level(0.995).item() <= 160
    told = process.model_time(s4s.grid("logsnr", process, 5))
    torch.testing.assert_close(told[0].item(), 994.0)
    assert (told.diff() < -5).all(), "no two evaluations within a few training steps: none is wasted on noise"
    assert told[1] < 970 and whole.model_time(s4s.grid("logsnr", whole, 5))[1] > 998


@pytest.mark.filterwarnings("error::s4s.errors.Notice")
@pytest.mark.parametrize("betas", [(1e-4, 0.02), (0.00085, 0.012)])
def test_ordinary_tables_keep_all_their_levels(betas: tuple[float, float]) -> None:
    table = (1 - torch.linspace(*betas, 1000, dtype=torch.float64)).cumprod(0)
    assert s4s.VPDiscrete(table).sigma_max == s4s.VPDiscrete(table, t_max=1.0).sigma_max


def test_rounded_times_are_the_nearest_training_steps() -> None:
    table = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
    exact, rounded = s4s.VPDiscrete(table), s4s.VPDiscrete(table, rounded=True)
    levels = s4s.grid("logsnr", exact, 200)
    trained = ((1 - table) / table).sqrt().log()
    nearest = (levels.log()[:, None] - trained).abs().argmin(1).double()
    assert torch.equal(rounded.model_time(levels), nearest)
    assert torch.equal(rounded.time(levels), exact.time(levels)) and rounded.sigma_max == exact.sigma_max
    low, high = ((1 - table) / table).sqrt()[[500, 501]]
    between = (low * high).sqrt()
    assert rounded.model_time(between * double(0.999999, 1.000001)).tolist() == [500.0, 501.0]
    assert rounded.model_time(double(100.0, 0.001)).tolist() == [999.0, 0.0]


def path(alpha: Callable[[Tensor], object], sigma: Callable[[Tensor], object], t_max: float, t_min: float) -> s4s.Path:
    return s4s.Path(alpha, sigma, t_max=t_max, t_min=t_min)


def own(t: Tensor) -> Tensor:
    return t


@pytest.mark.parametrize(("call", "message"), [
    (lambda: path(lambda t: 1 - t, own, 0.1, 0.9), "needs t_min < t_max, got t_min = 0.9"),
    (lambda: path(lambda t: 1 - t, own, "a", 0.1), "needs t_min < t_max, got t_min = 0.1 and t_max = 'a'"),  # type: ignore[arg-type]
    (lambda: path(lambda t: 1 - t, own, 1.0, 0.1), "alpha of a path must be above 0, but is 0 at t = 1"),
    (lambda: path(lambda t: 1 - t, own, 0.9, 0.0), "sigma of a path must be above 0, but is 0 at t = 0"),
    (lambda: path(lambda t: 1.0, lambda t: (math.pi * t).sin(), 0.9, 0.1), "it turns near t = 0.5"),
    (lambda: path(lambda t: math.cos(t), own, 0.9, 0.1), "alpha of a path must take a tensor of times"),
    (lambda: path(lambda t: 1.0, lambda t: torch.ones(3), 0.9, 0.1), "sigma of a path must take a tensor"),
    (lambda: path(lambda t: t * float("nan"), own, 0.9, 0.1), "alpha of a path .* is nan"),
    (lambda: s4s.Cosine(t_max=1.0), "must be below 1"),
    (lambda: s4s.Cosine(t_min=0.0), "needs 0 < t_min < t_max"),
])  # fmt: skip
def test_errors(call: Callable[[], object], message: str) -> None:
    with pytest.raises(s4s.Error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
