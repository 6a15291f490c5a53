"""The Frechet distance to the last digit: few samples, means far from 0, sets of one value, sums cut anywhere."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from s4s.score.metrics import Moments, bootstrap, frechet, sampling_std


def drawn(n: int, d: int, seed: int = 0) -> Tensor:
    """Normal features of unequal spread, their axes turned: float32 numbers, as networks give them."""
    generator = torch.Generator().manual_seed(seed)
    turned = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) * torch.linspace(0.2, 2, d, dtype=torch.float64)
    return (x @ turned).float().double()


def exact(a: Tensor, b: Tensor) -> float:
    """The distance from the centred samples: ``tr (C_a C_b)^1/2`` is the nuclear norm of their product."""
    means, centred = zip(*((x.mean(0), x - x.mean(0)) for x in (a - a[0], b - a[0])), strict=True)
    traces = [(x**2).sum() / (len(x) - 1) for x in centred]
    cross = torch.linalg.svdvals(centred[0] @ centred[1].T).sum() / math.sqrt((len(a) - 1) * (len(b) - 1))
    return float(((means[0] - means[1]) ** 2).sum() + sum(traces) - 2 * cross)


@pytest.mark.parametrize("n, m, d", [(400, 300, 16), (20, 30, 32), (2, 3, 8), (64, 64, 256), (50, 2000, 32)])
def test_any_number_of_samples(n: int, m: int, d: int) -> None:
    a, b = drawn(n, d), drawn(m, d, seed=1) * 1.25 + 0.5
    assert frechet(Moments.of(a), Moments.of(b)) == pytest.approx(exact(a, b), rel=1e-13)
    assert frechet(Moments.of(b), Moments.of(a)) == pytest.approx(exact(a, b), rel=1e-13)


@pytest.mark.parametrize("n, d", [(400, 16), (20, 32), (2, 8), (128, 512)])
def test_equal_sets_are_at_distance_0(n: int, d: int) -> None:
    a = drawn(n, d)
    found = Moments.merge(Moments.of(part) for part in a.split(7))
    for other in (Moments.of(a), Moments.of(a.flip(0)), found):
        assert 0 <= frechet(Moments.of(a), other) < 1e-13


@pytest.mark.parametrize("mean, scale", [(1e3, 1.0), (1e4, 0.01), (-1e6, 1e-3)])
def test_a_mean_far_from_0_loses_nothing(mean: float, scale: float) -> None:
    a, b = mean + scale * drawn(200, 16), mean + scale * drawn(100, 16, seed=1)
    parts = (Moments.merge(Moments.of(part) for part in x.split(30)) for x in (a, b))
    assert frechet(Moments.of(a), Moments.of(b)) == pytest.approx(exact(a, b), rel=1e-13)
    assert frechet(*parts) == pytest.approx(exact(a, b), rel=1e-13)


def test_it_is_the_formula_with_scipys_square_root() -> None:
    a, b = drawn(300, 12), drawn(200, 12, seed=1) + 0.3
    ca, cb = (np.cov(x.T.numpy()) for x in (a, b))
    root: Any = scipy.linalg.sqrtm(ca @ cb)
    theirs = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(ca + cb - 2 * root.real)
    assert frechet(Moments.of(a), Moments.of(b)) == pytest.approx(theirs, rel=1e-12)


def test_features_that_do_not_vary_or_do_not_meet() -> None:
    a, b = drawn(30, 8), drawn(40, 8, seed=1)
    a[:, 2] = b[:, 2] = 7.0
    b[:, 5] = 0.1
    assert frechet(Moments.of(a), Moments.of(b)) == pytest.approx(exact(a, b), rel=1e-13)
    still = torch.full((3, 8), 0.3, dtype=torch.float64)
    assert frechet(Moments.of(still), Moments.of(still + 2)) == pytest.approx(32, rel=1e-15)
    assert frechet(Moments.of(still), Moments.of(a)) == pytest.approx(exact(still, a), rel=1e-13)
    turned = torch.linalg.qr(drawn(12, 12)).Q  # two spaces at right angles: nothing is shared
    left, right = drawn(9, 6) @ turned[:6], drawn(9, 6, seed=1) @ turned[6:]
    assert frechet(Moments.of(left), Moments.of(right)) == pytest.approx(exact(left, right), rel=1e-13)


def test_sums_are_those_of_the_features_about_any_shift() -> None:
    a = torch.randint(-50, 50, (90, 5)).double()  # whole numbers: sums are exact
    found = Moments.of(a)
    for shift in (torch.zeros(5), torch.arange(5.0), a[3]):
        about = found.about(shift.double())
        assert torch.equal(about.total, (a - shift).sum(0)) and torch.equal(about.outer, (a - shift).T @ (a - shift))
        assert about.count == 90 and torch.allclose(about.mean, a.mean(0), rtol=1e-14)


def test_a_bootstrap_of_few_samples_far_from_0() -> None:
    a, b = 1e4 + drawn(20, 32), 1e4 + drawn(25, 32, seed=1)
    far, near = (bootstrap(x, Moments.of(y), replicates=4) for x, y in ((a, b), (a - 1e4, b - 1e4)))
    assert far.fid == pytest.approx(near.fid, rel=1e-12) and far.std == pytest.approx(near.std, rel=1e-9)


def test_growing_sets_differ_ever_less() -> None:
    a, b = drawn(4000, 4), Moments.of(drawn(4000, 4))
    found = [frechet(Moments.of(a[:n]), b) for n in (20, 200, 4000)]
    assert all(x > y for x, y in pairwise(found)) and 0 <= found[-1] < 1e-13


def test_sampling_std_is_the_spread_of_fids_of_other_samples() -> None:
    """From the sums of a set, beside 200 sets; features that are Gaussian, away from the reference."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.eye(8, dtype=torch.float64) + 0.3 * torch.randn(8, 8, generator=generator, dtype=torch.float64)
    target = Moments.of(torch.randn(20_000, 8, generator=generator, dtype=torch.float64))
    sets = [Moments.of(0.3 + torch.randn(500, 8, generator=generator, dtype=torch.float64) @ mix) for _ in range(200)]
    true = torch.tensor([frechet(target, made) for made in sets]).std().item()
    said = torch.tensor([sampling_std(made, target) for made in sets]).mean().item()
    assert said == pytest.approx(true, rel=0.1)
    assert sampling_std(target, target) < 1e-6
