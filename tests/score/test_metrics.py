"""Distances against closed forms and torch-fidelity, merging, bootstrap."""

from __future__ import annotations

import pytest
import torch

import s4s
from s4s.score import metrics
from s4s.score.metrics import Moments, frechet


def test_frechet_agrees_with_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.linalg.qr(torch.randn(500, 6, generator=generator, dtype=torch.float64)).Q
    base = base - base.mean(0)
    scale = torch.arange(1.0, 7, dtype=torch.float64)
    a, b = Moments.of(base), Moments.of(base * scale + 2)
    cross = torch.linalg.eigvals(a.covariance @ b.covariance).real.clamp(min=0).sqrt().sum()
    expected = 24 + a.covariance.trace() + b.covariance.trace() - 2 * cross
    assert frechet(a, b) == pytest.approx(expected.item(), rel=1e-10)
    assert frechet(a, a) == pytest.approx(0, abs=1e-12)


def test_frechet_agrees_with_torch_fidelity() -> None:
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    generator = torch.Generator().manual_seed(1)
    a = torch.randn(300, 8, generator=generator, dtype=torch.float64)
    b = torch.randn(400, 8, generator=generator, dtype=torch.float64) * 1.3 + 0.1
    stats = [{"mu": m.mean.numpy(), "sigma": m.covariance.numpy()} for m in (Moments.of(a), Moments.of(b))]
    theirs = fid_statistics_to_metric(*stats, False)["frechet_inception_distance"]
    assert frechet(Moments.of(a), Moments.of(b)) == pytest.approx(theirs, rel=1e-6)


def test_moments_merge_exactly() -> None:
    x = torch.randint(-50, 50, (97, 5)).double()  # whole numbers: sums are exact in any order
    whole, parts = Moments.of(x), Moments.merge(Moments.of(part) for part in x.split([10, 60, 27]))
    assert torch.equal(whole.outer, parts.outer) and torch.equal(whole.total, parts.total)
    assert torch.allclose(whole.covariance, torch.cov(x.T))


def pair(n: int = 400, m: int = 300, d: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    a = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return a, torch.randn(m, d, generator=generator, dtype=torch.float64) * 1.3 + 0.1


@pytest.mark.parametrize("d", [8, 300])
def test_kid_agrees_with_torch_fidelity(d: int) -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    a, b = pair(d=d)
    ours = metrics.kid(a, b, subsets=20, size=100)
    theirs = kid_features_to_metric(a, b, kid_subsets=20, kid_subset_size=100, verbose=False)
    assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert ours["kid_std"] == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-9)
    same = metrics.kid(*pair(8000)[0].split(4000), subsets=50, size=100)
    assert abs(same["kid"]) < same["kid_std"] / 2  # unbiased: about 0 on one population


def test_kid_defaults_are_torch_fidelitys() -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    a, b = pair(1100, 1000, 4)
    theirs = kid_features_to_metric(a, b, verbose=False)
    assert metrics.kid(a, b)["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)


@pytest.mark.parametrize("part", [False, True])
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_precision_and_recall_agree_with_torch_fidelity(
    part: bool, shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    a, b = pair()
    a = a + shift
    theirs = prc_features_to_metric(a, b, verbose=False, save_cpu_ram=part, prc_batch_size=128)
    assert metrics.precision_recall(a, b) == pytest.approx(theirs, abs=1e-7)  # theirs averages in float32
    ours = metrics.precision_recall(a, b, k=5)
    assert ours["precision"] >= theirs["precision"] and ours["recall"] >= theirs["recall"]
    monkeypatch.setattr(metrics, "BLOCK", 1000)
    assert metrics.precision_recall(a, b, k=5) == ours


@pytest.mark.parametrize("first", [0, 2])
def test_weighted_moments_are_those_of_repeated_rows(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole numbers, so sums are exact; about one shift, which the first row is, taken or not."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(-50, 50, (97, 5), generator=draw).double()
    counts = torch.randint(0, 4, (97,), generator=draw)
    counts[0] = first
    monkeypatch.setattr(metrics, "BLOCK", 100)
    ours = Moments.weighted(x, counts)
    plain = Moments.of(x.repeat_interleave(counts, 0)).about(ours.shift)
    assert ours.count == plain.count and torch.equal(ours.outer, plain.outer) and torch.equal(ours.total, plain.total)


def test_bootstrap_agrees_with_the_delta_method() -> None:
    a, b = pair(2000, 4000, 4)
    found, reference = metrics.bootstrap(a, Moments.of(b), replicates=200, seed=3), Moments.of(b)
    assert found.fid == pytest.approx(frechet(Moments.of(a), reference), rel=1e-12)
    assert found.low < found.fid < found.high and found.high - found.low == pytest.approx(2 * 1.96 * found.std)
    mine = Moments.of(a)  # influence of a sample on the distance: the derivative in mean and covariance
    root = torch.linalg.cholesky(reference.covariance)
    values, vectors = torch.linalg.eigh(root.T @ mine.covariance @ root)
    transport = root @ (vectors / values.sqrt()) @ vectors.T @ root.T
    centred = a - mine.mean
    influence = 2 * centred @ (mine.mean - reference.mean)
    influence = influence + ((centred @ (torch.eye(4).double() - transport)) * centred).sum(1)
    assert found.std == pytest.approx((influence.std() / 2000**0.5).item(), rel=0.15)
    assert 0 < found.bias < found.std


def test_bootstrap_replicates_are_seeded_one_by_one() -> None:
    a, b = pair()
    one, two = (metrics.bootstrap(a, Moments.of(b), replicates=5, seed=seed) for seed in (0, 0))
    assert one == two != metrics.bootstrap(a, Moments.of(b), replicates=5, seed=1)


def test_metric_refusals() -> None:
    a, b = pair()
    with pytest.raises(s4s.Error, match="KID on subsets of 1000 needs that many samples, got 400 and 300"):
        metrics.kid(a, b)
    with pytest.raises(s4s.Error, match="more than 3 samples, got 3 and 300"):
        metrics.precision_recall(a[:3], b)
    with pytest.raises(s4s.Error, match="at least 2 replicates"):
        metrics.bootstrap(a, Moments.of(b), replicates=1)
    with pytest.raises(s4s.Error, match="features of 8 and of 5 dimensions"):
        frechet(Moments.of(a), Moments.of(b[:, :5]))
    with pytest.raises(s4s.Error, match="at least two samples"):
        frechet(Moments.of(torch.ones(1, 2).double()), Moments.of(torch.ones(5, 2).double()))


def test_label() -> None:
    assert metrics.fid_label(5000) == "FID@5000" and metrics.fid_label(50_000) == "FID"
